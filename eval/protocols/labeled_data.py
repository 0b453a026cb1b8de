"""Which labelled samples a protocol learns from and which it is tested on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.sample_files import complete_samples, left_out
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.protocols.task import stratified_split

TEST_SHARE = 0.2
MIN_DRAWS = 5
MOST_DRAWS = 10_000


@dataclass(kw_only=True, slots=True)
class Part:
    """The labelled samples of one shard folder that serve one purpose."""

    shards: ShardFolder
    rows: Int[np.ndarray, " n"]
    """Sample ids."""
    labels: Int[np.ndarray, " n"]

    @property
    def size(self) -> int:
        """How many a protocol learns from at once, or is tested on."""
        return len(self.rows)

    def digest(self) -> str:
        """sha256 of which samples these are, in which order."""
        return hashlib.sha256(
            self.shards.manifest.index_sha256.encode() + self.rows.astype("<i8").tobytes()
        ).hexdigest()


@dataclass(kw_only=True, slots=True)
class LabeledData:
    """A data set as a protocol sees it."""

    name: str
    train: Part
    test: Part
    classes: list[str]
    split: str
    """How train and test came apart, in words."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Shots:
    """How many samples of each class a draw holds: a number of them, or a share."""

    text: str
    """As the user writes it: "5", "1%"."""
    num_draws: int = MIN_DRAWS

    def __post_init__(self) -> None:
        number = self.text.removesuffix("%")
        if not number.isascii() or not number.isdigit() or not 0 < int(number) < (100 if "%" in self.text else 10**9):
            raise UserError(f"--shots {self.text}: neither a number of samples nor a share; write 1%, 10% or, say, 5")
        if self.num_draws < MIN_DRAWS:
            raise UserError(f"--draws {self.num_draws}: fewer than {MIN_DRAWS} say too little about their spread")
        if self.num_draws > MOST_DRAWS:
            raise UserError(f"--draws {self.num_draws}: more than {MOST_DRAWS:,} say nothing more; lower it")

    @property
    def name(self) -> str:
        """For file names: "5-shot-5-draws", "1pct-5-draws"."""
        shots = self.text.replace("%", "pct") if "%" in self.text else f"{self.text}-shot"
        return f"{shots}-{self.num_draws}-draws"

    def count(self, available: int) -> int:
        """How many samples of a class that has so many."""
        number = int(self.text.removesuffix("%"))
        return int(number * available / 100 + 0.5) if "%" in self.text else number

    def draw(
        self, labels: Int[np.ndarray, " n"], seed: int, classes: Sequence[str] = ()
    ) -> list[Int[np.ndarray, " k"]]:
        """Row numbers of each draw, class by class, each class in random order.

        Args:
            labels: of all rows that may be drawn.
            seed: which rows.
            classes: their names, for the error.

        Raises:
            UserError: a class has too few.
        """
        found = {label: np.flatnonzero(labels == label) for label in np.unique(labels).tolist()}
        for label, rows in found.items():
            wanted = self.count(len(rows))
            if not 0 < wanted < len(rows):
                what = f"{self.text} of them is none" if not wanted else "draws would not differ"
                name = classes[label] if label < len(classes) else label
                raise UserError(
                    f"--shots {self.text}: class {name} has {len(rows)} training samples, {what}; choose other --shots"
                )
        generators = [np.random.default_rng([seed, draw]) for draw in range(self.num_draws)]
        return [
            np.concatenate([generator.permutation(rows)[: self.count(len(rows))] for rows in found.values()])
            for generator in generators
        ]


def few_shots(data: LabeledData, shots: Shots, seed: int) -> LabeledData:
    """The data with the first draw of its training set in place of all: the same images as low-shot's first draw.

    Raises:
        UserError: a class has too few.
    """
    rows = np.sort(shots.draw(data.train.labels, seed, data.classes)[0])
    of_each = shots.text if "%" in shots.text else f"{shots.text} per class"
    split = f"{data.split}; learned from {of_each} (seed {seed})"
    return replace(data, train=_rows(data.train, rows), split=split)


