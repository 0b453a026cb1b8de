"""What is to be packed: items that say where their bytes lie, in splits; which of them are held out, in which order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eyespot.data_pipeline.random_numbers import uniforms
from eyespot.data_pipeline.shards.image_check import encode_png
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.footage import FrameSource
from eyespot.data_pipeline.shards.members.side_files import Beside
from eyespot.data_pipeline.shards.members.skipped import Tally


class Item(NamedTuple):
    """One image of the source and where its bytes lie."""

    name: str
    """Its path inside the source; ends up in the shards so that a sample can be traced back."""
    label: int
    """Index into the source's classes; -1 = none."""
    path: str
    """The file that holds the bytes."""
    offset: int
    size: int
    """Bytes."""
    shape: tuple[int, ...] | None = None
    """(H, W) or (H, W, 3) where the bytes are raw pixels; None = an image file."""
    mask: Place | None = None
    """Of its segmentation mask."""
    frames: FrameSource | None = None
    """Where the sample is many images one after another, a video (members/footage.py); ``path`` may then be empty."""

    members: Beside = ()
    """What else belongs to it, by extension: captions, for instance."""

    @property
    def has_masks(self) -> bool:
        """Whether there may be one."""
        return self.mask is not None or (self.frames is not None and self.frames.has_masks)


@dataclass(kw_only=True, slots=True)
class Source:
    """Everything that is to be packed."""

    name: str
    splits: dict[str, list[Item]]
    """By split; the only key is "" where the source has no splits. Items are sorted by name."""
    classes: list[str] = field(default_factory=list)
    skipped: Tally = field(default_factory=Tally)
    """Files that are not named like images, or lie outside the split folders."""
    notes: list[str] = field(default_factory=list)
    """What to tell of how it was understood, a line each."""
    options: dict[str, Any] = field(default_factory=dict)
    """What was asked for in making it; goes into the manifest, beside what packing was asked for."""
    prepare: "Callable[[Source], None] | None" = None
    """What turns its items into those that are packed, as decoding does; done once it is known that they are not packed
    yet, and after some were held out."""


def read_item(item: Item) -> bytes:
    """The bytes of an image file; raw pixels come as PNG."""
    data = Place(item.path, item.offset, item.size).read()
    return data if item.shape is None else encode_png(data, item.shape)


def hold_out(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Splits items into (train, test) so that ``share`` of each class lands in test; seeded, order kept.

    Every class of two or more items keeps at least one on either side.
    """
    labels = np.array([item.label for item in items], np.int64)
    held = np.zeros(len(items), bool)
    priority = shuffled(len(items), seed, "holdout")
    for label in np.unique(labels):
        members = priority[labels[priority] == label]
        count = min(max(round(len(members) * share), 1), len(members) - 1)
        held[members[:count]] = True
    return (
        [item for item, out in zip(items, held, strict=True) if not out],
        [item for item, out in zip(items, held, strict=True) if out],
    )


def shuffled(count: int, seed: int, stream: str) -> np.ndarray:
    """A permutation of range(count) that no library's next version changes: sorted by counter-based draws."""
    draws = uniforms(seed, np.zeros(count, np.int64), np.arange(count), stream, 2)
    return np.lexsort((draws[:, 1], draws[:, 0]))


def array_items(pixels: np.ndarray, labels: np.ndarray, name: str, spool: Path) -> list[Item]:
    """Writes (N, H, W[, 3]) uint8 pixels into the spool; one item per image."""
    path = spool / f"{name}.raw"
    path.write_bytes(np.ascontiguousarray(pixels, np.uint8).tobytes())
    shape = tuple(pixels.shape[1:])
    size = int(np.prod(shape))
    return [
        Item(f"{name}/{row:06d}", int(label), str(path), row * size, size, shape) for row, label in enumerate(labels)
    ]
