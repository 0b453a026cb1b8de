"""What stands in a shard folder: the fields of ``manifest.json``, the columns of ``index.npy``.

    SHARDS/manifest.json        counts, classes, statistics, sha256 of each tar, what was quarantined
    SHARDS/index.npy            one row per sample; the row number is the sample id
    SHARDS/shard-000000.tar     plain WebDataset
    SHARDS/shard-000000.idx     the tar's index in DALI's wds2idx text format

Where samples have segmentation masks, ``masks.npy`` lies beside (pack_masks.py). A data set with splits is a folder of
shard folders, ``SHARDS/train`` and ``SHARDS/test``. shard_folder.py opens them.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.data_pipeline import atomic_files
from eyespot.data_pipeline.augment.views import Color
from eyespot.data_pipeline.errors import UserError

FORMAT = "eyespot-shards/1"
SPLITS = ("train", "test")

INDEX_DTYPE = np.dtype(
    [
        ("tar", "<u4"),  # which of manifest.shards
        ("offset", "<u8"),  # of the image's bytes inside the tar
        ("size", "<u4"),  # of the image, bytes
        ("crc32", "<u4"),  # of the image's bytes when packed
        ("height", "<u2"),  # pixels
        ("width", "<u2"),  # pixels
        ("label", "<i4"),  # -1 = no label
    ]
)

MASK_DTYPE = np.dtype(
    [
        ("offset", "<u8"),  # of the mask's bytes inside the tar of the sample's image
        ("size", "<u4"),  # of the mask, bytes; 0 = the sample has none
        ("crc32", "<u4"),  # of the mask's bytes when packed
    ]
)
MASK_EXTENSION = "seg.png"
IGNORED = 255
"""The class number of pixels that say nothing, where nobody says otherwise."""


@dataclass(kw_only=True, slots=True)
class Shard:
    """One tar."""

    tar: str
    num_samples: int
    bytes: int
    sha256: str


@dataclass(kw_only=True, slots=True)
class ImageStats:
    """Of all images of the folder. Mean and standard deviation per channel, pixel values in 0..1, RGB."""

    mean: Color
    std: Color
    height: tuple[int, int, int]
    """Minimum, median, maximum, pixels."""
    width: tuple[int, int, int]


@dataclass(kw_only=True, slots=True)
class Masks:
    """Of all segmentation masks of the folder."""

    num_masks: int
    ignored: int
    """The class number of pixels that say nothing."""
    pixels: list[int]
    """Of each class, from 0 on."""
    sha256: str
    """Of masks.npy."""

    @classmethod
    def of(cls, rows: np.ndarray, counts: list[int], ignored: int) -> "Masks":
        """Sums up (num_samples,) rows of MASK_DTYPE, and the pixels of each value 0..255."""
        pixels = [0 if value == ignored else count for value, count in enumerate(counts)]
        num_classes = max((value + 1 for value, count in enumerate(pixels) if count), default=0)
        digest = hashlib.sha256(atomic_files.npy_bytes(rows)).hexdigest()
        num_masks = int((rows["size"] > 0).sum())
        return cls(num_masks=num_masks, ignored=ignored, pixels=pixels[:num_classes], sha256=digest)


@dataclass(kw_only=True, slots=True)
class Manifest:
    """manifest.json of one shard folder."""

    name: str
    num_samples: int
    num_labeled: int
    classes: list[str]
    shards: list[Shard]
    image_stats: ImageStats
    index_sha256: str
    quarantined: list[dict[str, str]] = field(default_factory=list)
    """What could not be packed: {"source": ..., "reason": ...}."""
    converted: dict[str, int] = field(default_factory=dict)
    """How many images were rewritten, by kind: {"cmyk": 3, ...}."""
    packing: dict[str, Any] = field(default_factory=dict)
    """The options the shards were written with."""
    masks: Masks | None = None
    format: str = FORMAT

    @classmethod
    def from_json(cls, content: bytes, file: Path) -> "Manifest":
        """What ``content`` says, which was read from ``file``.

        Raises:
            UserError: it is not JSON, of another format, or lacks a field.
        """
        try:
            fields = json.loads(content.decode("utf-8"))
            if fields.get("format") != FORMAT:
                raise UserError(
                    f"{file}: format {fields.get('format')!r} is not {FORMAT!r}; pack or index the shards again"
                )
            fields["shards"] = [Shard(**shard) for shard in fields["shards"]]
            stats = {name: tuple(values) for name, values in fields["image_stats"].items()}
            masks = Masks(**fields["masks"]) if "masks" in fields else None
            return cls(**{**fields, "image_stats": ImageStats(**stats), "masks": masks})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{file}: not a shard manifest ({error}); make it anew: eyespot shards index {file.parent}"
            ) from error

    def to_json(self) -> str:
        """The file's text: stable, so the same shards have the same manifest hash."""
        fields = asdict(self)
        if self.masks is None:  # as it was before there were masks
            del fields["masks"]
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"
