"""What stands in a shard folder: the fields of ``manifest.json``, the columns of ``index.npy``.

    SHARDS/manifest.json        counts, classes, statistics, sha256 of each tar, what was quarantined
    SHARDS/index.npy            one row per sample; the row number is the sample id
    SHARDS/shard-000000.tar     plain WebDataset
    SHARDS/shard-000000.idx     the tar's index in DALI's wds2idx text format

Of many million samples it is format 2: no process reads all of the index, nor a list of all tars as text (paged/).

    SHARDS/index/000000.npy     a million rows; 000001.npy has those behind them
    SHARDS/index/pages.npy      sha256 of each 4,096 of them, which is checked when one of these is asked for
    SHARDS/shards.npy           what format 1 has in the manifest's list of tars

Where samples have segmentation masks, ``masks.npy`` lies beside (pack_masks.py); where they have many frames, or
captions, further tables (frames.py, members/member_tables.py). A data set with splits is a folder of shard folders,
``SHARDS/train`` and ``SHARDS/test``. shard_folder.py opens them.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le

from eyespot.data_pipeline import atomic_files, foreign_json
from eyespot.data_pipeline.augment.views import Color
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.shards.bands.stored_bands import Bands
from eyespot.data_pipeline.shards.frames import FrameNames, Frames, Rate
from eyespot.data_pipeline.shards.pixels.pixel_sums import is_sampled
from eyespot.data_pipeline.stores.location import Location
from eyespot.data_pipeline.terminal import plural

FORMAT = "eyespot-shards/1"
PAGED_FORMAT = "eyespot-shards/2"
BANDS_FORMAT, PAGED_BANDS_FORMAT = "eyespot-shards/3", "eyespot-shards/4"
"""The same two, of images that are not 8-bit RGB: whoever does not know of bands must not read them as pictures."""
FORMATS = (FORMAT, PAGED_FORMAT, BANDS_FORMAT, PAGED_BANDS_FORMAT)


def format_of(bands: Bands | None, *, paged: bool = False) -> str:
    """Of a folder of such images, whose index is in pieces or not."""
    return FORMATS[2 * (bands is not None) + paged]


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
Count = Annotated[int, Ge(0), Le(2**63 - 1)]
Side = Annotated[int, Ge(1), Le(2**16 - 1)]
MAX_SAMPLES = 2**32 - 1
"""Ids are counted with 32 bits."""
LONGEST_NAME = 255
"""Bytes of a file's name."""

IGNORED = 255
"""The class number of pixels that say nothing, where nobody says otherwise."""
MOST_QUARANTINED = 100_000
"""So many are named one by one; those beyond are counted by reason, with the skipped ones."""


@dataclass(kw_only=True, slots=True)
class Shard:
    """One tar."""

    tar: str
    """The name of a file beside the manifest, which may be a link to where it lies."""
    num_samples: Count
    bytes: Count
    sha256: str

    def __post_init__(self) -> None:
        check_ranges(self)
        try:
            plain = Path(self.tar).name == self.tar != ".." and len(os.fsencode(self.tar)) <= LONGEST_NAME
        except UnicodeEncodeError:
            plain = False
        if not plain or not self.tar or "\0" in self.tar:
            raise UserError(f"tar {self.tar[:40]!r}: must be the name of a file in this folder")


@dataclass(kw_only=True, slots=True)
class ImageStats:
    """Of all images of the folder. Mean and standard deviation per channel, pixel values in 0..1: RGB, or bands."""

    mean: Color
    std: Color
    height: tuple[Side, Side, Side]
    """Minimum, median, maximum, pixels."""
    width: tuple[Side, Side, Side]
    one_in: Annotated[int, Ge(1), Le(2**31)] = 1
    """Mean and deviation are those of a sample, one in so many images: of each whose crc32 it divides. 1 = of all."""

    def __post_init__(self) -> None:
        check_ranges(self, "image_stats.")
        for name in ("mean", "std"):
            if not all(0 <= value <= 1 for value in getattr(self, name)):
                raise UserError(f"image_stats.{name} {getattr(self, name)}: each must lie between 0 and 1")


@dataclass(kw_only=True, slots=True)
class Masks:
    """Of all segmentation masks of the folder."""

    num_masks: Count
    ignored: Annotated[int, Ge(0), Le(255)]
    """The class number of pixels that say nothing."""
    pixels: list[int]
    """Of each class, from 0 on."""
    sha256: str
    """Of masks.npy."""

    def __post_init__(self) -> None:
        check_ranges(self, "masks.")
        if len(self.pixels) > 256 or min(self.pixels, default=0) < 0:
            raise UserError("masks.pixels: must be counts, of at most 256 classes")

    @classmethod
    def of(cls, rows: np.ndarray, counts: list[int], ignored: int) -> "Masks":
        """Sums up (num_samples,) rows of MASK_DTYPE, and the pixels of each value 0..255."""
        pixels = [0 if value == ignored else count for value, count in enumerate(counts)]
        num_classes = max((value + 1 for value, count in enumerate(pixels) if count), default=0)
        digest = hashlib.sha256(atomic_files.npy_bytes(rows)).hexdigest()
        num_masks = int((rows["size"] > 0).sum())
        return cls(num_masks=num_masks, ignored=ignored, pixels=pixels[:num_classes], sha256=digest)


