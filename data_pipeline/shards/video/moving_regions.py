"""What moves in a video by itself, found without labels: dense optical flow minus the motion of the camera.

The flow is DIS (Kroeger 2016, arXiv:1603.03590); the camera's motion is the homography that most of it obeys (RANSAC).
What is left over is large where things move, and also where they cover or uncover something. That shows towards one
neighbour only, so of the neighbour before and the one behind the smaller remainder counts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import BadImage, opened, shrunk_size

SIDE = 240
"""Pixels of the short side on which motion is looked for; larger frames are shrunk."""
STEP = 12
"""Pixels between the points to which the camera's motion is fitted."""
INLIER = 2.0
"""Pixels by which such a point may miss."""
STILL = 0.3
"""Pixels: where not a hundredth of the frame moves so much, nothing does."""
CERTAIN = 0.7, 1.4
"""Times the threshold: what lies between is uncertain. Otsu's threshold itself is 1."""
MOVES, RESTS, UNCERTAIN = 1, 0, 255
"""Values of a mask."""
_FEW_POINTS = 9
"""Eight numbers describe a homography, and four points fit any."""
_SMALLEST = 16
"""Pixels of a side; DIS finds no flow in less."""


def check_installed() -> None:
    """Whether motion can be found here.

    Raises:
        UserError: OpenCV is not installed.
    """
    try:
        import cv2  # noqa: F401
    except ImportError:
        raise UserError("motion is found with OpenCV, which is not installed: pip install 'eyespot[video]'") from None


def gray(data: bytes) -> np.ndarray:
    """(H, W) uint8 of an image file, shrunk to ``SIDE`` pixels.

    Raises:
        BadImage: it is none, or a damaged one.
    """
    try:
        image = opened(data).convert("L")
    except Exception as error:  # hostile bytes make PIL raise almost anything
        raise BadImage("a frame is no whole image") from error
    return np.asarray(image.resize(shrunk_size(image.size, SIDE), Image.Resampling.BOX))


class MotionFinder:
    """Finds what moves between frames; one for a thread."""

    def __init__(self) -> None:
        import cv2

        cv2.setNumThreads(1)  # packing has a process for each core
        self._cv2: Any = cv2
        self._dis = self._cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def flow(self, here: np.ndarray, there: np.ndarray) -> np.ndarray:
        """(H, W, 2) pixels right and down from what (H, W) uint8 ``here`` shows to where it is in ``there``."""
        if min(here.shape) < _SMALLEST:
            return np.zeros((*here.shape, 2), np.float32)
        return self._dis.calc(here, there, None)

    def own_motion(self, flow: np.ndarray) -> np.ndarray:
        """(H, W, 2): a flow without what the camera's motion explains of it."""
        height, width = flow.shape[:2]
        rows, columns = np.mgrid[STEP // 3 : height : STEP, STEP // 3 : width : STEP].reshape(2, -1)
        points = np.stack([columns, rows], 1).astype(np.float32)
        if len(points) < _FEW_POINTS:
            return flow
        matrix, _ = self._cv2.findHomography(points, points + flow[rows, columns], self._cv2.RANSAC, INLIER)
        if matrix is None:  # no motion that many points share
            return flow
        down, right = np.mgrid[:height, :width].astype(np.float32)
        grid = np.stack([right, down], -1)
        return flow - (self._cv2.perspectiveTransform(grid.reshape(-1, 1, 2), matrix).reshape(grid.shape) - grid)

    def remainder(self, here: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
        """(H, W) pixels by which things move against the camera, towards that of the other frames where it is least."""
        found = [np.linalg.norm(self.own_motion(self.flow(here, other)), axis=-1) for other in others]
        return np.minimum.reduce(found)

    def mask(self, remainder: np.ndarray) -> np.ndarray:
        """(H, W) uint8: ``MOVES``, ``RESTS``, or ``UNCERTAIN``, by Otsu's threshold."""
        most = float(np.percentile(remainder, 99))
        if most < STILL:
            return np.full(remainder.shape, UNCERTAIN, np.uint8)
        levels = np.clip(remainder * (255 / most), 0, 255).astype(np.uint8)
        threshold, _ = self._cv2.threshold(levels, 0, 1, self._cv2.THRESH_OTSU)
        low, high = (factor * threshold * most / 255 for factor in CERTAIN)
        mask = np.where(remainder > high, MOVES, np.where(remainder < low, RESTS, UNCERTAIN))
        return mask.astype(np.uint8)
