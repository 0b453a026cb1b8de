"""Samples of many frames: a video is images one after another, and three tables say where each lies.

    KEY.000.jpg, KEY.001.jpg ..    the frames of a sample; KEY.left.000.jpg those of its camera (its stream) "left"
    KEY.000.seg.png                the mask of that frame, where it has one
    KEY.flac                       the sound of the video, where it was kept; members/flac.npy says where it lies
    SHARDS/frames.npy              one row per frame, of index.npy's columns: a sample's streams one after the other,
                                   sorted by name, each in the order of time
    SHARDS/clips.npy               one row per sample, one column per stream: first row of frames.npy, count, rate
    SHARDS/motion.npy              per frame, how much changes until the next one of its stream; 0 at the last
    SHARDS/frame_masks.npy         one row per frame, where frames have masks: where its mask lies
    manifest.json, "frames"        how many there are, the streams, rates and counts, sha256 of the tables

index.npy and masks.npy point at the first frame of each sample's first stream: to whatever knows no clips these are
shards of images. All frames of a sample are of one size, and all its streams have as many. Shards of images have none
of these tables. members/footage.py says how frames come to be packed.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le, Len

from eyespot.data_pipeline import atomic_files
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges

CLIP_DTYPE = np.dtype(
    [
        ("first", "<u8"),  # row of frames.npy
        ("count", "<u4"),  # frames
        ("rate", "<f4"),  # frames per second; 0 = unknown
    ]
)
MOTION_DTYPE = np.dtype("<f4")
"""Mean absolute difference of luma to the next frame, levels 0..255."""
FASTEST = 1e6
"""Frames per second; beyond, a rate is a mistake."""
STREAM = re.compile(r"(?!\d+$)[a-z0-9_-]{1,32}")
"""How a stream may be called: its name stands between dots, where numbers are those of frames."""

FRAMES, CLIPS, MOTION, FRAME_MASKS = "frames.npy", "clips.npy", "motion.npy", "frame_masks.npy"

FrameNames = Literal["dot", "folder", "camera", "underscore", "none"]
"""How frames of one sample are called (members/frame_names.py); none = each image is a sample."""
Rate = Annotated[float, Ge(0), Le(FASTEST)]
Frames3 = Annotated[int, Ge(1), Le(2**32 - 1)]


@dataclass(kw_only=True, slots=True)
class Frames:
    """Of all frames of a shard folder."""

    num_frames: Annotated[int, Ge(1), Le(2**63 - 1)]
    streams: Annotated[tuple[str, ...], Len(1, 1000)] = ("",)
    """Cameras, sorted; one without a name is the only one."""
    rate: tuple[Rate, Rate, Rate]
    """Minimum, median, maximum, frames per second; 0 = unknown."""
    count: tuple[Frames3, Frames3, Frames3]
    """Of the frames of a sample's stream: minimum, median, maximum."""
    frames_sha256: str
    clips_sha256: str
    motion_sha256: str
    masks_sha256: str = ""
    """Of frame_masks.npy; empty = no frame has a mask."""

    def __post_init__(self) -> None:
        check_ranges(self, "frames.")
        if list(self.streams) != sorted(set(self.streams)):
            raise UserError(f"frames.streams {str(self.streams)[:80]}: must be sorted, each there once")
        wrong = [name for name in self.streams if not is_stream(name) and len(self.streams) + bool(name) > 1]
        if wrong:
            raise UserError(
                f"frames.streams: {wrong[0][:40]!r} is no name of a stream (small letters, digits, _ and -)"
            )


