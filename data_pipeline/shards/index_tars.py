"""Indexes tars that other tools wrote, where they lie: img2dataset's, or those of a plain ``tar --sort=name``.

What is a sample, its image, its mask, its label: see samples.py and class_names.py.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from eyespot.data_pipeline import atomic_files
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.progress_bar import ProgressBar, working
from eyespot.data_pipeline.shards.clips.frame_rows import FrameRows
from eyespot.data_pipeline.shards.frames import FrameTables
from eyespot.data_pipeline.shards.image_check import MAX_PIXELS, REWRITE, Examined
from eyespot.data_pipeline.shards.image_workers import NUM_WORKERS, examine_items
from eyespot.data_pipeline.shards.manifest import (
    IGNORED,
    INDEX_DTYPE,
    MASK_DTYPE,
    MOST_QUARANTINED,
    ImageStats,
    Manifest,
    Masks,
    Reading,
    Shard,
    format_of,
    image_stats,
)
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.class_names import Layout, check_one_split, classify
from eyespot.data_pipeline.shards.members.footage import FrameFiles, of_same_streams
from eyespot.data_pipeline.shards.members.found_files import FoundFile, FoundFiles, ItemTable
from eyespot.data_pipeline.shards.members.frame_names import frame_notes
from eyespot.data_pipeline.shards.members.items import Item, sampling_of
from eyespot.data_pipeline.shards.members.member_tables import MemberRows, MemberTables
from eyespot.data_pipeline.shards.members.samples import Sample, samples_of, with_frames
from eyespot.data_pipeline.shards.members.side_files import of_one_sound
from eyespot.data_pipeline.shards.members.skipped import Tally, printable, quarantined_beyond
from eyespot.data_pipeline.shards.members.tar_members import IdxText, Member, all_damaged, scan
from eyespot.data_pipeline.shards.outside.img2dataset import count_failed, numbered
from eyespot.data_pipeline.shards.pack_masks import notes_on_masks
from eyespot.data_pipeline.shards.packed_shard import sha256
from eyespot.data_pipeline.shards.paged.piece_writer import write_index
from eyespot.data_pipeline.shards.paged.row_buffer import RowBuffer
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.sources import how_to_shard
from eyespot.data_pipeline.terminal import plural


@dataclass(kw_only=True, slots=True)
class Contents:
    """What the tars of a folder hold, read off the headers and the .cls members."""

    tars: list[Path]
    reading: Reading
    items: Sequence[Item] = field(default_factory=list)
    """One per sample that has an image; ``path`` is its tar."""
    classes: list[str] = field(default_factory=list)
    idx: dict[Path, IdxText] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    """Of each tar that is cut or damaged, its path and what is wrong."""
    skipped: Tally = field(default_factory=Tally)
    """Members that no sample uses."""
    layout: Layout = field(default_factory=lambda: Layout([], [], 0))
    """What the images' folders say."""
    notes: list[str] = field(default_factory=list)
    stored: dict[Path, tuple[int, str]] = field(default_factory=dict)
    """Of tars that are not here any more: size and sha256."""
    shown: str = ""
    """What to call the folder; empty = its path."""


@dataclass(kw_only=True, slots=True)
class Measured:
    """What the images of some items are, once decoded."""

    rows: np.ndarray
    stats: ImageStats | None
    quarantined: list[dict[str, str]]
    mask_rows: np.ndarray
    """(num_samples,) of MASK_DTYPE."""
    mask_counts: list[int]
    """Pixels of each value 0..255 in all masks."""
    num_turned: int
    """Images that EXIF says lie on their side, upside down or mirrored."""
    frames: FrameTables | None
    """Where samples have many."""
    members: MemberTables

    def masks(self, ignored: int) -> Masks | None:
        """Their lines in the manifest; None where no sample has one."""
        has_masks = self.mask_rows["size"].any() or (self.frames and self.frames.has_masks)
        return Masks.of(self.mask_rows, self.mask_counts, ignored) if has_masks else None


