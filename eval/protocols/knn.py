"""Weighted nearest neighbours: what the features hold without any training.

The vote of Wu et al. 2018 (arXiv:1805.01978) as DINO uses it (arXiv:2104.14294): cosine similarity, and each of the
k nearest training samples votes for its class with weight exp(similarity / T).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from eyespot.eval.protocols.task import Candidate, Task

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07


def nearest(
    queries: Float[Tensor, "q d"], bank: Float[Tensor, "n d"], k: int, *, tile: int = 16_384
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
        products = queries @ bank[start : start + tile].T
        values, places = products.topk(min(k, products.shape[1]))
        values, rows = torch.cat([best, values], 1), torch.cat([rows, places + start], 1)
        best, order = values.topk(min(k, values.shape[1]))
        rows = rows.gather(1, order)
    return best, rows


def vote(
    queries: Float[Tensor, "q d"],
    bank: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    num_classes: int,
    ks: tuple[int, ...] = KS,
    temperature: float = TEMPERATURE,
    tile: int = 1024,
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
        weights, classes = (similarity / temperature).exp(), labels[neighbours]
        for k in ks:
            votes = weights.new_zeros(len(rows), num_classes).scatter_add_(1, classes[:, :k], weights[:, :k])
            winners[k].append(votes.argmax(1))
    return {k: torch.cat(parts) for k, parts in winners.items()}


def candidates(task: Task) -> list[Candidate]:
    """Weighted votes for every kind of features and every k that the training set is large enough for."""
    ks = tuple(k for k in KS if k <= len(task.fit)) or (len(task.fit),)
    found = []
    for kind, train in task.train.items():
        labels, classes = task.train_labels, task.num_classes
        tried = vote(train[task.held], train[task.fit], labels[task.fit], num_classes=classes, ks=ks)
        final = vote(task.test[kind], train, labels, num_classes=classes, ks=ks)
        found += [
            Candidate(
                metric=f"knn/k{k}_T{TEMPERATURE}_{kind}_l2",
                settings={"features": kind, "k": k},
                validation=(tried[k] == labels[task.held]).double().mean().item(),
                predictions=final[k].cpu().numpy(),
            )
            for k in ks
        ]
    return found