@dataclass(kw_only=True, slots=True)
class Members:
    """Of all members of one extension, such as txt (members/member_tables.py)."""

    count: Count
    """Samples that have one."""
    sha256: str
    """Of the table."""
    num_left_out: Count = 0
    """Those that cannot be used; their samples have none."""
    left_out: list[dict[str, str]] = field(default_factory=list)
    """These, up to MOST_QUARANTINED: {"source": ..., "reason": ...}; the source is the sample's."""

    def __post_init__(self) -> None:
        check_ranges(self, "members.")
        if odd := [bad for bad in self.left_out if not {"source", "reason"} <= bad.keys()]:
            raise UserError(f"members.left_out: {str(odd[0])[:LONGEST_NAME]} lacks source or reason")


def member_file(extension: str) -> str:
    """The name of the table of that extension's members, inside the shard folder."""
    return f"members/{extension}.npy"


@dataclass(kw_only=True, slots=True)
class Skipped:
    """Files or members that were left out for one reason."""

    reason: str
    count: Count
    examples: list[str] = field(default_factory=list)
    """The first few, by name."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How the members of foreign tars become samples, where that can be understood in several ways."""

    key: Literal["first-dot", "last-dot"] | None = None
    """What members of one sample share: their name up to its first dot, or up to its last; None = the first."""
    image_extension: tuple[str, ...] = ()
    """What follows the key in an image's name, best first; () = whatever ends like an image."""
    label_extension: str = "cls"
    """What follows the key in a label's name."""
    class_folder: Literal["top", "last"] = "top"
    """Which folder is the class, where folders lie in folders: a or abbey in a/abbey/1.jpg."""
    frames: FrameNames | None = None
    """Which images are the frames of one sample; None = those of tars that can be nothing else, called as with dot."""
    rate: Rate | None = None
    """Frames per second, where the files do not say."""
    bands: Bands | None = None
    """What images are, arrays among them; None = 8-bit RGB."""

    def __post_init__(self) -> None:
        check_ranges(self)
        given = [name for text in self.image_extension for name in text.split(",")]
        object.__setattr__(self, "image_extension", tuple(name.strip().lstrip(".").lower() for name in given))
        object.__setattr__(self, "label_extension", self.label_extension.strip().lstrip(".").lower())


BEFORE_READINGS = Reading(class_folder="last")
"""How tars were read whose manifest does not say."""


