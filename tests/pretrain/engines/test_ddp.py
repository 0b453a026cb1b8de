"""The DDP engine on one process, against torch by hand; several processes: tests/pretrain/test_trainer.py."""

import math

import pytest
import torch
from step_passes import take_passes
from torch import nn

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings
from eyespot.pretrain.engines.ddp import DDPEngine, _FixedBuckets
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer


class Regression(Objective):
    """The least that is an objective."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(4, 2)

    def views(self):
        raise AssertionError("not asked for here")

    def forward(self, batch):
        return {"loss": self.encoder(batch.views[0].mean(dim=(2, 3))[:, :1].expand(-1, 4)).square().mean()}


def make_batch(value: float) -> Batch:
    ids = torch.arange(2)
    return Batch(views=[torch.full((2, 3, 1, 1), value)], ids=ids, epochs=ids, labels=ids, seed=0)


def make_engine(accumulate: int = 1, clip: float | None = None) -> DDPEngine:
    return DDPEngine(
        Regression(),
        World(rank=0, size=1, device=torch.device("cpu")),
        lambda module: make_optimizer(module, OptimConfig()),
        Settings(accumulate=accumulate, clip=clip, precision="fp32"),
    )


def test_making_it_changes_no_weight_and_starts_the_counters_at_zero():
    tensors = make_engine().save_tensors()
    assert torch.equal(tensors["model.encoder.weight"], Regression().encoder.weight)
    assert tensors["optim.state.encoder.weight.step"] == 0
    assert (tensors["optim.state.encoder.bias.exp_avg_sq"] == 0).all()


def test_accumulated_gradients_are_their_mean():
    engine = make_engine(accumulate=2)
    take_passes(engine, [(make_batch(1.0), 0), (make_batch(3.0), 1)])
    gradients = []
    for value in (1.0, 3.0):
        plain = Regression()
        plain(make_batch(value))["loss"].backward()
        gradients.append(plain.encoder.weight.grad)
    expected = (gradients[0] + gradients[1]) / 2
    assert torch.allclose(engine.objective.encoder.weight.grad, expected, rtol=1e-6)
    norm, applied = engine.step(0.0)
    assert applied
    assert engine.objective.encoder.weight.grad is None
    assert norm > 0


def test_clipping_uses_the_global_norm():
    free, clipped = make_engine(), make_engine(clip=0.01)
    for engine in (free, clipped):
        take_passes(engine, [(make_batch(2.0), 0)])
    gradients = torch.cat([p.grad.flatten() for p in clipped.objective.parameters()])
    assert gradients.norm() > 0.01
    norms = [engine.step(1e-2)[0] for engine in (free, clipped)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    assert norms[0] == pytest.approx(gradients.norm().item(), rel=1e-5)
    first = clipped.save_tensors()["optim.state.encoder.weight.exp_avg"] / 0.1
    second = clipped.save_tensors()["optim.state.encoder.bias.exp_avg"] / 0.1
    assert torch.cat([first.flatten(), second]).norm().item() == pytest.approx(0.01, rel=1e-4)


def test_a_gradient_that_is_not_finite_is_applied_nowhere():
    engine = make_engine()
    before = {name: tensor.clone() for name, tensor in engine.save_tensors().items()}
    take_passes(engine, [(make_batch(math.nan), 0)])
    norm, applied = engine.step(1e-2)
    assert not applied
    assert not math.isfinite(norm)
    for name, tensor in engine.save_tensors().items():
        assert torch.equal(tensor, before[name]), name


class Convolution(Objective):
    """With several tensors, one of four dimensions among them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))

    def views(self):
        raise AssertionError("not asked for here")

    def forward(self, batch):
        return {"loss": self.encoder(batch.views[0]).square().mean()}


def trained(world: World, plain: bool) -> tuple[list[torch.Tensor], int]:
    """The weights after two steps of two micro-batches, and how many buckets hold the gradients of the first."""
    engine = DDPEngine(
        Convolution(), world, lambda module: make_optimizer(module, OptimConfig()), Settings(accumulate=2, clip=0.1)
    )
    if plain:
        engine._wrapped = engine._call = _FixedBuckets(engine.objective, forward_sync_buffers=False)
    memories = set()
    for step in range(2):
        ids = torch.arange(2)
        generator = torch.Generator().manual_seed(10 * step + world.rank)
        views = [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2)]
        parts = [(Batch(views=[view], ids=ids, epochs=ids, labels=ids, seed=0), 0) for view in views]
        take_passes(engine, parts)
        memories |= {p.grad.untyped_storage().data_ptr() for p in engine.objective.parameters()} if not step else set()
        assert engine.step(1e-2)[1]
    return [parameter.detach() for parameter in engine.objective.parameters()], len(memories)


def views_and_copies(world: World) -> list[tuple[list[torch.Tensor], int]]:
    return [trained(world, plain) for plain in (False, True)]


def test_gradients_in_buckets_have_the_bits_of_gradients_beside_them(on_ranks):
    """On three ranks, by which no number is divided exactly."""
    for (ours, buckets), (theirs, tensors) in on_ranks(views_and_copies, 3):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
        assert (buckets, tensors) == (1, 4)


class Crossed(Objective):
    """Its layers are used in another order than they are made in: so their gradients come in another one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.ModuleList(nn.Linear(width, width + 8) for width in (64, 48, 56))

    def views(self):
        raise AssertionError("not asked for here")

    def forward(self, batch):
        rows = batch.views[0].flatten(1)
        for place in (1, 2, 0):
            rows = self.encoder[place](rows).tanh()
        return {"loss": rows.square().mean()}


def crossed(world: World) -> DDPEngine:
    return DDPEngine(
        Crossed(), world, lambda module: make_optimizer(module, OptimConfig()), Settings(accumulate=1, clip=None)
    )


def step_of(engine: DDPEngine, number: int, world: World) -> dict[str, torch.Tensor]:
    """The state after a step."""
    ids, generator = torch.arange(2), torch.Generator().manual_seed(10 * number + world.rank)
    views = [torch.randn(2, 3, 4, 4, generator=generator)]
    take_passes(engine, [(Batch(views=views, ids=ids, epochs=ids, labels=ids, seed=0), 0)])
    assert engine.step(1e-2)[1]
    return {name: tensor.clone() for name, tensor in engine.save_tensors().items()}


def stopped_and_not(world: World) -> list[dict[str, torch.Tensor]]:
    """The state after the second step: of an engine that took the first, and of a new one that has read its state."""
    engine, other = crossed(world), crossed(world)
    first = step_of(engine, 0, world)
    for name, tensor in other.save_tensors().items():
        tensor.copy_(first[name])
    return [step_of(engine, 1, world), step_of(other, 1, world)]


def test_an_engine_that_goes_on_adds_up_as_one_that_never_stopped(on_ranks):
    """On four ranks, which add a number up in an order that hangs on its place in a bucket."""
    for whole, parts in on_ranks(stopped_and_not, 4):
        assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