def index_folder(
    folder: Path,
    workers: int = NUM_WORKERS,
    reading: Reading = Reading(),  # noqa: B008 (frozen)
    max_pixels: int = MAX_PIXELS,
) -> Manifest:
    """Writes index.npy, manifest.json and an .idx beside each tar; the tars themselves stay as they are.

    Images that could only be used after rewriting (CMYK, 16-bit, transparent, ...) are quarantined, like broken ones.
    A manifest that ``eyespot shards pack`` wrote passes on its class names.

    Args:
        folder: where the tars lie.
        workers: processes that read and decode.
        reading: how to understand tars that can be understood in several ways.
        max_pixels: a larger image is left out.

    Raises:
        UserError: there are no plain tars, one is cut, they can be read in several ways or are of several splits, no
            image can be used, or the folder cannot be written.
    """
    return index_contents(folder, indexable(folder, reading_of(folder, reading)), workers, max_pixels)


def index_contents(folder: Path, contents: Contents, workers: int, max_pixels: int) -> Manifest:
    """Measures the images and writes what ``index_folder`` does.

    Raises:
        UserError: no image can be used, or the folder cannot be written.
    """
    measured = measure(contents, workers, "indexing", max_pixels)
    if measured.stats is None:
        what = f"the tars hold no image that can be used in place{_example(contents, measured)}"
        raise UserError(f"shards {contents.shown or folder}: {what}")
    try:
        return _write(folder, contents, measured, measured.stats)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror}; the index must lie beside the tars") from error


def reading_of(folder: Path, asked: Reading) -> Reading:
    """How tars are read that eyespot may have packed: what it wrote as frames are frames, be it one a sample."""
    try:
        manifest = ShardFolder(folder).manifest
    except UserError:
        return asked
    is_ours = manifest.frames is not None and bool(manifest.packing)
    asked = replace(asked, bands=asked.bands or manifest.bands)
    return replace(asked, frames="dot") if is_ours and asked.frames is None else asked


def indexable(folder: Path, reading: Reading) -> Contents:
    """What the tars of a folder hold, where they can have one index; by their headers, no image is decoded.

    Raises:
        UserError: they cannot, see ``index_folder``.
    """
    beside = Tally()
    with working(f"listing the tars of {folder.name}"):
        return whole_contents(folder, _find_tars(folder, beside), reading, beside)


def whole_contents(folder: Path, tars: Iterable[Path], reading: Reading, beside: Tally) -> Contents:
    """What tars hold that can have one index.

    Args:
        folder: where they lie, and what is beside them.
        tars: each is read before the next is taken.
        reading: how to understand them.
        beside: what of tars was left out.

    Raises:
        UserError: they cannot, see ``index_folder``.
    """
    contents = read_contents(tars, reading)
    contents.skipped.add_all(beside)
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".parquet", ".json"))
    count_failed(folder, others, numbered(others), contents.skipped)
    if contents.problems:
        raise UserError(all_damaged(contents.problems, "fetch or write it again"))
    check_one_split(f"shards {folder}", [tar.name for tar in contents.tars], contents.layout)
    return contents


def read_contents(tars: Iterable[Path], reading: Reading) -> Contents:
    """Lists the samples of the given tars, each before the next is taken.

    Raises:
        UserError: a file is no plain tar, or can be read in several ways.
    """
    contents, asked = Contents(tars=[], reading=reading), reading
    found = FoundFiles()  # not the samples: those of all tars fill the memory
    for tar in tars:
        contents.tars.append(tar)
        scanned = scan(tar)
        if scanned.problem:
            contents.problems.append((str(tar), scanned.problem))
        contents.skipped.add_all(scanned.skipped, f"{tar.name}/")
        contents.reading = reading = with_frames(scanned.files, reading) if not len(found) else reading
        contents.idx[tar] = idx = IdxText()
        for sample, label in samples_of(tar, tar, scanned.files, reading, contents.skipped):
            idx.add(_idx_sample(sample))
            if sample.image:
                found.append(_found(tar, sample, sample.image, label, reading))
    classify_by = found.column("parts"), found.column("text")
    contents.classes, labels, contents.layout, contents.notes = classify(*classify_by, reading.class_folder)
    contents.notes += frame_notes(found.num_clips, asked.frames)
    table = ItemTable(found, np.arange(len(found)), np.array(labels, np.int32))
    contents.items = of_same_streams({"": table if found.is_plain else of_one_sound(table, contents.skipped)})[""]
    return contents


def _found(tar: Path, sample: Sample, image: Member, label: str | None, reading: Reading) -> FoundFile:
    """A sample of a tar."""
    return FoundFile(
        f"{printable(tar.name)}/{sample.name}",
        sample.path,
        Place(str(tar), image.offset, image.size),
        label,
        mask=sample.mask and Place(str(tar), sample.mask.offset, sample.mask.size),
        frames=sample.footage(str(tar), reading),
        members=sample.members_in(str(tar)),
    )