@dataclass(kw_only=True, slots=True)
class Pieces:
    """Of format 2: how the index is cut, and what the tables beside it hold."""

    samples: list[int]
    """Rows of index/000000.npy, of index/000001.npy, and so on."""
    page_rows: Annotated[int, Ge(1), Le(2**20)]
    """Rows of a page: from the first of a piece on, so many have one digest in index/pages.npy."""
    num_shards: Annotated[int, Ge(1), Le(2**32)]
    """Rows of shards.npy."""
    longest_name: Annotated[int, Ge(1), Le(LONGEST_NAME)]
    """Bytes of a tar's name there."""
    shards_sha256: str
    """Of shards.npy; ``index_sha256`` is that of index/pages.npy."""

    def __post_init__(self) -> None:
        check_ranges(self, "pieces.")
        if min(self.samples, default=0) < 1:
            raise UserError("pieces.samples: there must be a piece, and each must have 1 sample or more")

    @property
    def num_pages(self) -> int:
        """Rows of index/pages.npy."""
        return sum(-(-count // self.page_rows) for count in self.samples)


@dataclass(kw_only=True, slots=True)
class Manifest:
    """manifest.json of one shard folder."""

    name: str
    num_samples: Annotated[int, Ge(1), Le(MAX_SAMPLES)]
    num_labeled: Count
    classes: list[str]
    shards: Sequence[Shard]
    """Empty in the file of format 2, which has them in shards.npy."""
    image_stats: ImageStats
    index_sha256: str
    quarantined: list[dict[str, str]] = field(default_factory=list)
    """What could not be packed: {"source": ..., "reason": ...}."""
    converted: dict[str, int] = field(default_factory=dict)
    """How many images were rewritten, by kind: {"cmyk": 3, ...}."""
    packing: dict[str, Any] = field(default_factory=dict)
    """The options the shards were written with."""
    masks: Masks | None = None
    skipped: list[Skipped] = field(default_factory=list)
    """What was no image to begin with, by reason."""
    reading: Reading | None = None
    """How tars of another tool were read; None = eyespot wrote them, or did not write this down yet."""
    notes: list[str] = field(default_factory=list)
    """What follows from the files as they are, a line each."""
    frames: Frames | None = None
    """Of samples that have many; None = each is one image."""
    members: dict[str, Members] = field(default_factory=dict)
    """By extension, what lies beside the images."""
    pieces: Pieces | None = None
    """Of format 2; None = format 1, whose index is one file."""
    bands: Bands | None = None
    """What the images are; None = 8-bit RGB, in files of JPEG and PNG."""
    format: str = FORMAT

    def __post_init__(self) -> None:
        check_ranges(self)
        channels = 3 if self.bands is None else self.bands.count
        if not len(self.image_stats.mean) == len(self.image_stats.std) == channels:
            count = len(self.image_stats.mean)
            raise UserError(f"image_stats.mean and std: of {count} channels where images have {channels}")
        if self.num_labeled > self.num_samples:
            raise UserError(f"num_labeled {self.num_labeled}: more than num_samples {self.num_samples}")
        if self.frames and self.frames.num_frames < self.num_samples * len(self.frames.streams):
            raise UserError(
                f"frames.num_frames {self.frames.num_frames}: too few for {plural(self.num_samples, 'sample')}"
            )
        for extension in self.members:
            if not re.fullmatch(r"[a-z0-9]{1,16}(\.[a-z0-9]{1,16})?", extension):  # a file is called so
                raise UserError(f"members: {extension[:40]!r} is no extension")
        self._check_pieces()
        (tar, count), *_ = Counter(shard.tar for shard in self.shards).most_common(1) or [("", 0)]
        if count > 1:
            raise UserError(f"shards: {tar!r} stands there {count} times")
        if odd := [bad for bad in self.quarantined if not {"source", "reason"} <= bad.keys()]:
            raise UserError(f"quarantined: {str(odd[0])[:LONGEST_NAME]} lacks source or reason")

    def _check_pieces(self) -> None:
        if self.format != (wanted := format_of(self.bands, paged=self.pieces is not None)):
            raise UserError(f"format {self.format!r}: with these pieces and bands it is {wanted!r}")
        if self.pieces is None:
            return
        if (total := sum(self.pieces.samples)) != self.num_samples:
            raise UserError(f"pieces.samples: {total} in all where num_samples is {self.num_samples}")
        if self.shards:
            raise UserError(f"shards: stand in shards.npy in format {PAGED_FORMAT!r}")
        if self.masks or self.frames or self.members:
            raise UserError(f"masks, frames, members: not in format {PAGED_FORMAT!r}")

    @classmethod
    def from_json(cls, content: bytes, file: Location) -> "Manifest":
        """What ``content`` says, which was read from ``file``. Whoever made the folder wrote it: nothing is believed.

        Raises:
            UserError: it is not JSON, of another format, lacks a field, or a field is of another kind or out of range.
        """
        try:
            fields = foreign_json.parse(content, dict, str(file))
            if fields.get("format") not in FORMATS:
                raise _OtherFormat(
                    f"{file}: format {repr(fields.get('format'))[:40]} is not {FORMAT!r} to {FORMATS[-1]!r};"
                    " pack or index the shards again"
                )
            return foreign_json.convert(fields, cls, str(file))
        except _OtherFormat:
            raise
        except UserError as error:
            why = error.why if isinstance(error, foreign_json.ForeignJsonError) else error
            raise UserError(
                f"{file}: not a shard manifest ({why}); make it anew: eyespot shards index {file.parent}"
            ) from error

    def to_json(self) -> str:
        """The file's text: stable, so the same shards have the same manifest hash."""
        fields = asdict(replace(self, shards=[]) if self.pieces else self)
        later = ("masks", "skipped", "reading", "notes", "frames", "members", "pieces", "bands")
        for name in later:  # as before there were any
            if not fields[name]:
                del fields[name]
        if self.image_stats.one_in == 1:
            del fields["image_stats"]["one_in"]
        for name in ("frames", "rate", "bands"):
            if "reading" in fields and fields["reading"][name] is None:
                del fields["reading"][name]
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


class _OtherFormat(UserError):
    """Of a version that this one does not know."""


def image_stats(index: np.ndarray, sums: list[int], squares: list[int], one_in: int = 1, peak: int = 255) -> ImageStats:
    """Mean and standard deviation over all pixels that were summed, and how tall and wide the images are.

    Args:
        index: (num_samples,) of INDEX_DTYPE.
        sums: of the pixel values 0..peak per channel.
        squares: of their squares per channel.
        one_in: of how many images one was summed.
        peak: the largest value that there can be.

    Raises:
        UserError: of so few images, not one is in the sample.
    """
    if not (num_pixels := num_summed(index, one_in)):
        raise UserError(
            f"images: {len(index)} of those listed can be used, and none is among the one in {one_in} of which the mean"
            " and the deviation are measured; leave out what is broken"
        )
    mean = [total / num_pixels / peak for total in sums]
    # Exact in integers: no cancellation however many pixels.
    std = [
        ((num_pixels * square - total * total) / num_pixels**2) ** 0.5 / peak
        for total, square in zip(sums, squares, strict=True)
    ]
    sides = {
        name: (int(index[name].min()), int(np.median(index[name])), int(index[name].max()))
        for name in ("height", "width")
    }
    return ImageStats(mean=tuple(mean), std=tuple(std), **sides, one_in=one_in)


def num_summed(index: np.ndarray, one_in: int) -> int:
    """Pixels of the images that are in the sample."""
    some = index if one_in == 1 else index[is_sampled(index["crc32"], one_in)]
    return int((some["height"].astype(np.int64) * some["width"]).sum())
