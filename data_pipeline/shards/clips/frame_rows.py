"""Collects the rows of the tables of frames, sample by sample."""

from collections.abc import Sequence

import numpy as np

from eyespot.data_pipeline.shards.frames import CLIP_DTYPE, MOTION_DTYPE, FrameTables
from eyespot.data_pipeline.shards.image_check import ExaminedClip
from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE, MASK_DTYPE

Row = tuple[int, ...]


class FrameRows:
    """Tables that grow; all samples have the same streams."""

    def __init__(self) -> None:
        self._streams: tuple[str, ...] = ()
        self._rows: list[Row] = []
        self._masks: list[Row] = []
        self._motion: list[float] = []
        self._clips: list[list[tuple[int, int, float]]] = []

    def add(self, clip: ExaminedClip, rows: Sequence[Row], masks: Sequence[Row]) -> None:
        """One more sample.

        Args:
            clip: its frames.
            rows: of INDEX_DTYPE, one for each.
            masks: of MASK_DTYPE, one for each.
        """
        assert not self._clips or self._streams == clip.streams, "one table serves all samples"
        count, first = len(clip.frames) // len(clip.streams), len(self._rows)
        self._streams = clip.streams
        self._rows += rows
        self._masks += masks
        self._motion += clip.motion
        self._clips.append([(first + place * count, count, clip.rate) for place in range(len(clip.streams))])

    def tables(self) -> FrameTables | None:
        """Of all samples; None = there were none."""
        if not self._clips:
            return None
        return FrameTables(
            streams=self._streams,
            rows=np.array(self._rows, INDEX_DTYPE),
            clips=np.array(self._clips, CLIP_DTYPE),
            motion=np.array(self._motion, MOTION_DTYPE),
            masks=np.array(self._masks, MASK_DTYPE),
        )
