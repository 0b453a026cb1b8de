"""Indexes tars that other tools wrote, where they lie: img2dataset's, or those of a plain ``tar --sort=name``.

A sample is the members that share a name up to the first dot of its last part (WebDataset's rule); its image is the
first member with an image's suffix, its segmentation mask the ``.seg.png`` member, if there is one. Its label is the
text of its ``.cls`` member; where no sample has one, its folder.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from eyespot.data_pipeline import atomic_files
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.image_check import SUFFIXES
from eyespot.data_pipeline.shards.image_workers import NUM_WORKERS, examine_items
from eyespot.data_pipeline.shards.manifest import (
    IGNORED,
    INDEX_DTYPE,
    MASK_DTYPE,
    MASK_EXTENSION,
    ImageStats,
    Manifest,
    Masks,
    Shard,
)
from eyespot.data_pipeline.shards.pack import image_stats, sha256
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.sources import Item, Place
from eyespot.data_pipeline.shards.tar_members import Member, idx_text, scan

MAX_CLASSES = 1 << 20


@dataclass(kw_only=True, slots=True)
class Contents:
    """What the tars of a folder hold, read off the headers and the .cls members."""

    tars: list[Path]
    items: list[Item] = field(default_factory=list)
    """One per sample that has an image; ``path`` is its tar."""
    classes: list[str] = field(default_factory=list)
    idx: dict[Path, str] = field(default_factory=dict)
    """The text of each tar's .idx."""
    problems: list[str] = field(default_factory=list)
    """One line for each tar that is cut or damaged."""


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

    def masks(self, ignored: int) -> Masks | None:
        """Their lines in the manifest; None where no sample has one."""
        return Masks.of(self.mask_rows, self.mask_counts, ignored) if self.mask_rows["size"].any() else None


def index_folder(folder: Path, workers: int = NUM_WORKERS) -> Manifest:
    """Writes index.npy, manifest.json and an .idx beside each tar; the tars themselves stay as they are.

    Images that could only be used after rewriting (CMYK, 16-bit, transparent, ...) are quarantined, like broken ones.
    A manifest that ``eyespot shards pack`` wrote passes on its class names.

    Raises:
        UserError: there are no plain tars, one is cut, no image can be used, or the folder cannot be written.
    """
    contents = read_contents(sorted(folder.glob("*.tar")))
    if contents.problems:
        raise UserError(f"{contents.problems[0]}; fetch or write it again")
    if not contents.tars:
        packed = next((path.name for path in sorted(folder.glob("*.tar.*")) if path.suffix != ".tmp"), None)
        hint = f"{packed} is compressed; unpack it first" if packed else "name the folder that holds them"
        raise UserError(f"shards {folder}: no .tar files inside; {hint}")
    measured = measure(contents, workers, "indexing")
    if measured.stats is None:
        bad = measured.quarantined[:1]
        example = f"; {bad[0]['source']}: {bad[0]['reason']}" if bad else ""
        raise UserError(f"shards {folder}: the tars hold no image that can be used in place{example}")
    try:
        return _write(folder, contents, measured, measured.stats)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror}; the index must lie beside the tars") from error


def read_contents(tars: Sequence[Path]) -> Contents:
    """Lists the samples of the given tars.

    Raises:
        UserError: a file is no plain tar.
    """
    contents = Contents(tars=list(tars))
    found: list[tuple[Path, Member, str | None]] = []
    masks: list[Place | None] = []
    for tar in tars:
        scanned = scan(tar)
        if scanned.problem:
            contents.problems.append(f"{tar}: {scanned.problem}")
        samples = _group(scanned.files)
        contents.idx[tar] = idx_text([sample for members in samples.values() if (sample := _idx_sample(members))])
        with tar.open("rb") as file:
            for members in samples.values():
                mask = next((member for member in members if member.name.endswith(f".{MASK_EXTENSION}")), None)
                images = (member for member in members if _suffix(member.name) in SUFFIXES and member is not mask)
                if (image := next(images, None)) is None:
                    continue
                masks.append(mask and Place(str(tar), mask.offset, mask.size))
                label = next((member for member in members if _suffix(member.name) == ".cls"), None)
                text = os.pread(file.fileno(), label.size, label.offset).decode("utf-8", "replace") if label else None
                found.append((tar, image, text.strip() if text is not None else None))
    contents.classes, labels = _labels(found)
    contents.items = [
        Item(f"{tar.name}/{image.name}", label, str(tar), image.offset, image.size, mask=mask)
        for (tar, image, _), label, mask in zip(found, labels, masks, strict=True)
    ]
    return contents


