"""Linear grid: many linear classifiers on frozen features, trained together; the best on a tenth of train counts.

DINOv2 (Oquab et al. 2023, arXiv:2304.07193) trains a classifier for every learning rate, for the last block or the last
four, for the class token with and without the mean of patches; CAPI (Darcet et al. 2025, arXiv:2502.08769) adds weight
decays and chooses on a tenth of train. Here: all of these, on cached features (no augmentation). The chosen classifier
is the one that learned from the other nine tenths, as CAPI does: nothing is trained again.

All classifiers of one kind of features are columns of one matrix, so a step of the whole grid is two matrix products
per kind. None of them hears of the others: each ends where it would end alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.eval.protocols.task import Candidate, Task

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
"""Per 256 samples of a batch: at a batch size of b the rate is b / 256 times as large. DINOv2's."""
DECAYS = (0.0, 5e-4, 1e-3, 5e-2)
"""DINOv2's (none) and CAPI's: decay / 2 * |W|^2 joins the loss. The bias is free."""
NUM_BLOCKS = 4
BATCH_SIZE = 1024
MAX_STEPS = 12_500
"""Ten epochs of ImageNet, as in both."""
MAX_EPOCHS = 100
"""Smaller sets are not gone through more often."""
MOMENTUM = 0.9


@dataclass(kw_only=True, slots=True)
class Setting:
    """What tells classifiers on the same features apart."""

    rate: float
    """Largest learning rate, per 256 samples."""
    decay: float


SETTINGS = tuple(Setting(rate=rate, decay=decay) for rate, decay in product(RATES, DECAYS))


