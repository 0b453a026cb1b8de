"""Task: features that a protocol learns from and is tested on, and Candidate: what it answers."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.results.result import Score

VALIDATION_SHARE = 0.1


def stratified_split(
    labels: Int[np.ndarray, " n"], share: float, seed: int
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]]:
    """Holds out ``share`` of every class: two sorted arrays of row numbers, the kept and the held ones.

    A pure function of labels, share and seed. Every class keeps at least one row.

    Args:
        labels: (n,) the class of each row.
        share: of each class that is held out, 0..1; rounded to whole rows.
        seed: which rows.
    """
    generator = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    order = np.argsort(labels, kind="stable")  # once, not all labels for each class
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(labels) else []:
        rows = generator.permutation(members)
        held[rows[: min(int(share * len(rows) + 0.5), len(rows) - 1)]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


@dataclass(kw_only=True, slots=True)
class Task:
    """One encoder's features of one data set. Features are float32, one matrix per kind ("cls", "mean", ...).

    For protocols that need no label, train is empty and test labels may be -1.
    """

    train: dict[str, Float[Tensor, "n _"]]
    train_labels: Int[Tensor, " n"]
    test: dict[str, Float[Tensor, "m _"]]
    test_labels: Int[Tensor, " m"]
    num_classes: int
    seed: int
    """Decides which tenth of train is held out to choose hyper-parameters on."""
    fit: Int[Tensor, " _"] = field(init=False)
    """Rows of train to learn from while choosing."""
    held: Int[Tensor, " _"] = field(init=False)
    """Rows of train to choose hyper-parameters on: never the reported set."""

    def __post_init__(self) -> None:
        fit, held = stratified_split(self.train_labels.cpu().numpy(), VALIDATION_SHARE, self.seed)
        if len(fit) and not len(held):
            raise UserError(
                f"shards: {len(fit)} labelled training samples are too few to hold out a tenth of each class;"
                " at least 5 per class are needed"
            )
        self.fit, self.held = (torch.from_numpy(rows).to(self.train_labels.device) for rows in (fit, held))


@dataclass(kw_only=True, slots=True)
class Candidate:
    """One setting of a protocol: what it scored where settings are chosen, and what it says on test."""

    metric: str
    """The metric's full name: "knn/k20_T0.07_cls_l2", "linear/mean"."""
    settings: dict[str, float | str] = field(default_factory=dict)
    """What was chosen, for the table: {"features": "cls", "k": 20}."""
    validation: float | None = None
    """Accuracy on the held-out tenth of train, 0..1, or what else it is chosen by; None if it is the only one."""
    predictions: Int[np.ndarray, " m"] | None = None
    """The class given to each test sample; None where the protocol gives none."""
    share: Score | None = None
    """What is reported in place of the predictions' accuracy, where there are none: a mean IoU."""
    scores: dict[str, Score] = field(default_factory=dict)
    """What it gives beside that."""
    alarms: list[str] = field(default_factory=list)
    """What is wrong with the features, in plain words."""
