"""What is to be packed: items that say where their bytes lie, in splits; which of them are held out, in which order."""

import itertools
from abc import abstractmethod
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
from eyespot.data_pipeline.shards.pixels.pixel_sums import sampling

_AT_ONCE = 1 << 16
_MOST_TIMES = 64


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


class Items(Sequence[Item]):
    """Many items that are made when they are asked for (found_files.py)."""

    @abstractmethod
    def taken(self, rows: np.ndarray) -> "Items":
        """Some of its rows, in another order."""

    @abstractmethod
    def with_labels(self, labels: np.ndarray) -> "Items":
        """With others: (n,) int32; -1 = none."""

    @property
    @abstractmethod
    def labels(self) -> np.ndarray:
        """(n,) of the items."""

    @property
    @abstractmethod
    def is_plain(self) -> bool:
        """Whether each is one image without a mask."""


def are_plain(items: Sequence[Item]) -> bool:
    """Whether it is known, without a look at each, that all are images without masks."""
    return isinstance(items, Items) and items.is_plain


def taken(items: Sequence[Item], rows: np.ndarray) -> Sequence[Item]:
    """Some of them, in another order."""
    return items.taken(rows) if isinstance(items, Items) else [items[row] for row in rows.tolist()]


def relabelled(items: Sequence[Item], numbers: Sequence[int]) -> Sequence[Item]:
    """With ``numbers[label]`` for each label; those without stay without."""
    if isinstance(items, Items):
        return items.with_labels(np.array([*numbers, -1], np.int32)[items.labels])
    return [item._replace(label=numbers[item.label]) if item.label >= 0 else item for item in items]


def have_frames(items: Sequence[Item]) -> bool:
    """Whether one is a sample of many."""
    return not are_plain(items) and any(item.frames for item in items)


def sampling_of(items: Sequence[Item]) -> int:
    """Of how many of the images one has its pixels summed; of frames, which lie close by each other, all have."""
    one_in = sampling(len(items))
    return 1 if one_in > 1 and have_frames(items) else one_in


@dataclass(kw_only=True, slots=True)
class Source:
    """Everything that is to be packed."""

    name: str
    splits: dict[str, Sequence[Item]]
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
    fetch: Any = None
    """What brings images to where they can be read (outside/fetching.py); None = they are there."""


def read_item(item: Item) -> bytes:
    """The bytes of an image file; raw pixels come as PNG."""
    data = Place(item.path, item.offset, item.size).read()
    return data if item.shape is None else encode_png(data, item.shape)


def hold_out(items: Sequence[Item], share: float, seed: int) -> tuple[Sequence[Item], Sequence[Item]]:
    """Splits items into (train, test) so that ``share`` of each class lands in test; seeded, order kept.

    Every class of two or more items keeps at least one on either side.
    """
    labels = items.labels if isinstance(items, Items) else np.array([item.label for item in items], np.int64)
    held = np.zeros(len(items), bool)
    priority = shuffled(len(items), seed, "holdout")
    for label in np.unique(labels):
        members = priority[labels[priority] == label]
        count = min(max(round(len(members) * share), 1), len(members) - 1)
        held[members[:count]] = True
    return taken(items, np.flatnonzero(~held)), taken(items, np.flatnonzero(held))


def shuffled(count: int, seed: int, stream: str) -> np.ndarray:
    """A permutation of range(count) that no library's next version changes: sorted by counter-based draws."""
    draws = np.empty((2, count), np.float32)
    for start in range(0, count, _AT_ONCE):  # drawing takes ten times the memory of what is drawn
        ids = np.arange(start, min(start + _AT_ONCE, count))
        draws[:, ids] = uniforms(seed, np.zeros(len(ids), np.int64), ids, stream, 2).T
    order, end = np.empty(count, np.uint32 if count < 2**32 else np.int64), 0
    bounds = np.linspace(0, 1, min(count // _AT_ONCE, _MOST_TIMES) + 2, dtype=np.float32)
    bounds[-1] = np.inf
    for low, high in itertools.pairwise(bounds):  # sorting, too, takes some times the memory of what is sorted
        ids = np.flatnonzero((draws[0] >= low) & (draws[0] < high))
        order[end : end + len(ids)] = ids[np.lexsort((draws[1][ids], draws[0][ids]))]
        end += len(ids)
    return order


def array_items(pixels: np.ndarray, labels: np.ndarray, name: str, spool: Path) -> list[Item]:
    """Writes (N, H, W[, 3]) uint8 pixels into the spool; one item per image."""
    path = spool / f"{name}.raw"
    path.write_bytes(np.ascontiguousarray(pixels, np.uint8).tobytes())
    shape = tuple(pixels.shape[1:])
    size = int(np.prod(shape))
    return [
        Item(f"{name}/{row:06d}", int(label), str(path), row * size, size, shape) for row, label in enumerate(labels)
    ]