def measure(contents: Contents, workers: int, doing: str) -> Measured:
    """Decodes every image."""
    numbers = {str(tar): number for number, tar in enumerate(contents.tars)}
    rows: list[tuple[int, ...]] = []
    masks: list[tuple[int, ...]] = []
    mask_counts = np.zeros(256, np.int64)
    sums, squares = np.zeros(3, object), np.zeros(3, object)  # Python's integers: exact
    quarantined: list[dict[str, str]] = []
    with ProgressBar(doing, len(contents.items)) as bar:
        for item, image in zip(contents.items, examine_items(contents.items, workers, in_place=True), strict=True):
            bar.advance()
            if isinstance(image, str):
                quarantined.append({"source": item.name, "reason": image})
                continue
            place = (numbers[item.path], item.offset, item.size)
            rows.append((*place, image.crc32, image.height, image.width, item.label))
            sums, squares = sums + image.sums, squares + image.squares
            if item.mask and image.mask:
                masks.append((item.mask.offset, item.mask.size, image.mask.crc32))
                mask_counts += image.mask.counts
            else:
                masks.append((0, 0, 0))
    table = np.array(rows, INDEX_DTYPE)
    stats = image_stats(table, sums.tolist(), squares.tolist()) if rows else None
    return Measured(
        rows=table,
        stats=stats,
        quarantined=quarantined,
        mask_rows=np.array(masks, MASK_DTYPE),
        mask_counts=mask_counts.tolist(),
    )


def _write(folder: Path, contents: Contents, measured: Measured, stats: ImageStats) -> Manifest:
    index = atomic_files.npy_bytes(measured.rows)
    counts = np.bincount(measured.rows["tar"], minlength=len(contents.tars)).tolist()
    manifest = Manifest(
        name=folder.resolve().name,
        num_samples=len(measured.rows),
        num_labeled=int((measured.rows["label"] >= 0).sum()),
        classes=contents.classes,
        shards=[
            Shard(tar=tar.name, num_samples=count, bytes=tar.stat().st_size, sha256=sha256(tar))
            for tar, count in zip(contents.tars, counts, strict=True)
        ],
        image_stats=stats,
        index_sha256=hashlib.sha256(index).hexdigest(),
        quarantined=measured.quarantined,
        masks=measured.masks(IGNORED),
    )
    _inherit(manifest, folder, measured)
    (folder / "manifest.json").unlink(missing_ok=True)  # the folder is not complete until the new one is there
    for tar, text in contents.idx.items():
        atomic_files.write_bytes(tar.with_suffix(".idx"), text.encode())
    atomic_files.write_bytes(folder / "index.npy", index)
    if manifest.masks:
        atomic_files.write_bytes(folder / "masks.npy", atomic_files.npy_bytes(measured.mask_rows))
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
        manifest.masks = measured.masks(old.masks.ignored if old.masks else IGNORED)


def _group(files: list[Member]) -> dict[str, list[Member]]:
    samples: dict[str, list[Member]] = {}
    for member in files:
        folder, _, name = member.name.rpartition("/")
        if name and not name.startswith("."):
            samples.setdefault(f"{folder}/{name.partition('.')[0]}", []).append(member)
    return samples


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _idx_sample(members: list[Member]) -> list[tuple[str, int, int, str]]:
    """A sample's line in the .idx; its fields are separated by spaces, so names must lose theirs."""
    line = []
    for name, offset, size in members:
        extension = name.rpartition("/")[2].partition(".")[2]
        if extension and not re.search(r"\s", extension):
            line.append((extension, offset, size, re.sub(r"\s", "_", name)))
    return line


def _labels(found: list[tuple[Path, Member, str | None]]) -> tuple[list[str], list[int]]:
    """Class names, and the label of each sample; -1 = none."""
    texts = [text for _, _, text in found]
    if any(texts):
        if all(text.isdecimal() and int(text) < MAX_CLASSES for text in texts if text):
            numbers = [int(text) if text else -1 for text in texts]
            return [str(label) for label in range(max(numbers) + 1)], numbers
    else:
        texts = [image.name.rpartition("/")[0].rpartition("/")[2] or None for _, image, _ in found]
        if len(set(texts)) < 2:  # a folder that all share is no class
            return [], [-1] * len(texts)
    classes = sorted({text for text in texts if text})
    labels = {name: label for label, name in enumerate(classes)}
    return classes, [labels[text] if text else -1 for text in texts]