def measure(
    contents: Contents, workers: int, doing: str, max_pixels: int = MAX_PIXELS, one_in: int | None = None
) -> Measured:
    """Decodes every image; one of more pixels is quarantined, one in ``one_in`` summed (None: as there are many)."""
    one_in = sampling_of(contents.items) if one_in is None else one_in
    numbers = {str(tar): number for number, tar in enumerate(contents.tars)}
    rows, masks, frames, members = RowBuffer(INDEX_DTYPE), RowBuffer(MASK_DTYPE), FrameRows(), MemberRows()
    mask_counts = np.zeros(256, np.int64)
    bands = contents.reading.bands
    sums, squares = np.zeros((2, bands.count if bands else 3), object)  # Python's integers: exact
    quarantined, num_turned, how = list[dict[str, str]](), 0, {"max_pixels": max_pixels, "one_in": one_in}
    examined = examine_items(contents.items, workers, in_place=True, bands=bands, **how)
    with ProgressBar(doing, len(contents.items)) as bar:
        for item, image in zip(contents.items, examined, strict=True):
            bar.advance()
            if isinstance(image, str):
                quarantined.append({"source": item.name, "reason": image})
                continue
            found = list(_stored(item, image))
            tar = numbers[item.path]
            lines = [(tar, *place, one.crc32, one.height, one.width, item.label) for place, _, one in found]
            masked = [(at, one.mask) for _, at, one in found]
            mask_lines = [(at.offset, at.size, its.crc32) if at and its else (0, 0, 0) for at, its in masked]
            rows.add(lines[0])
            places = {extension: (place.offset, place.size) for extension, place in item.members}
            members.add(item.name, image.members, places)
            masks.add(mask_lines[0])
            if image.clip:
                frames.add(image.clip, lines, mask_lines)
            sums, squares = sums + image.sums, squares + image.squares
            num_turned += sum(one.orientation != 1 for _, _, one in found)
            mask_counts += sum(np.asarray(mask.counts) for _, mask in masked if mask)
    table, tables = rows.table(), frames.tables()
    counted, peak = tables.rows if tables else table, bands.peak if bands else 255
    return Measured(
        rows=table,
        stats=image_stats(counted, sums.tolist(), squares.tolist(), one_in, peak) if len(table) else None,
        quarantined=quarantined,
        mask_rows=masks.table(),
        frames=tables,
        members=members.tables(),
        mask_counts=mask_counts.tolist(),
        num_turned=num_turned,
    )


def _stored(item: Item, image: Examined) -> Iterator[tuple[tuple[int, int], Place | None, Examined]]:
    """Offset and size, place of the mask, and what was found, of an image, or of each frame."""
    if image.clip and isinstance(item.frames, FrameFiles):
        files = [file for stream in item.frames.streams for file in item.frames.files[stream]]
        for file, frame in zip(files, image.clip.frames, strict=True):
            yield (file.place.offset, file.place.size), file.mask, frame
    else:
        yield (item.offset, item.size), item.mask, image


def _write(folder: Path, contents: Contents, measured: Measured, stats: ImageStats) -> Manifest:
    tables = measured.frames.files() if measured.frames else {}
    files = tables | measured.members.files()
    counts = np.bincount(measured.rows["tar"], minlength=len(contents.tars)).tolist()
    manifest = Manifest(
        name=printable(folder.resolve().name),
        num_samples=len(measured.rows),
        num_labeled=int((measured.rows["label"] >= 0).sum()),
        classes=contents.classes,
        shards=[
            Shard(tar=tar.name, num_samples=count, bytes=size, sha256=digest)
            for tar, count in zip(contents.tars, counts, strict=True)
            for size, digest in [contents.stored.get(tar) or (tar.stat().st_size, sha256(tar))]
        ],
        image_stats=stats,
        index_sha256="",  # known when it is written
        quarantined=measured.quarantined[:MOST_QUARANTINED],
        masks=measured.masks(IGNORED),
        skipped=contents.skipped.listed() + quarantined_beyond(measured.quarantined),
        reading=contents.reading,
        notes=_notes(folder, contents, measured),
        frames=measured.frames.summary(tables) if measured.frames else None,
        members=measured.members.summary(),
        bands=contents.reading.bands,
        format=format_of(contents.reading.bands),
    )
    _inherit(manifest, folder, measured)
    (folder / "manifest.json").unlink(missing_ok=True)  # the folder is not complete until the new one is there
    for tar, text in contents.idx.items():
        atomic_files.write_blocks(tar.with_suffix(".idx"), text.blocks())
    if manifest.masks:
        files["masks.npy"] = atomic_files.npy_bytes(measured.mask_rows)
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        atomic_files.write_bytes(folder / name, data)
    manifest = write_index(folder, manifest, measured.rows)
    atomic_files.write_bytes(folder / "manifest.json", manifest.to_json().encode())
    return manifest


