"""One batch however it is cut: loss and gradients of eight images, in micro-batches and on ranks, are those of one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from step_passes import take_passes

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
Answer = tuple[list[float], dict[str, torch.Tensor]]
"""Losses of a rank's micro-batches, and its gradients."""


@dataclass(kw_only=True, slots=True)
class Cut:
    """What is cut, by functions that another process can find."""

    make: Callable[[], Objective]
    make_batch: Callable[[int, int], Batch]
    """Of so many images, from that id on."""
    norms: tuple[str, ...] = ()
    """Parts that use running statistics: those of a batch would be a micro-batch's."""

    def answer(self, world: World, parts: int) -> Answer:
        """Of this rank's share of the images, in one micro-batch or as many as there are pairs."""
        objective = self.make()
        own = [self.make_batch(2, first) for first in range(0, 8, 2)][world.rank :: world.size]
        own = own if parts > 1 else [_joined(own)]
        settings = Settings(accumulate=len(own), clip=None, precision="fp32")
        engine = make_engine("ddp", objective, world, lambda module: make_optimizer(module, OptimConfig()), settings)
        for name in self.norms:
            objective.get_submodule(name).eval()
        losses = [float(scalars["loss"]) for scalars in take_passes(engine, [(batch, 5) for batch in own])]
        return losses, {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


def assert_one_batch(cut: Cut, on_ranks: Any, *, loss: float, gradients: float, resampled: float) -> None:
    """Whether the step of one process, whole or in micro-batches, is that of two ranks, whole or in micro-batches.

    Args:
        cut: the images, and what learns from them.
        on_ranks: the fixture.
        loss: relative tolerance.
        gradients: absolute tolerance.
        resampled: that of position embeddings, which timm brings to views of another size in float32.
    """
    (whole,), expected = cut.answer(ALONE, 1)
    answers = [cut.answer(ALONE, 2), *(answer for rank in on_ranks(partial(_both, cut=cut), 2) for answer in rank)]
    totals = [sum(losses) / len(losses) for losses, _ in answers]
    assert totals[0] == pytest.approx(whole, rel=loss)
    for one, other in ((1, 3), (2, 4)):
        assert (totals[one] + totals[other]) / 2 == pytest.approx(whole, rel=loss)
    for _, found in answers:
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            rounding = resampled if name.endswith("pos_embed") else gradients
            assert torch.allclose(found[name], gradient, rtol=1e-6, atol=rounding), name


def _both(world: World, cut: Cut) -> list[Answer]:
    return [cut.answer(world, parts) for parts in (1, 2)]


def _joined(batches: list[Batch]) -> Batch:
    views = [torch.cat(views) for views in zip(*(batch.views for batch in batches), strict=True)]
    ids = torch.cat([batch.ids for batch in batches])
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)
