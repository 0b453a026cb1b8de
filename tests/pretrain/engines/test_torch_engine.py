"""What DDP and FSDP share, around a module without either: clipping, skipping, state."""

import math

import pytest
import torch
from torch import nn

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.engine import MicroBatch, Settings
from eyespot.pretrain.engines.torch_engine import TorchEngine
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer

CPU = torch.device("cpu")


class Slope(Objective):
    """A loss that is linear in its weights: the gradient is the mean of the images' values."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 1, bias=False)
        nn.init.ones_(self.encoder.weight)
        self.register_buffer("seen", torch.zeros(()))

    def views(self):
        raise AssertionError("not asked for here")

    def forward(self, batch):
        return {"loss": self.encoder(batch.views[0].flatten(1)[:, :4]).mean()}


class Bare(TorchEngine):
    """Notes what it is told of the exchange."""

    def __init__(self, settings: Settings, optim: OptimConfig) -> None:
        objective = Slope()
        self.told: list[bool] = []
        super().__init__(objective, objective, lambda module: make_optimizer(module, optim), settings, CPU)

    def sync_gradients(self, last: bool) -> None:
        self.told.append(last)


def make(optim: OptimConfig | None = None, **settings) -> Bare:
    return Bare(Settings(**settings), optim or OptimConfig(name="sgd", momentum=0.0, weight_decay=0.0))


def take(engine: Bare, *values: float) -> None:
    for number, value in enumerate(values, 1):
        ids = torch.arange(2)
        batch = Batch(views=[torch.full((2, 3, 2, 2), value)], ids=ids, epochs=ids, labels=ids, seed=0)
        part = MicroBatch(batch=batch, last=number == len(values), num_averaged=len(values))
        engine.backward(engine.forward(part)["loss"] / part.num_averaged)


def weights(engine: Bare) -> list[float]:
    return engine.objective.encoder.weight.detach().flatten().tolist()


def test_the_gradient_is_the_mean_and_only_the_last_micro_batch_is_exchanged():
    engine = make()
    take(engine, 1.0, 2.0, 6.0)
    assert engine.told == [False, False, True]
    norm, applied = engine.step(0.5)
    assert (norm, applied) == (pytest.approx(6.0), True)  # sqrt(4 * 3^2)
    assert weights(engine) == pytest.approx([1 - 0.5 * 3.0] * 4)


@pytest.mark.parametrize(("clip", "step"), [(1.0, 0.5 / 1.0), (12.0, 3.0), (None, 3.0)])
def test_only_a_norm_above_the_limit_is_clipped(clip, step):
    engine = make(clip=clip)
    take(engine, 3.0)
    norm, _ = engine.step(1.0)
    assert norm == pytest.approx(6.0), "the norm that is told is the one before clipping"
    assert weights(engine) == pytest.approx([1 - step] * 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_applied_nowhere(bad):
    engine = make(OptimConfig(name="adamw"))
    before = {name: tensor.clone() for name, tensor in engine.save_tensors().items()}
    take(engine, 1.0, bad)
    norm, applied = engine.step(1.0)
    assert not math.isfinite(norm)
    assert not applied
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.save_tensors().items())
    take(engine, 1.0)
    assert engine.step(0.1) == (pytest.approx(2.0), True), "nothing of the skipped step is left in the gradient"


OPTIMISERS = [
    OptimConfig(name="adamw", weight_decay=0.5),
    OptimConfig(name="sgd", weight_decay=0.5),
    OptimConfig(name="sgd", momentum=0.0, weight_decay=0.0),
    OptimConfig(name="lars", weight_decay=0.5),
]


def told_by_the_device(optim: OptimConfig, **settings) -> Bare:
    """The path of a GPU, on the CPU's tensors."""
    engine = make(optim, **settings)
    engine.decides_on_device = True
    return engine


@pytest.mark.parametrize("optim", OPTIMISERS, ids=lambda optim: f"{optim.name} {optim.momentum}")
@pytest.mark.parametrize("clip", [None, 1.0, 100.0])
def test_the_device_steps_as_the_host_does(optim, clip):
    host, device = make(optim, clip=clip), told_by_the_device(optim, clip=clip)
    for value in (3.0, -1.0, 2.0):
        found = []
        for engine in (host, device):
            take(engine, value, value + 1)
            found.append(tuple(map(float, engine.step(0.1))))
        assert found[1] == pytest.approx(found[0])
    for name, tensor in host.save_tensors().items():
        assert torch.allclose(device.save_tensors()[name], tensor, rtol=1e-6), name


@pytest.mark.parametrize("optim", OPTIMISERS, ids=lambda optim: f"{optim.name} {optim.momentum}")
@pytest.mark.parametrize(("bad", "finite"), [(math.nan, True), (math.inf, True), (1.0, False)])
def test_what_the_device_skips_leaves_no_trace(optim, bad, finite):
    engine = told_by_the_device(optim, clip=1.0)
    take(engine, 1.0)
    engine.step(0.1)
    before = {name: tensor.clone() for name, tensor in engine.save_tensors().items()}
    take(engine, bad)
    norm, taken = engine.step(0.1, torch.tensor(finite))
    assert isinstance(norm, torch.Tensor) and not taken
    after = engine.save_tensors()
    assert [name for name in before if not torch.equal(after[name], before[name])] == []
    take(engine, 1.0)
    assert engine.step(0.1)[1], "the optimiser has not been told for good"


def test_the_host_skips_what_the_loss_says():
    engine = make()
    take(engine, 1.0)
    norm, taken = engine.step(0.1, torch.tensor(False))
    assert math.isnan(norm) and taken is False
    assert weights(engine) == [1.0] * 4
    take(engine, 1.0)
    assert engine.step(0.1)[0] == pytest.approx(2.0)


def test_discarded_gradients_leave_no_trace():
    engine = make()
    take(engine, 100.0)
    engine.discard()
    take(engine, 1.0)
    assert engine.step(1.0)[0] == pytest.approx(2.0)


def test_slots_exist_before_the_first_step_and_change_no_weight():
    engine = make(OptimConfig(name="adamw", weight_decay=0.5))
    tensors = engine.save_tensors()
    assert weights(engine) == [1.0] * 4
    slots = {name for name in tensors if name.startswith("optim.")}
    assert slots == {f"optim.state.encoder.weight.{slot}" for slot in ("step", "exp_avg", "exp_avg_sq")}
    assert not any(tensors[slot].any() for slot in slots)
    assert "model.seen" in tensors, "buffers are state too"


def test_state_goes_into_another_engine():
    engine, other = (make(OptimConfig(name="adamw")) for _ in range(2))
    take(engine, 1.0)
    engine.step(0.1)
    saved = {name: tensor.clone() for name, tensor in engine.save_tensors().items()}

    def read(tensors: dict[str, torch.Tensor]) -> None:
        assert tensors.keys() == saved.keys()
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])

    other.load_tensors(read)
    for each in (engine, other):
        take(each, 2.0)
        each.step(0.1)
    assert weights(engine) == weights(other) != [1.0] * 4
