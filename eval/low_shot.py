"""Low-shot: how far a few labelled images of each class go; the mean over several fixed draws of them.

The probe is that of ``linear``: multinomial logistic regression on standardised features, to its exact optimum. The
draws are a function of the labels in the manifest, the seed and the number of shots alone, so every encoder learns from
the same images; smaller draws are parts of larger ones. Their sample ids lie beside the results:

    OUT/draws/<data>-<index>_<shots>_seed<n>.json     {"draws": [[id, ...], ...], ...}

The sha256 of that file is ``train_sha256`` of the results.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.eval.evaluate import Procedure, judge_on, results_folder
from eyespot.eval.protocols import linear
from eyespot.eval.protocols.labeled_data import LabeledData, Part, Shots
from eyespot.eval.protocols.task import Candidate, Task
from eyespot.eval.results.result import DRAW, Result, Score, slug
from eyespot.eval.results.significance import mean_interval
from eyespot.pretrain.distributed.process_group import World

FORMAT = "eyespot-draws/1"
PENALTIES = tuple(10.0**exponent for exponent in range(2, -5, -1))
"""100 to 1e-4, a decade apart: few samples leave nothing to tell closer ones apart by."""
ONE_SHOT_PENALTY = 1.0
"""A single sample per class leaves nothing to choose by."""
MAX_FOLDS = 5


@dataclass(kw_only=True, slots=True)
class DrawnPart(Part):
    """A training set of which a protocol sees several small draws."""

    draws: list[Int[np.ndarray, " k"]]
    """Row numbers into ``rows`` and ``labels``."""
    about: dict[str, str | int]
    """What they were drawn by."""

    def to_json(self) -> str:
        """The file of id lists: the same draws, the same bytes."""
        ids = [self.rows[draw].tolist() for draw in self.draws]
        fields = {"format": FORMAT, **self.about, "index_sha256": self.shards.manifest.index_sha256, "draws": ids}
        return json.dumps(fields, indent=1) + "\n"

    def digest(self) -> str:
        """sha256 of that file."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def size(self) -> int:
        """Samples in one draw."""
        return len(self.draws[0])


def narrowed(data: LabeledData, seed: int, *, shots: Shots) -> LabeledData:
    """The data of which training is seen in draws only."""
    part = data.train
    draws = shots.draw(part.labels, seed, data.classes)
    about: dict[str, str | int] = {"data": data.name, "shots": shots.text, "seed": seed}
    train = DrawnPart(shards=part.shards, rows=part.rows, labels=part.labels, draws=draws, about=about)
    per_class = shots.text if "%" in shots.text else f"{shots.text} per class"
    split = f"{data.split}; mean over {shots.num_draws} draws of {per_class}"
    return LabeledData(name=data.name, train=train, test=data.test, classes=data.classes, split=split)


