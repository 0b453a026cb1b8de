"""Which labelled samples a protocol learns from and which it is tested on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.manifest import Manifest, find_shards, read_index, read_manifest
from eyespot.eval.protocols.task import stratified_split

TEST_SHARE = 0.2


@dataclass(kw_only=True, slots=True)
class Part:
    """The labelled samples of one shard folder that serve one purpose."""

    folder: Path
    manifest: Manifest
    rows: Int[np.ndarray, " n"]
    """Sample ids."""
    labels: Int[np.ndarray, " n"]

    @property
    def size(self) -> int:
        """How many a protocol learns from at once, or is tested on."""
        return len(self.rows)

    def digest(self) -> str:
        """sha256 of which samples these are, in which order."""
        return hashlib.sha256(self.manifest.index_sha256.encode() + self.rows.astype("<i8").tobytes()).hexdigest()


@dataclass(kw_only=True, slots=True)
class LabeledData:
    """A data set as a protocol sees it."""

    name: str
    train: Part
    test: Part
    classes: list[str]
    split: str
    """How train and test came apart, in words."""


def labeled_data(shards: Path, seed: int) -> LabeledData:
    """Train and test of a shard folder; where there is no test split, a fifth of each class is held out.

    Args:
        shards: a folder with train/ and test/ inside, or one shard folder.
        seed: decides what is held out.

    Raises:
        UserError: no shards, no labels, a single class, or splits of different classes.
    """
    train = _part(find_shards(shards, "train"))
    if train.folder != shards and (shards / "test" / "manifest.json").is_file():
        test, split = _part(shards / "test"), "its own test split"
        if test.manifest.classes != train.manifest.classes:
            raise UserError(f"shards {shards}: train and test have different classes; pack both from one source")
    else:
        kept, held = stratified_split(train.labels, TEST_SHARE, seed)
        test, train = _rows(train, held), _rows(train, kept)
        split = f"no test split: {TEST_SHARE:.0%} of each class held out (seed {seed})"
    if len(np.unique(train.labels)) < 2 or not len(test.rows):
        raise UserError(f"shards {shards}: a probe needs two classes or more, with several labelled samples of each")
    if not set(np.unique(test.labels)) <= set(np.unique(train.labels)):
        raise UserError(f"shards {shards}: test holds classes of which train has no sample")
    return LabeledData(name=train.manifest.name, train=train, test=test, classes=train.manifest.classes, split=split)


def all_data(shards: Path) -> LabeledData:
    """Every sample of test/ or, where there is none, of the shard folder, labelled or not; nothing to learn from.

    Args:
        shards: a folder with train/ and test/ inside, or one shard folder.

    Raises:
        UserError: no shards, or a single sample.
    """
    has_test = not (shards / "manifest.json").is_file() and (shards / "test" / "manifest.json").is_file()
    folder = shards / "test" if has_test else find_shards(shards)
    manifest = read_manifest(folder)
    if manifest.num_samples < 2:
        raise UserError(f"shards {folder}: a single sample; there is nothing to compare it with")
    labels = read_index(folder, manifest)["label"].astype(np.int64)
    test = Part(folder=folder, manifest=manifest, rows=np.arange(len(labels)), labels=labels)
    split = "all of its own test split" if has_test else "all samples of the folder"
    return LabeledData(
        name=manifest.name, train=_rows(test, np.arange(0)), test=test, classes=manifest.classes, split=split
    )


def _part(folder: Path) -> Part:
    manifest = read_manifest(folder)
    labels = read_index(folder, manifest)["label"].astype(np.int64)
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise UserError(f"shards {folder}: none of {manifest.num_samples} samples has a label; a probe needs labels")
    return Part(folder=folder, manifest=manifest, rows=rows, labels=labels[rows])


def _rows(part: Part, chosen: np.ndarray) -> Part:
    return Part(folder=part.folder, manifest=part.manifest, rows=part.rows[chosen], labels=part.labels[chosen])
