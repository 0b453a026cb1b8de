"""Weighted nearest neighbours: what the features hold without any training.

The vote of Wu et al. 2018 (arXiv:1805.01978) as DINO uses it (arXiv:2104.14294): cosine similarity, and each of the
k nearest training samples votes for its class with weight exp(similarity / T).
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from eyespot.eval.protocols.task import Candidate, Task

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07
BANK_TILE, QUERY_TILE = 16_384, 1024
"""Rows of the bank, and queries, of one matrix product: its last bits depend on them."""


def nearest(
    queries: Float[Tensor, "q d"], bank: Float[Tensor, "n d"], k: int, *, tile: int = BANK_TILE
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """The k rows of the bank with the largest dot product, exactly, largest first.

    Memory stays at O(q (k + tile)) however large the bank is.

    Args:
        queries: rows to find neighbours for.
        bank: rows among which to look.
        k: how many, at most n.
        tile: rows of the bank per matrix product.

    Returns:
        Dot products and row numbers of the bank.
    """
    best = queries.new_empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), tile):
        best, rows = merged(best, rows, queries, bank[start : start + tile], start, k)
    return best, rows


def merged(
    best: Float[Tensor, "q m"],
    rows: Int[Tensor, "q m"],
    queries: Float[Tensor, "q d"],
    tile: Float[Tensor, "t d"],
    start: int,
    k: int,
) -> tuple[Float[Tensor, "q _"], Int[Tensor, "q _"]]:
    """The k nearest so far, and those of one more tile of the bank, which begins at row ``start`` of it."""
    products = queries @ tile.T
    values, places = products.topk(min(k, products.shape[1]))
    values, rows = torch.cat([best, values], 1), torch.cat([rows, places + start], 1)
    best, order = values.topk(min(k, values.shape[1]))
    return best, rows.gather(1, order)


def vote(
    queries: Float[Tensor, "q d"],
    bank: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    num_classes: int,
    ks: tuple[int, ...] = KS,
    temperature: float = TEMPERATURE,
    tile: int = QUERY_TILE,
) -> dict[int, Int[Tensor, " q"]]:
    """The class that wins the weighted vote, for several k from one search.

    Args:
        queries: features of the samples to classify; L2-normalised here.
        bank: features of the labelled samples; L2-normalised here.
        labels: their classes, 0..num_classes-1.
        num_classes: how many classes there are.
        ks: numbers of neighbours, each at most n.
        temperature: T of the weight exp(similarity / T).
        tile: queries per search.
    """
    queries, bank = normalize(queries, dim=1), normalize(bank, dim=1)
    winners: dict[int, list[Tensor]] = {k: [] for k in ks}
    for rows in queries.split(tile):
        similarity, neighbours = nearest(rows, bank, max(ks))
        for k, won in votes_of(similarity, labels[neighbours], num_classes, ks, temperature).items():
            winners[k].append(won)
    return {k: torch.cat(parts) for k, parts in winners.items()}


def votes_of(
    similarity: Float[Tensor, "q k"],
    classes: Int[Tensor, "q k"],
    num_classes: int,
    ks: tuple[int, ...],
    temperature: float,
) -> dict[int, Int[Tensor, " q"]]:
    """The class that wins, for several k, by the similarity and classes of the nearest, nearest first."""
    weights = (similarity / temperature).exp()
    found = {}
    for k in ks:
        votes = weights.new_zeros(len(weights), num_classes).scatter_add_(1, classes[:, :k], weights[:, :k])
        found[k] = votes.argmax(1)
    return found


def candidates(task: Task) -> list[Candidate]:
    """Weighted votes for every kind of features and every k that the training set is large enough for."""
    ks = tuple(k for k in KS if k <= len(task.fit)) or (len(task.fit),)
    found = []
    for kind, train in task.train.items():
        labels, classes = task.train_labels, task.num_classes
        tried = vote(train[task.held], train[task.fit], labels[task.fit], num_classes=classes, ks=ks)
        final = vote(task.test[kind], train, labels, num_classes=classes, ks=ks)
        right = {k: (tried[k] == labels[task.held]).double().mean().item() for k in ks}
        found += [candidate(kind, k, right[k], final[k].cpu().numpy()) for k in ks]
    return found


def candidate(kind: str, k: int, validation: float, predictions: Int[np.ndarray, " m"]) -> Candidate:
    """What k neighbours by one kind of features say."""
    return Candidate(
        metric=f"knn/k{k}_T{TEMPERATURE}_{kind}_l2",
        settings={"features": kind, "k": k},
        validation=validation,
        predictions=predictions,
    )
