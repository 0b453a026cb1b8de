"""What protocols of videos need of shards, said from the manifest alone: before a run as after it."""

from typing import Literal

from eyespot.data_pipeline.shards.frames import Frames
from eyespot.data_pipeline.shards.manifest import Manifest
from eyespot.data_pipeline.terminal import plural

OfVideos = Literal["action", "alignment", "order"]
LEAST_ALIGNED = 4
"""Frames of each video that alignment wants: of fewer there is no other time to find."""


def lacking(protocol: OfVideos, manifest: Manifest) -> str:
    """What shards lack that the protocol judges by, in words; empty where they lack nothing."""
    if manifest.frames is None:
        return "have no frames; pack videos, or folders of their frames: eyespot shards pack FRAMES DST --frames folder"
    return _lacking(protocol, manifest.frames, manifest.num_labeled)


def _lacking(protocol: OfVideos, frames: Frames, num_labeled: int) -> str:
    if protocol == "action" and not num_labeled:
        return "have no labels, and action learns from them; pack videos in class folders"
    if protocol == "alignment" and len(frames.streams) < 2:
        return "have one camera (stream), and alignment compares two; pack both: --frames camera"
    if protocol == "alignment" and frames.count[0] < LEAST_ALIGNED:
        return (
            f"have a video of {plural(frames.count[0], 'frame')}, and alignment wants"
            f" {LEAST_ALIGNED} or more; leave it out"
        )
    if protocol == "order" and frames.count[2] < 2:
        return "have videos of a single frame each, and order wants two or more; pack longer ones"
    return ""
