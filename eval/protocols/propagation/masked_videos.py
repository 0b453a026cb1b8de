"""Videos whose frames have masks, read whole from clip shards: what propagation carries on, and is held against."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.shards.image_check import opened
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

BACKGROUND = 0


@dataclass(kw_only=True, slots=True)
class MaskedVideo:
    """One video: its frames, and the masks of those that have one."""

    sample: int
    frames: list[UInt8[np.ndarray, "h w 3"]]
    masks: dict[int, UInt8[np.ndarray, "h w"]]
    """By frame number; the first frame's among them."""
    ignored: int

    @property
    def objects(self) -> list[int]:
        """The numbers that the first mask shows, without the ground and what is ignored."""
        return objects_of(self.masks[0], self.ignored)

    def counted(self) -> list[int]:
        """The frames that are judged: not the first, and the last only where there is no other."""
        known = sorted(self.masks)[1:]
        last = len(self.frames) - 1
        return [frame for frame in known if frame != last] or known


class MaskedVideos:
    """The videos of a shard folder whose first frame and a later one have masks; of several streams the first.

    Whether a first mask shows an object is found out when its video's turn comes: ``empty`` are those seen that show
    none, of which nothing else is read.

    Args:
        shards: clip shards with masks of frames.

    Raises:
        UserError: no clips, no masks of frames, or no video that has two.
    """

    def __init__(self, shards: ShardFolder) -> None:
        self.shards = shards
        if shards.manifest.frames is None or not shards.manifest.frames.masks_sha256:
            raise UserError(
                f"shards {shards.named}: have no masks of frames; propagate carries the first frame's mask through a"
                " video: eyespot shards pack FRAMES DST --frames folder --masks MASKS"
            )
        rows, clips = shards.frame_masks["size"] > 0, shards.clips[:, 0]
        self.ids = [
            sample
            for sample, (first, count) in enumerate(zip(clips["first"].tolist(), clips["count"].tolist(), strict=True))
            if rows[first] and rows[first + 1 : first + count].any()
        ]
        if not self.ids:
            raise UserError(f"shards {shards.named}: no video has masks of its first frame and of a later one")
        self.empty: set[int] = set()
        self.ignored = shards.manifest.masks.ignored if shards.manifest.masks is not None else -1

    def digest(self) -> str:
        """sha256 of which videos and masks these are."""
        frames = self.shards.manifest.frames
        assert frames is not None
        parts = self.shards.manifest.index_sha256, frames.frames_sha256, frames.clips_sha256, frames.masks_sha256
        return hashlib.sha256("\n".join((*parts, str(self.ignored))).encode()).hexdigest()

    def read(self, ids: list[int]) -> Iterator[MaskedVideo]:
        """Those of the videos whose first mask shows an object, one after the other.

        Raises:
            UserError: a frame or a mask is damaged or missing.
        """
        masks, index = self.shards.frame_masks, self.shards.frames.copy()
        frame_reader = Reader(self.shards, substitute=False, index=self.shards.frames)
        for name in ("offset", "size", "crc32"):
            index[name] = masks[name]
        mask_reader = Reader(self.shards, substitute=False, index=index)
        try:
            for sample in ids:
                first = self._masks(sample, mask_reader, last=1)
                if objects_of(first[0], self.ignored):
                    masks, frames = self._masks(sample, mask_reader), frames_of(self.shards, sample, frame_reader)
                    yield MaskedVideo(sample=sample, frames=frames, masks=masks, ignored=self.ignored)
                else:
                    self.empty.add(sample)
        finally:
            frame_reader.close()
            mask_reader.close()

    def _masks(self, sample: int, reader: Reader, last: int | None = None) -> dict[int, UInt8[np.ndarray, "h w"]]:
        """By frame number: all that there are, or those of the first frames."""
        rows = rows_of(self.shards, sample)[:last]
        there = np.flatnonzero(self.shards.frame_masks["size"][rows])
        _, files = reader.start(rows[there]).result()
        return dict(zip(there.tolist(), map(_decoded, files), strict=True))


def objects_of(mask: UInt8[np.ndarray, "h w"], ignored: int) -> list[int]:
    """The numbers that a mask shows, without the ground and what is ignored."""
    return [number for number in np.unique(mask).tolist() if number not in (BACKGROUND, ignored)]


def rows_of(shards: ShardFolder, sample: int) -> Int64[np.ndarray, " n"]:
    """Where the frames of a video's first stream stand among all frames."""
    clip = shards.clips[sample, 0]
    return int(clip["first"]) + np.arange(int(clip["count"]))


def frames_of(shards: ShardFolder, sample: int, reader: Reader) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The frames of a video's first stream.

    Args:
        shards: clip shards.
        sample: which video.
        reader: of their frames.

    Raises:
        UserError: a frame is damaged or missing.
    """
    _, files = reader.start(rows_of(shards, sample)).result()
    return [np.asarray(opened(file).convert("RGB")) for file in files]


def _decoded(file: bytearray) -> UInt8[np.ndarray, "h w"]:
    return np.asarray(Image.open(io.BytesIO(file), formats=("PNG",)))