def _inherit(manifest: Manifest, folder: Path, measured: Measured) -> None:
    """What only the packing knew: the class names, the source's name, what was converted, what masks leave out."""
    try:
        old = ShardFolder(folder).manifest
    except UserError:
        return
    if old.packing and len(old.classes) >= len(manifest.classes):
        manifest.name, manifest.classes = old.name, old.classes
        manifest.converted, manifest.packing = old.converted, old.packing
        manifest.skipped, manifest.reading, manifest.notes = old.skipped, None, old.notes
        manifest.masks = measured.masks(old.masks.ignored if old.masks else IGNORED)


def _notes(folder: Path, contents: Contents, measured: Measured) -> list[str]:
    pack = f"eyespot shards pack {printable(contents.shown or str(folder))} DST"
    notes = contents.notes + notes_on_masks(measured.mask_counts, IGNORED)
    if turned := measured.num_turned:
        notes.append(
            f"{turned:,} of {plural(len(measured.rows), 'image')} are turned by EXIF: in these tars"
            f" they are seen as they are"
            f" stored, sideways or upside down; {pack} turns them"
        )
    if rewritten := sum(REWRITE in bad["reason"] for bad in measured.quarantined):
        notes.append(f"{plural(rewritten, 'image')} cannot be used in place, but {pack} rewrites them")
    return notes


def _find_tars(folder: Path, beside: Tally) -> list[Path]:
    """The plain tars of a folder; what else of tars lies there is counted."""
    if not folder.is_dir():
        raise UserError(f"shards {folder}: no such folder")
    names: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and any(path.glob("*.tar")) and path.suffix.lower() != ".tar":
            beside.add("a folder of tars: has an index of its own", path.name)
        elif path.suffix.lower() == ".tar" and not path.name.startswith(".") and not path.is_file():
            beside.add("no plain file: a folder, a pipe or a link to nothing", path.name)
        else:
            names.append(path.name)
    return [folder / name for name in plain_tars(str(folder), names, beside)]


def plain_tars(folder: str, names: Sequence[str], beside: Tally) -> list[str]:
    """Those of the files of a folder that are tars, by their names; the compressed ones are counted.

    Raises:
        UserError: there are none, or one's name is not UTF-8.
    """
    tars = [name for name in names if name.lower().endswith(".tar") and not name.startswith(".")]
    for name in names:
        if re.search(r"\.(tar\.[a-z0-9]+|tgz|tbz2?|txz)$", name.lower()) and not name.endswith((".tmp", ".idx")):
            beside.add("a compressed tar: unpack it first", name)
    if not tars:
        listed = sorted(beside.listed(), key=lambda one: "compressed" not in one.reason)
        raise UserError(
            f"shards {folder}: no .tar files inside; "
            + (f"{listed[0].examples[0]} is {listed[0].reason}" if listed else how_to_shard(Path(folder)))
        )
    for name in tars:
        if printable(name) != name:
            raise UserError(f"shards {printable(f'{folder}/{name}')}: its name is not UTF-8; rename it")
    return tars


def _example(contents: Contents, measured: Measured) -> str:
    if measured.quarantined:
        bad = measured.quarantined[0]
        more = "; eyespot shards pack SRC DST rewrites them" if REWRITE in bad["reason"] else ""
        return f"; {bad['source']}: {bad['reason']}{more}"
    skipped = contents.skipped.listed()
    return f"; {skipped[0].examples[0]}: {skipped[0].reason}" if skipped else ""


def _idx_sample(sample: Sample) -> list[tuple[str, int, int, str]]:
    """A sample's line in the .idx; its fields are separated by spaces, so names must lose theirs."""
    return [
        (printable(extension), offset, size, re.sub(r"\s", "_", printable(name)))
        for extension, (name, offset, size) in sample.members
        if not re.search(r"\s", extension)
    ]
