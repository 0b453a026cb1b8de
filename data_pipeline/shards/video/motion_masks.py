"""``eyespot shards motion``: beside each frame of a clip, a mask of what moves by itself.

    KEY.007.seg.png    1 where things move against the camera, 0 where they rest, 255 where that is uncertain

Pseudo-labels for learning to segment from a single frame what would move (Pathak 2017, arXiv:1612.06370, who made
theirs with uNLC; these are the simpler ones of moving_regions.py). benchmarks/motion_masks.py says how good they are.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from eyespot.data_pipeline.shards.image_check import encode_png, opened
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.footage import Footage, FrameSource
from eyespot.data_pipeline.shards.members.items import Item, Source
from eyespot.data_pipeline.shards.video.moving_regions import UNCERTAIN, MotionFinder, check_installed, gray
from eyespot.data_pipeline.shards.video.stored_clips import StoredClip, clip_folders, clips_of

SECONDS = 1 / 24
"""Between the frames whose flow is looked at; more, and things are where the flow does not find them."""


@dataclass(frozen=True, slots=True)
class MaskedClip(FrameSource):
    """A clip whose masks are made when it is read."""

    clip: StoredClip

    @property
    def streams(self) -> tuple[str, ...]:
        """Its cameras."""
        return tuple(self.clip.streams)

    @property
    def size(self) -> int:
        """Bytes of its frames."""
        return sum(place.size for place in self.places)

    @property
    def places(self) -> Sequence[Place]:
        """Of its frames."""
        return [place for places in self.clip.streams.values() for place in places]

    @property
    def plan(self) -> str:
        """Where its frames lie."""
        counts = [len(places) for places in self.clip.streams.values()]
        return f"{self.streams} {counts} {self.size} {self.clip.rate} motion"

    @property
    def has_masks(self) -> bool:
        """It has."""
        return True

    def read(self) -> Footage:
        """Reads frames when they are asked for, and makes their masks."""
        streams = self.clip.streams
        return Footage(
            rate=self.clip.rate,
            frames={name: map(Place.read, places) for name, places in streams.items()},
            masks={name: masks(map(Place.read, places), self.clip.rate) for name, places in streams.items()},
        )


def masks(frames: Iterable[bytes], rate: float) -> Iterator[bytes]:
    """The mask of each frame, 8-bit gray PNG of its size.

    Args:
        frames: image files in the order of time.
        rate: frames per second; 0 = unknown.
    """
    gap = max(1, round(rate * SECONDS))
    finder = MotionFinder()
    seen: deque[tuple[np.ndarray, tuple[int, int]]] = deque()  # up to 2 gap + 1 frames, of which one is due
    due = 0
    for data in frames:
        seen.append((gray(data), _size(data)))
        if len(seen) > 2 * gap + 1:
            seen.popleft()
            due -= 1
        if len(seen) > due + gap:
            yield _mask(finder, seen, due, gap)
            due += 1
    while due < len(seen):
        yield _mask(finder, seen, due, gap)
        due += 1


def _mask(finder: MotionFinder, seen: deque[tuple[np.ndarray, tuple[int, int]]], due: int, gap: int) -> bytes:
    here, (width, height) = seen[due]
    others = [seen[place][0] for place in (due - gap, due + gap) if 0 <= place < len(seen)]
    others = [other for other in others if other.shape == here.shape]
    mask = np.full(here.shape, UNCERTAIN, np.uint8)
    if others:
        mask = finder.mask(finder.remainder(here, others))
    full = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    return encode_png(full.tobytes(), full.shape)


def _size(data: bytes) -> tuple[int, int]:
    return opened(data).size


def open_masked(shards: Path) -> Source:
    """The clips of shards, with masks of what moves in them; what ``pack`` takes.

    Raises:
        UserError: there are no clips, or OpenCV is not installed.
    """
    check_installed()
    folders = clip_folders(shards)
    first = next(iter(folders.values())).manifest
    splits = {
        split: [Item(clip.name, clip.label, "", 0, 0, frames=MaskedClip(clip)) for clip in clips_of(folder)]
        for split, folder in folders.items()
    }
    return Source(name=f"{first.name}-motion", splits=dict(splits), classes=first.classes)