def labeled_data(shards: ShardFolder, seed: int) -> LabeledData:
    """Train and test of a shard folder; where there is no test split, a fifth of each class is held out.

    Args:
        shards: train, whose test split is looked for; or a folder without splits.
        seed: decides what is held out.

    Raises:
        UserError: no labels, a single class, or splits of different classes.
    """
    train, classes = _part(shards), shards.manifest.classes
    if (own := shards.split("test")) is not None:
        test, split = _part(own), "its own test split"
        classes = _all_classes(shards, own)
    else:
        kept, held = stratified_split(train.labels, TEST_SHARE, seed)
        test, train = _rows(train, held), _rows(train, kept)
        split = f"no test split: {TEST_SHARE:.0%} of each class held out (seed {seed})"
    if len(np.unique(train.labels)) < 2 or not len(test.rows):
        raise UserError(
            f"shards {shards.named}: a probe needs two classes or more, with several labelled samples of each"
        )
    if not set(np.unique(test.labels)) <= set(np.unique(train.labels)):
        raise UserError(f"shards {shards.named}: test holds classes of which train has no sample")
    return LabeledData(name=shards.manifest.name, train=train, test=test, classes=classes, split=split)


def all_data(shards: ShardFolder) -> LabeledData:
    """Every sample of a shard folder, labelled or not; nothing to learn from.

    Args:
        shards: test, or what there is where there is none.

    Raises:
        UserError: a single sample.
    """
    manifest = shards.manifest
    if manifest.num_samples < 2:
        raise UserError(f"shards {shards.path}: a single sample; there is nothing to compare it with")
    labels = _labels(shards)
    test = Part(shards=shards, rows=np.arange(len(labels)), labels=labels)
    is_test = shards.is_split and shards.path.name == "test"
    split = "all of its own test split" if is_test else "all samples of the folder"
    return LabeledData(
        name=manifest.name, train=_rows(test, np.arange(0)), test=test, classes=manifest.classes, split=split
    )


def with_members(data: LabeledData, views: ViewSpec) -> LabeledData:
    """The data without the samples that lack what views show beside their images.

    Raises:
        UserError: of too few it is there.
    """
    parts, split = [], data.split
    for part in (data.train, data.test):
        ids = complete_samples(views, part.shards)
        parts.append(part if ids is None else _rows(part, np.flatnonzero(np.isin(part.rows, ids))))
        of = part.shards.path.name if data.train.shards.path != data.test.shards.path else ""
        words = left_out(views, part.shards, ids) + (f" ({of})" if ids is not None and of else "")
        split += words if words not in split else ""
    train, test = parts
    found = [set(np.unique(part.labels).tolist()) for part in parts]
    if len(found[0]) < 2 or not found[1] <= found[0] or not len(test.rows):
        raise UserError(
            f"shards {data.train.shards.named}: {train.size} labelled samples to learn from and {test.size} to test on"
            " have what is judged beside their images; it takes two classes or more, with several of each"
        )
    return replace(data, train=train, test=test, split=split)


def _all_classes(train: ShardFolder, test: ShardFolder) -> list[str]:
    """The classes of both splits; the last of them may have no sample in one, which then does not list them.

    Raises:
        UserError: a label means one class in train and another in test.
    """
    lists = sorted((train.manifest.classes, test.manifest.classes), key=len)
    if lists[1][: len(lists[0])] != lists[0]:
        number = next(row for row, (one, other) in enumerate(zip(*lists, strict=False)) if one != other)
        names = f"{train.manifest.classes[number]!r} in train and {test.manifest.classes[number]!r} in test"
        raise UserError(
            f"shards {train.named}: train and test have different classes: label {number} is {names};"
            " pack both from one source"
        )
    return lists[1]


def _part(shards: ShardFolder) -> Part:
    labels = _labels(shards) if shards.manifest.num_labeled else np.empty(0, np.int64)
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        count = plural(shards.manifest.num_samples, "sample")
        raise UserError(f"shards {shards.path}: none of {count} has a label; a probe needs labels")
    return Part(shards=shards, rows=rows, labels=labels[rows])


def _labels(shards: ShardFolder) -> np.ndarray:
    """Of all samples, whose other columns nobody holds meanwhile."""
    return np.concatenate([rows["label"].astype(np.int64) for rows in shards.row_parts()])


def _rows(part: Part, chosen: np.ndarray) -> Part:
    return Part(shards=part.shards, rows=part.rows[chosen], labels=part.labels[chosen])