def store(data: LabeledData, shots: Shots, seed: int, folder: Path) -> None:
    """Writes the id lists of the draws: the same draws, the same name and the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    train = data.train
    assert isinstance(train, DrawnPart)
    name = f"{slug(data.name)}-{train.shards.manifest.index_sha256[:6]}_{shots.name}_seed{seed}.json"
    write_bytes(folder / name, train.to_json().encode())


def judge_low_shot(
    target: str,
    shards: Path,
    *,
    shots: Shots,
    out: Path | None,
    seed: int,
    pretrained: bool,
    world: World,
    image_size: int | None = None,
) -> list[Result]:
    """Judges ``target``, its random twin and raw pixels on draws of the training set, and stores the draws' ids.

    Args:
        target: as for `judge`.
        shards: with labels.
        shots: what is drawn, and how often.
        out: folder for results, draws and cached features; None = as for `judge`.
        seed: of the draws, the random twin and what is held out for testing.
        pretrained: timm names: with published weights.
        world: this process.
        image_size: as for `judge`.

    Raises:
        UserError: a class has too few samples, or what `judge` finds wrong.
    """
    procedure = Procedure(
        candidates=partial(candidates, shots=shots), variant=shots.name, narrow=partial(narrowed, shots=shots)
    )
    data = procedure.data(shards, seed, world)
    results = judge_on(
        data,
        "low-shot",
        procedure,
        target,
        out=out,
        seed=seed,
        pretrained=pretrained,
        world=world,
        image_size=image_size,
    )
    if results:
        store(data, shots, seed, (out or results_folder(target)) / "draws")
    return results


def candidates(task: Task, *, shots: Shots) -> list[Candidate]:
    """One probe per kind of features: its mean over the draws."""
    labels = task.train_labels.cpu().numpy()
    draws = [torch.from_numpy(rows).to(task.train_labels.device) for rows in shots.draw(labels, task.seed)]
    return [_probe(task, kind, draws, shots) for kind in task.train]


def _probe(task: Task, kind: str, draws: Sequence[Int[Tensor, " k"]], shots: Shots) -> Candidate:
    answers, penalties, tried = [], [], []
    for rows in draws:
        train, labels = task.train[kind][rows], task.train_labels[rows]
        penalty, accuracy = choose(train, labels, num_classes=task.num_classes)
        found = linear.predictions(
            train, labels, task.test[kind], num_classes=task.num_classes, penalty=penalty, tolerance=linear.FINAL
        )
        answers.append(found.cpu().numpy())
        penalties.append(penalty)
        tried.append(accuracy)
    right = np.stack(answers) == task.test_labels.cpu().numpy()
    accuracies = right.mean(1).tolist()
    low, high = mean_interval(accuracies)
    return Candidate(
        metric=f"low-shot/{shots.text}_{kind}",
        settings={"features": kind, "shots": shots.text, "draws": len(draws), "lambda": _range(penalties)},
        validation=None if None in tried else float(np.mean(np.array(tried, float))),
        share=Score(
            value=float(np.mean(accuracies)),
            interval=(max(0.0, low), min(1.0, high)),
            values=right.mean(0).tolist(),
        ),
        scores={f"{DRAW}{number}": Score.of(row) for number, row in enumerate(right, 1)},
    )


def choose(train: Float[Tensor, "n d"], labels: Int[Tensor, " n"], *, num_classes: int) -> tuple[float, float | None]:
    """The penalty with the best accuracy in cross-validation inside a draw, and that accuracy; of equals the strongest.

    As many folds as the smallest class has samples, up to five; of one sample per class, no choice and no accuracy.

    Args:
        train: features of the draw, class by class as `Shots.draw` gives them.
        labels: their classes.
        num_classes: how many classes there are.
    """
    classes, counts = labels.unique(return_counts=True)
    num_folds = min(MAX_FOLDS, int(counts.min()))
    if num_folds < 2:
        return ONE_SHOT_PENALTY, None
    folds = torch.empty_like(labels)
    for label, count in zip(classes, counts.tolist(), strict=True):
        folds[labels == label] = torch.arange(count, device=labels.device) % num_folds
    axes = linear.Axes.of(train)  # labels play no part in it, so it may see the whole draw
    x = axes(train)
    right = dict.fromkeys(PENALTIES, 0)
    with linear.fewer_threads(x, num_classes):
        for fold in range(num_folds):
            kept, held = folds != fold, folds == fold
            walk = linear.walk(
                x[kept], labels[kept], num_classes=num_classes, variance=axes.variance, penalties=PENALTIES
            )
            for penalty, weights in walk:
                right[penalty] += int((linear.predict(x[held], weights) == labels[held]).sum())
    best = max(PENALTIES, key=right.__getitem__)
    return best, right[best] / len(labels)


def _range(penalties: Sequence[float]) -> float | str:
    low, high = min(penalties), max(penalties)
    return low if low == high else f"{low:.2g} to {high:.2g}"
