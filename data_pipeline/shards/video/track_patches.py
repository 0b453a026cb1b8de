"""``eyespot shards tracks``: of each stretch of a clip, the patch that moves, as it begins and as it ends.

Two-frame samples for learning that a patch which was followed is still the same thing (Wang & Gupta 2015,
arXiv:1505.00687). They start where most improved dense trajectories move and follow with KCF; OpenCV 5 has no KCF.
Tried on DAVIS, over 30 frames, share of the true object in the last patch, 33 stretches, standard error 0.05: the
first patch 0.69; a patch that stays 0.54; moved by the median flow in it 0.31, by the median flow of what moves in it
0.53; OpenCV's MIL 0.38 (20 stretches); moved by the flow of what moves, and drawn to what moves around it: 0.67. That
is done here. benchmarks/track_patches.py measures it as it stands: 0.63 of the object in the last patch, 0.54 in one
that stays, a gain of 0.09 (95 %: -0.04 to 0.23, 37 tracks of 20 videos), so it is not shown to be better; nor is it
nearer to where the truth moves the first patch (IoU 0.50 and 0.54). A patch in the middle of the frame has 0.63: who
filmed DAVIS held the camera on the object.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import BadImage, encode_jpeg, opened
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.footage import Footage, FrameSource
from eyespot.data_pipeline.shards.members.items import Item, Source
from eyespot.data_pipeline.shards.members.skipped import Tally
from eyespot.data_pipeline.shards.video.moving_regions import MOVES, MotionFinder, check_installed, gray
from eyespot.data_pipeline.shards.video.stored_clips import clip_folders, clips_of

FRAMES = 30
"""Of a track."""
PATCH = 0.5
"""Sides of a patch, of the frame's short side; about the authors' 227 of 448 pixels."""
PULL = 0.2
"""How far a patch is drawn towards the middle of what moves in it, per frame."""
_FEW, _SLOW = 20, 0.5
"""So few pixels are no region, and such a speed, pixels a frame, no motion."""


@dataclass(frozen=True, slots=True)
class Track(FrameSource):
    """A stretch of a clip, whose patches are found when it is read."""

    frames: tuple[Place, ...]
    """Image files in the order of time; two or more."""
    rate: float
    """Frames per second; 0 = unknown."""

    @property
    def streams(self) -> tuple[str, ...]:
        """One."""
        return ("",)

    @property
    def size(self) -> int:
        """Bytes of the frames that are looked at."""
        return sum(place.size for place in self.frames)

    @property
    def plan(self) -> str:
        """Where its frames lie."""
        return f"{len(self.frames)} {self.frames[0].offset} {self.size} {self.rate} track"

    def read(self) -> Footage:
        """Follows the patch.

        Raises:
            BadImage: nothing moves.
        """
        first, *_, last = followed = follow([gray(place.read()) for place in self.frames])
        patches = [self._patch(place, box) for place, box in ((self.frames[0], first), (self.frames[-1], last))]
        return Footage(rate=self.rate / (len(followed) - 1), frames={"": patches})

    @staticmethod
    def _patch(place: Place, box: tuple[float, float]) -> bytes:
        """What lies in a box whose left upper corner has these shares of the frame's width and height."""
        image = opened(place.read()).convert("RGB")
        side = max(1, round(PATCH * min(image.size)))
        left = min(round(box[0] * image.width), image.width - side)
        top = min(round(box[1] * image.height), image.height - side)
        return encode_jpeg(image.crop((left, top, left + side, top + side)))


def follow(frames: Sequence[np.ndarray]) -> list[tuple[float, float]]:
    """Where the patch that moves most is in each frame: its left upper corner, in shares of width and height.

    Args:
        frames: (H, W) uint8, two or more, in the order of time.

    Raises:
        BadImage: nothing moves in the first ones, or they differ in size.
    """
    if len({frame.shape for frame in frames}) != 1:
        raise BadImage("its frames differ in size")
    finder = MotionFinder()
    height, width = frames[0].shape
    side = max(1, round(PATCH * min(height, width)))
    # Looked for in the second frame, which has a neighbour on either side; from the first one it is a step away.
    x, y = _start(finder.mask(finder.remainder(frames[1], [frames[0], *frames[2:3]])) == MOVES, side)
    found = [(x / width, y / height)]
    for here, there in pairwise(frames):
        flow = finder.flow(here, there)
        own = np.linalg.norm(finder.own_motion(flow), axis=-1)
        right, down = _step(flow, own, round(x), round(y), side)
        x, y = min(max(x + right, 0.0), width - side), min(max(y + down, 0.0), height - side)
        found.append((x / width, y / height))
    return found


def _start(moves: np.ndarray, side: int) -> tuple[float, float]:
    """The square that holds most of what moves; of several, the middle one."""
    if moves.sum() < _FEW:
        raise BadImage("nothing moves by itself")
    sums = np.pad(moves.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    rows, columns = np.nonzero(inside == inside.max())
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return float(columns[middle]), float(rows[middle])


def _step(flow: np.ndarray, own: np.ndarray, x: int, y: int, side: int) -> tuple[float, float]:
    """How far a patch moves until the next frame: right, down, pixels."""
    inside = (slice(y, y + side), slice(x, x + side))
    speeds, flows = own[inside], flow[inside]
    moving = speeds >= max(_SLOW, np.percentile(speeds, 60))
    if moving.sum() <= _FEW:
        right, down = np.median(flows.reshape(-1, 2), 0)
        return float(right), float(down)
    right, down = np.median(flows[moving], 0)
    weights = np.where(speeds > max(_SLOW, np.percentile(own, 90)), speeds, 0)
    if (total := weights.sum()) > 0:
        rows, columns = np.mgrid[:side, :side]
        right += PULL * ((weights * columns).sum() / total - side / 2)
        down += PULL * ((weights * rows).sum() / total - side / 2)
    return float(right), float(down)


def open_tracks(shards: Path, frames: int = FRAMES) -> Source:
    """The stretches of the clips of shards, a track in each; what ``pack`` takes.

    Args:
        shards: a shard folder, or a folder of splits.
        frames: of a stretch; what is left over at the end of a clip is not looked at.

    Raises:
        UserError: there are no clips, or none has so many frames; or OpenCV is not installed.
    """
    check_installed()
    folders = clip_folders(shards)
    first = next(iter(folders.values())).manifest
    splits: dict[str, list[Item]] = {}
    short: dict[str, int] = {}
    for split, folder in folders.items():
        items = splits.setdefault(split, [])
        for clip in clips_of(folder):
            for stream, places in clip.streams.items():
                if len(places) < frames:
                    short[clip.name] = len(places)
                for start in range(0, len(places) - frames + 1, frames):
                    name = f"{clip.name}{'/' * bool(stream)}{stream}/{start}"
                    track = Track(tuple(places[start : start + frames]), clip.rate)
                    items.append(Item(name, clip.label, "", 0, 0, frames=track))
    if not any(splits.values()):
        raise UserError(
            f"frames {frames}: no sample of {shards} has so many; the longest has {max(short.values())}; lower it, or"
            " pack videos with a larger --fps"
        )
    skipped = Tally()
    for name in short:
        skipped.add(f"a sample of fewer than {frames} frames (--frames)", name)
    return Source(name=f"{first.name}-tracks", splits=dict(splits), classes=first.classes, skipped=skipped)
