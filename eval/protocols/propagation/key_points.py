"""Videos whose frames have key points, which a file says: what propagation carries on, and is held against.

    {"VIDEO": [[[x, y], null, ...], null, ...], ...}

For each video by its name a list with its frames, for each frame a list with its points, in the same order in all: x to
the right and y down, in pixels of the frame as it is stored; (0, 0) is the outer corner. null in place of a point: it
is not seen; in place of a frame: nothing is known of it.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.video_names import video_names
from eyespot.data_pipeline.terminal import one_line
from eyespot.eval.protocols.propagation.masked_videos import frames_of, rows_of

Point = tuple[float, float] | None
Points = list[list[Point] | None]
"""Of each frame."""
MOST_POINTS = 1000
"""Of a frame."""
FARTHEST = 1e6
"""Pixels from the corner."""
BODY = 0.6
"""Of the diagonal of the box around all points of a frame: what distances are measured by."""
_SHOWN = 60
"""Characters of a name that are said."""


@dataclass(kw_only=True, slots=True)
class _Said:
    """What a file holds."""

    videos: dict[str, Points]


@dataclass(kw_only=True, slots=True)
class PointedVideo:
    """One video: its frames, and where its points are."""

    sample: int
    frames: list[UInt8[np.ndarray, "h w 3"]]
    points: Float64[np.ndarray, "t k 2"]
    """x and y, pixels; nan where a point is not seen."""


def carried(points: Float64[np.ndarray, "t k 2"], size: tuple[int, int]) -> Bool[np.ndarray, " k"]:
    """Which points the first frame, of this height and width, shows."""
    return ((points[0] >= 0) & (points[0] <= size[::-1])).all(1)


def bodies(points: Float64[np.ndarray, "t k 2"]) -> Float64[np.ndarray, " t"]:
    """How large what the points are of is in each frame, pixels: 0 where fewer than two places are seen."""
    low, high = (np.where(np.isnan(points), far, points) for far in (np.inf, -np.inf))
    return np.where(np.isnan(points).all((1, 2)), 0.0, BODY * np.hypot(*(high.max(1) - low.min(1)).T))


def counted(points: Float64[np.ndarray, "t k 2"], size: tuple[int, int]) -> Bool[np.ndarray, "t k"]:
    """Which points of which frames are judged: not the first frame's, and of the others what is seen and carried."""
    found = ~np.isnan(points[..., 0]) & carried(points, size) & (bodies(points) > 0)[:, None]
    found[0] = False
    return found


class PointedVideos:
    """The videos of a shard folder that a file knows the key points of; of several streams the first.

    Args:
        shards: clip shards.
        file: of key points.

    Raises:
        UserError: the shards have no frames; the file is missing, is no such file, or does not fit the shards.
    """

    def __init__(self, shards: ShardFolder, file: Path) -> None:
        self.shards = shards
        self.empty, self.ignored = set[int](), -1  # every video has points to be carried
        if shards.manifest.frames is None:
            raise UserError(
                f"shards {shards.named}: have no frames, and propagate carries points through videos: eyespot shards"
                " pack FRAMES DST --frames folder"
            )
        said, names = _read(file), dict[str, list[int]]()
        for sample, name in enumerate(video_names(shards)):
            names.setdefault(name, []).append(sample)
        self.points: dict[int, Float64[np.ndarray, "t k 2"]] = {}
        for name, points in said.items():
            found = names.get(name, [])
            if len(found) != 1:
                some = ", ".join(_short(known) for known in sorted(names)[:3])
                wrong = f"{len(found)} videos of {shards.named} are" if found else f"no video of {shards.named} is"
                raise UserError(f"--keypoints {file}: {wrong} called {_short(name)}; there are {some}, ...")
            where = f"--keypoints {file}: video {_short(name)}"
            frames = shards.frames[rows_of(shards, found[0])]
            self.points[found[0]] = _checked(where, points, len(frames))
            if not counted(self.points[found[0]], (int(frames["height"][0]), int(frames["width"][0]))).any():
                raise UserError(
                    f"{where}: shows no point in its first frame that is seen later beside another; leave the video out"
                )
        self.ids = sorted(self.points)

    def digest(self) -> str:
        """sha256 of which videos and points these are."""
        frames = self.shards.manifest.frames
        assert frames is not None
        digest = hashlib.sha256((frames.frames_sha256 + frames.clips_sha256).encode())
        for sample in self.ids:
            points = self.points[sample]
            digest.update(f"{sample} {points.shape}".encode() + points.astype("<f8").tobytes())
        return digest.hexdigest()

    def read(self, ids: list[int]) -> Iterator[PointedVideo]:
        """Those of the videos, one after the other.

        Raises:
            UserError: a frame is damaged or missing.
        """
        reader = Reader(self.shards, substitute=False, index=self.shards.frames)
        try:
            for sample in ids:
                frames = frames_of(self.shards, sample, reader)
                yield PointedVideo(sample=sample, frames=frames, points=self.points[sample])
        finally:
            reader.close()


def _read(file: Path) -> dict[str, Points]:
    try:
        said = foreign_json.convert({"videos": foreign_json.read(file, dict)}, _Said, file).videos
    except foreign_json.ForeignJsonError as error:
        raise UserError(
            f'--keypoints {file}: {one_line(error.why)}; it must hold {{"VIDEO": [[[x, y] or null, ...] or null, ...]}}'
        ) from error
    except OSError as error:
        raise UserError(f"--keypoints {file}: cannot be read ({error.strerror}); name a JSON file") from error
    if not said:
        raise UserError(f"--keypoints {file}: holds no videos; it must hold one or more")
    return said


def _checked(where: str, points: Points, num_frames: int) -> Float64[np.ndarray, "t k 2"]:
    """As an array; nan where nothing is known."""
    if len(points) != num_frames:
        raise UserError(f"{where}: has points of {len(points)} frames, and the video {num_frames}; write null for none")
    counts = sorted({len(frame) for frame in points if frame is not None})
    if len(counts) != 1 or not 2 <= counts[0] <= MOST_POINTS:
        said = " and ".join(map(str, counts[:3])) or "no"
        raise UserError(
            f"{where}: has frames of {said} points; all must have as many, 2 to {MOST_POINTS} (null: not seen)"
        )
    found = np.full((num_frames, counts[0], 2), math.nan)
    for number, frame in enumerate(points):
        for place, point in enumerate(frame or ()):
            if point is not None:
                if not all(math.isfinite(value) and abs(value) <= FARTHEST for value in point):
                    raise UserError(
                        f"{where}: point {place} of frame {number} is {point[0]:g}, {point[1]:g}; write pixels, or null"
                    )
                found[number, place] = point
    return found


def _short(name: str) -> str:
    return repr(one_line(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."))