class Heads:
    """Linear classifiers on one kind of features, one for each setting, all starting at zero.

    Args:
        dim: of the features.
        num_classes: how many classes there are.
        settings: of the classifiers.
        like: its dtype and device are theirs.
    """

    def __init__(self, dim: int, num_classes: int, settings: Sequence[Setting], like: Tensor) -> None:
        self._shape = len(settings), num_classes
        width = len(settings) * num_classes
        self._weights, self._bias = like.new_zeros(dim, width), like.new_zeros(width)
        self._weights_trace, self._bias_trace = torch.zeros_like(self._weights), torch.zeros_like(self._bias)
        self._rates = like.new_tensor([setting.rate for setting in settings]).repeat_interleave(num_classes)
        self._decays = like.new_tensor([setting.decay for setting in settings]).repeat_interleave(num_classes)

    def step(self, x: Float[Tensor, "b d"], labels: Int[Tensor, " b"], share: float) -> None:
        """One step of SGD with momentum on the mean cross-entropy of a batch.

        Args:
            x: features.
            labels: their classes.
            share: of each setting's rate that this step takes.
        """
        residual = self.logits(x).softmax(2)
        residual[torch.arange(len(x), device=x.device), :, labels] -= 1
        residual = residual.flatten(1) / len(x)
        gradient = (x.T @ residual).addcmul_(self._weights, self._decays)
        self._weights_trace.mul_(MOMENTUM).add_(gradient)
        self._bias_trace.mul_(MOMENTUM).add_(residual.sum(0))
        self._weights.addcmul_(self._weights_trace, self._rates, value=-share)
        self._bias.addcmul_(self._bias_trace, self._rates, value=-share)

    def logits(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n heads c"]:
        """What every classifier says of every row."""
        return torch.addmm(self._bias, x, self._weights).view(len(x), *self._shape)


def feature_sets(kinds: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What the classifiers see, by name: which kinds of features stand side by side in it.

    The class token, the mean of patches, and both, of the last block; class tokens, and means, of the last four; and,
    as DINOv2 has it, the class tokens of the last four with the last block's mean. Those that the encoder can give.

    Args:
        kinds: that the encoder has: "cls", "mean" of the last block, "cls-2", "mean-2" of the one before, ...
    """
    last = [kind for kind in kinds if "-" not in kind]
    found: dict[str, tuple[str, ...]] = {kind: (kind,) for kind in last}
    four = {kind: (kind, *(f"{kind}-{place}" for place in range(2, NUM_BLOCKS + 1))) for kind in last}
    if {"cls", "mean"} <= set(last):
        found["cls+mean"] = ("cls", "mean")
    deep = {f"{kind}_{NUM_BLOCKS}blocks": parts for kind, parts in four.items() if set(parts) <= set(kinds)}
    if len(deep) == 2:
        deep[f"cls_{NUM_BLOCKS}blocks+mean"] = (*four["cls"], "mean")
    return found | deep


def batches(num_rows: int, seed: int) -> Iterator[Int[Tensor, " b"]]:
    """Rows of each step: one random order of all rows after another, cut into batches of one size."""
    size = min(BATCH_SIZE, num_rows)
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64)
    for _ in range(num_steps(num_rows)):
        if len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(num_rows, generator=generator)])
        yield waiting[:size]
        waiting = waiting[size:]


def num_steps(num_rows: int) -> int:
    """How many steps a training set of this size gets."""
    return min(MAX_STEPS, math.ceil(MAX_EPOCHS * num_rows / min(BATCH_SIZE, num_rows)))


def train(
    features: Mapping[str, Float[Tensor, "n _"]],
    labels: Int[Tensor, " n"],
    *,
    sets: Mapping[str, tuple[str, ...]],
    settings: Sequence[Setting] = SETTINGS,
    num_classes: int,
    seed: int,
) -> dict[str, Heads]:
    """Trains a classifier for every set of features and every setting, all in one pass: SGD, cosine schedule to zero.

    Args:
        features: to learn from, by kind. Their dtype is that of the arithmetic.
        labels: classes, 0..num_classes-1.
        sets: from `feature_sets`.
        settings: of the classifiers on each set.
        num_classes: how many classes there are.
        seed: of the order of the batches.
    """
    first = next(iter(features.values()))
    widths = {name: sum(features[kind].shape[1] for kind in parts) for name, parts in sets.items()}
    heads = {name: Heads(width, num_classes, settings, first) for name, width in widths.items()}
    total = num_steps(len(labels))
    with ProgressBar("linear grid", total) as bar:
        for step, rows in enumerate(batches(len(labels), seed)):
            chosen = rows.to(labels.device)
            batch = {kind: values[chosen] for kind, values in features.items()}
            share = len(rows) / 256 * (1 + math.cos(math.pi * step / total)) / 2
            for name, parts in sets.items():
                heads[name].step(side_by_side(batch, parts), labels[chosen], share)
            bar.advance()
    return heads


def side_by_side(features: Mapping[str, Float[Tensor, "n _"]], parts: Sequence[str]) -> Float[Tensor, "n d"]:
    """Several kinds of features as one matrix."""
    return features[parts[0]] if len(parts) == 1 else torch.cat([features[kind] for kind in parts], 1)


def predict(heads: Heads, features: Mapping[str, Float[Tensor, "n _"]], parts: Sequence[str]) -> Int[Tensor, "heads n"]:
    """The class that every classifier gives to every row."""
    num_rows = len(features[parts[0]])
    tiles = [
        heads.logits(side_by_side({kind: features[kind][start : start + BATCH_SIZE] for kind in parts}, parts))
        for start in range(0, num_rows, BATCH_SIZE)
    ]
    return torch.cat([tile.argmax(2) for tile in tiles]).T


def candidates(task: Task) -> list[Candidate]:
    """The best classifier of each set of features: chosen on the held-out tenth of train, trained on the rest."""
    sets = feature_sets(list(task.train))
    learned = {kind: values[task.fit] for kind, values in task.train.items()}
    heads = train(learned, task.train_labels[task.fit], sets=sets, num_classes=task.num_classes, seed=task.seed)
    held = {kind: values[task.held] for kind, values in task.train.items()}
    found = []
    for name, parts in sets.items():
        right = predict(heads[name], held, parts) == task.train_labels[task.held]
        accuracies = right.double().mean(1)
        best = int(accuracies.argmax())  # of equals the first: the lower rate
        found.append(
            Candidate(
                metric=f"linear-grid/{name}",
                settings={"features": name, "rate": SETTINGS[best].rate, "decay": SETTINGS[best].decay},
                validation=accuracies[best].item(),
                predictions=predict(heads[name], task.test, parts)[best].cpu().numpy(),
            )
        )
    return found