@dataclass(kw_only=True, slots=True)
class FrameTables:
    """The tables of some samples."""

    streams: tuple[str, ...]
    rows: np.ndarray
    """(num_frames,) of INDEX_DTYPE."""
    clips: np.ndarray
    """(num_samples, num_streams) of CLIP_DTYPE."""
    motion: np.ndarray
    """(num_frames,) of MOTION_DTYPE."""
    masks: np.ndarray
    """(num_frames,) of MASK_DTYPE; sizes of 0 = none."""

    @classmethod
    def joined(cls, parts: Sequence["FrameTables"]) -> "FrameTables":
        """Those of samples that follow each other."""
        clips, before = [], 0
        for part in parts:
            moved = part.clips.copy()
            moved["first"] += np.uint64(before)
            clips.append(moved)
            before += len(part.rows)
        return cls(
            streams=parts[0].streams,
            rows=np.concatenate([part.rows for part in parts]),
            clips=np.concatenate(clips),
            motion=np.concatenate([part.motion for part in parts]),
            masks=np.concatenate([part.masks for part in parts]),
        )

    @property
    def has_masks(self) -> bool:
        """Whether any frame has one."""
        return bool(self.masks["size"].any())

    def files(self) -> dict[str, bytes]:
        """The tables' names and bytes."""
        tables = {FRAMES: self.rows, CLIPS: self.clips, MOTION: self.motion}
        if self.has_masks:
            tables[FRAME_MASKS] = self.masks
        return {name: atomic_files.npy_bytes(table) for name, table in tables.items()}

    def summary(self, files: dict[str, bytes]) -> Frames:
        """Their lines in the manifest."""
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        rates, counts = self.clips["rate"], self.clips["count"]
        return Frames(
            num_frames=len(self.rows),
            streams=self.streams,
            rate=(float(rates.min()), float(np.median(rates)), float(rates.max())),
            count=(int(counts.min()), int(np.median(counts)), int(counts.max())),
            frames_sha256=digests[FRAMES],
            clips_sha256=digests[CLIPS],
            motion_sha256=digests[MOTION],
            masks_sha256=digests.get(FRAME_MASKS, ""),
        )


def is_stream(name: str) -> bool:
    """Whether a stream may be called so."""
    return STREAM.fullmatch(name) is not None and name not in ("seg", "cls", "json")


def frame_names(streams: Sequence[str], count: int) -> list[str]:
    """What stands between the key and the suffix of each frame: ``left.007``, stream after stream.

    Args:
        streams: their names.
        count: frames of each; the numbers have three digits, or as many as the largest needs, so that their order as
            text is that of time.
    """
    digits = max(3, len(str(count - 1)))
    return [f"{stream}.{n:0{digits}d}" if stream else f"{n:0{digits}d}" for stream in streams for n in range(count)]


def motion_of(luma: np.ndarray, following: np.ndarray) -> float:
    """Mean absolute difference of two frames of one size: (H, W) uint8, levels 0..255."""
    difference = np.abs(luma.astype(np.int16) - following)
    return float(difference.mean(dtype=np.float64))


def wrong_clips(clips: np.ndarray, num_frames: int) -> tuple[str, np.ndarray, str] | None:
    """Column, rows and reason of what cannot be in ``clips.npy``; None = nothing.

    Args:
        clips: (num_samples, num_streams) of CLIP_DTYPE.
        num_frames: rows of ``frames.npy``, all of which belong to one clip each, in order.
    """
    counts = clips["count"].ravel().astype(np.uint64)
    ends = np.cumsum(counts)
    expected = (ends - counts).reshape(clips.shape)
    rules: tuple[tuple[str, Any, str], ...] = (
        ("count", (clips["count"] == 0).any(1), "no clip is so short"),
        ("count", (clips["count"] != clips["count"][:, :1]).any(1), "its streams differ in length"),
        ("count", ends.reshape(clips.shape)[:, -1] > num_frames, f"the manifest lists {num_frames} frames"),
        ("first", (clips["first"] != expected).any(1), "the frames before it end elsewhere"),
        ("rate", ~((clips["rate"] >= 0) & (clips["rate"] <= FASTEST)).all(1), "no rate is so large, or below 0"),
    )
    for column, wrong, why in rules:
        if wrong.any():
            return column, np.asarray(wrong), why
    if int(ends[-1]) != num_frames:
        return "count", np.arange(len(clips)) == len(clips) - 1, f"of {num_frames} frames some belong to no sample"
    return None
