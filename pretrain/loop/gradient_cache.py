"""A contrastive batch larger than memory: cached gradients (Gao et al. 2021, arXiv:2101.06983).

All micro-batches are embedded without keeping activations, the loss of all rows gives the gradient in each row, and a
second forward pass per micro-batch carries it on to the weights. By the chain rule that is the gradient of the whole
batch, for one more forward pass. Batch norm is the exception: its statistics are those of a micro-batch over all ranks,
here as in any accumulation; both passes see the same ones, and running statistics follow the second pass only.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch

from eyespot.pretrain.engine import Engine, MicroBatch
from eyespot.pretrain.families.contrastive_objective import Compared, Contrastive, Rows


def compared(engine: Engine, parts: Iterable[MicroBatch]) -> list[MicroBatch]:
    """A first look at all micro-batches of a step, whose rows are compared: they know then what their rows should do.

    Their forward passes return the loss of the whole step, and the gradients of their backward passes add up to its
    gradient.

    Args:
        engine: its objective is contrastive.
        parts: all of the step's.
    """
    objective = engine.objective
    assert isinstance(objective, Contrastive)
    taken: list[MicroBatch] = []
    embedded: list[Rows] = []
    targets: list[Rows] = []
    with torch.no_grad():
        for part in parts:
            found = engine.forward(replace(part, known={"only_rows": True}))
            taken.append(part)
            embedded.append(found["rows"])
            targets.append(found["targets"])
    leaves = {name: rows.requires_grad_() for name, rows in _joined(embedded).items()}
    with engine.autocast():
        scalars = objective.compare({**leaves, **_joined(targets)})
    gradients = torch.autograd.grad(scalars["loss"], list(leaves.values()))
    scalars = {name: scalar.detach() for name, scalar in scalars.items()}
    sizes = [len(part.batch) for part in taken]
    shares = zip(*(gradient.split(sizes) for gradient in gradients), strict=True)
    return [
        replace(
            part,
            num_averaged=1,
            known={"compared": Compared(scalars=scalars, gradients=dict(zip(leaves, share, strict=True)))},
        )
        for part, share in zip(taken, shares, strict=True)
    ]


def _joined(parts: list[Rows]) -> Rows:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
