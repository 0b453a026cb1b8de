"""What stands in a shard folder: ``manifest.json`` and ``index.npy``, and how to find and read them.

    SHARDS/manifest.json        counts, classes, statistics, sha256 of each tar, what was quarantined
    SHARDS/index.npy            one row per sample; the row number is the sample id
    SHARDS/shard-000000.tar     plain WebDataset
    SHARDS/shard-000000.idx     the tar's index in DALI's wds2idx text format

Where samples have segmentation masks, ``masks.npy`` lies beside (masks.py). A data set with splits is a folder of shard
folders, ``SHARDS/train`` and ``SHARDS/test``.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.data_pipeline import atomic_files as atomic
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
        digest = hashlib.sha256(atomic.npy_bytes(rows)).hexdigest()
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

    def to_json(self) -> str:
        """The file's text: stable, so the same shards have the same manifest hash."""
        fields = asdict(self)
        if self.masks is None:  # as it was before there were masks
            del fields["masks"]
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


def find_shards(path: Path | str, split: str = "train") -> Path:
    """The shard folder that ``path`` names: itself, or its subfolder ``split``.

    Raises:
        UserError: there is no shard folder there.
    """
    path = Path(path)
    for folder in (path, path / split):
        if (folder / "manifest.json").is_file():
            return folder
    if not path.is_dir():
        raise UserError(f"shards {path}: no such folder; make one with: eyespot shards pack SRC {path}")
    raise UserError(f"shards {path}: no manifest.json inside; make one with: eyespot shards index {path}")


def read_manifest(folder: Path | str) -> Manifest:
    """Reads and checks ``manifest.json``.

    Raises:
        UserError: it is missing, not JSON, of another format, or lacks a field.
    """
    path = Path(folder) / "manifest.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.get("format") != FORMAT:
            raise UserError(
                f"{path}: format {fields.get('format')!r} is not {FORMAT!r}; pack or index the shards again"
            )
        fields["shards"] = [Shard(**shard) for shard in fields["shards"]]
        stats = {name: tuple(values) for name, values in fields["image_stats"].items()}
        masks = Masks(**fields["masks"]) if "masks" in fields else None
        return Manifest(**{**fields, "image_stats": ImageStats(**stats), "masks": masks})
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; make it with: eyespot shards index {folder}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a shard manifest ({error}); make it anew: eyespot shards index {folder}"
        ) from error


def read_index(folder: Path | str, manifest: Manifest) -> np.ndarray:
    """Memory-maps ``index.npy``: (num_samples,) of INDEX_DTYPE, shared by all processes of a machine.

    Its bytes are hashed once (about a second for 30 million samples): the loader relies on every number in it.

    Raises:
        UserError: it is missing, damaged, or does not agree with the manifest.
    """
    return _read_rows(Path(folder) / "index.npy", INDEX_DTYPE, manifest.num_samples, manifest.index_sha256)


def read_masks(folder: Path | str, manifest: Manifest) -> np.ndarray:
    """Memory-maps ``masks.npy``: (num_samples,) of MASK_DTYPE.

    Raises:
        UserError: the shards have no masks, or it is missing, damaged, or does not agree with the manifest.
    """
    if manifest.masks is None:
        raise UserError(
            f"shards {folder}: have no segmentation masks; pack images with theirs:"
            f" eyespot shards pack IMAGES DST --masks MASKS"
        )
    return _read_rows(Path(folder) / "masks.npy", MASK_DTYPE, manifest.num_samples, manifest.masks.sha256)


def _read_rows(path: Path, dtype: np.dtype, count: int, sha256: str) -> np.ndarray:
    again = f"make it anew: eyespot shards index {path.parent}"
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: unreadable ({error}); {again}") from error
    if rows.dtype != dtype or rows.shape != (count,):
        raise UserError(f"{path}: {rows.shape} rows of {rows.dtype} where the manifest says {count} samples; {again}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise UserError(f"{path}: changed since it was written (sha256 is not the manifest's); {again}")
    return rows
