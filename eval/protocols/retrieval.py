"""Retrieval: whether the images most alike, by the features alone, are of the same class.

Leave-one-out inside the test set: every test image asks, all others answer, ordered by cosine. recall@k is the share
of images with one of their own class among the first k (Jegou et al. 2011; Song et al. 2016, arXiv:1511.06452); mAP is
the mean over all images of the average precision of the whole order. Nothing is learned: train only decides which
kind of features is reported.
"""

import math

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn.functional import normalize

from eyespot.eval.protocols.task import Candidate, Task
from eyespot.eval.results.result import Score

KS = (1, 5, 10)
_STEPS = 10_000_000
"""Cosines are compared in steps of 1e-7, the rounding of the features: closer ones are equal."""


def leave_one_out(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], *, tile: int = 256
) -> tuple[Bool[Tensor, "n first"], Int[Tensor, " n"], Float64[Tensor, " n"]]:
    """Each row's neighbours among all others, by cosine.

    Of equals those of other classes come first: collapsed features find nothing, whatever the order of the rows.

    Args:
        features: one row per sample, L2-normalised here; two or more.
        labels: their classes.
        tile: rows that ask at a time; memory is O(tile n).

    Returns:
        Whether each of the 10 nearest is of the row's class, the class of the nearest, and the average precision,
        which is 0 where no other row has the class.
    """
    rows, ids = normalize(features.double(), dim=1), torch.arange(len(features), device=features.device)
    found = []
    for asking in ids.split(tile):
        same = labels[asking, None] == labels
        keys = (rows[asking] @ rows.T * _STEPS).round().long() * 2 + ~same  # odd: of another class
        keys[torch.arange(len(asking), device=keys.device), asking] = -(2**62) + 1  # the row itself: last
        nearest = labels[keys.argmax(1)]
        relevant = keys.sort(1, descending=True).values[:, :-1] % 2 == 0
        hits = relevant.cumsum(1)
        precision = hits / torch.arange(1, len(rows), device=hits.device, dtype=torch.float64)
        average = (precision * relevant).sum(1) / hits[:, -1].clamp_min(1)
        found.append((relevant[:, : max(KS)], nearest, average))
    relevant, nearest, average = (torch.cat(parts) for parts in zip(*found, strict=True))
    return relevant, nearest, average


def candidates(task: Task) -> list[Candidate]:
    """Leave-one-out retrieval inside test by every kind of features; chosen by recall@1 inside the tenth of train."""
    found = []
    for kind, test in task.test.items():
        tried, _, _ = leave_one_out(task.train[kind][task.held], task.train_labels[task.held])
        relevant, nearest, average = leave_one_out(test, task.test_labels)
        scores = {f"recall@{k}": Score.of(relevant[:, :k].any(1).cpu().numpy()) for k in KS[1:]}
        scores["mAP"] = Score(value=math.fsum(average.tolist()) / len(average))
        found.append(
            Candidate(
                metric=f"retrieval/{kind}_l2",
                settings={"features": kind},
                validation=tried[:, 0].double().mean().item(),
                predictions=nearest.cpu().numpy(),
                scores=scores,
            )
        )
    return found
