"""A contrastive batch larger than memory: cached gradients (Gao et al. 2021, arXiv:2101.06983).

All micro-batches are embedded without keeping activations, the loss of all rows gives the gradient in each row, and a
second forward pass per micro-batch carries it on to the weights. By the chain rule that is the gradient of the whole
batch, for one more forward pass. Batch norm is the exception: its statistics are those of a micro-batch over all ranks,
here as in any accumulation; both passes see the same ones, and running statistics follow the second pass only.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.contrastive_objective import Contrastive, Rows


def cached_gradients(
    objective: Contrastive,
    forward: Callable[..., dict[str, Any]],
    micro_batches: Iterable[tuple[Batch, int]],
    autocast: Callable[[], AbstractContextManager],
) -> tuple[list[tuple[Batch, int, Rows]], dict[str, Tensor]]:
    """The first pass over a step, and its loss.

    Args:
        objective: compares.
        forward: the objective's own, as the engine calls it.
        micro_batches: each with its seed of torch's generator.
        autocast: the precision in which to compare.

    Returns:
        Each micro-batch with its seed and the loss's gradient in its rows, for ``objective(batch, gradients)``; and the
        step's detached scalars.
    """
    kept: list[tuple[Batch, int]] = []
    embedded: list[Rows] = []
    targets: list[Rows] = []
    with torch.no_grad():
        for batch, seed in micro_batches:
            torch.manual_seed(seed)
            kept.append((batch, seed))
            found = forward(batch, only_rows=True)
            embedded.append(found["rows"])
            targets.append(found["targets"])
    leaves = {name: rows.requires_grad_() for name, rows in _joined(embedded).items()}
    with autocast():
        scalars = objective.compare({**leaves, **_joined(targets)})
    gradients = torch.autograd.grad(scalars["loss"], list(leaves.values()))
    sizes = [len(batch) for batch, _ in kept]
    parts = zip(*(gradient.split(sizes) for gradient in gradients), strict=True)
    cached = [
        (batch, seed, dict(zip(leaves, part, strict=True))) for (batch, seed), part in zip(kept, parts, strict=True)
    ]
    return cached, {name: scalar.detach() for name, scalar in scalars.items()}


def _joined(parts: list[Rows]) -> Rows:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
