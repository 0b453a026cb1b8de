"""No step asks the device for a value: of every objective, on a stand-in for a GPU, alone and as one of two ranks."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Engine, MicroBatch
from eyespot.pretrain.loop.step_metrics import StepRecord
from eyespot.pretrain.networks.sync_batchnorm import RunningStatistics, synchronize_batch_norm
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.optimizers import OptimConfig

sys.path.insert(0, str(Path(__file__).parent))
from engine_states import COUNT, make_batch, make_objective, make_single_engine, refresh
from stand_in_device import METHODS, WRITTEN, counts, second_step

pytestmark = pytest.mark.parametrize("method", METHODS)
ONE = World(rank=0, size=1, device=torch.device("cpu"))
OPTIM = OptimConfig(name="sgd", weight_decay=0.1)
SLACK = 1.02
"""A step may take so many times the operators that are written down."""


@pytest.fixture
def exchanges() -> Iterator[list[str]]:
    """This process is one of two, the other of which exists in name only: what is exchanged is noted."""
    noted: list[str] = []
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    with ExitStack() as stack:
        for name in ("all_reduce", "all_gather_single"):
            stack.enter_context(patch.object(dist, name, lambda *_, name=name, **__: noted.append(name)))
        yield noted
    dist.destroy_process_group()


def test_a_step_waits_for_nothing_and_takes_no_more_operators_than_it_did(method):
    waits = second_step(method)
    assert waits.found == []
    assert waits.read_late == 1, "what came of the step, for the host to look at in the next one"
    written, now = json.loads(WRITTEN.read_text())[method], counts(waits)
    assert now["operators"] <= SLACK * written["operators"] and now["copies"] <= written["copies"], (
        f"a step took {written} and takes {now}; if it must: python tests/stand_in_device.py"
    )


def test_a_step_among_ranks_waits_for_nothing(method, exchanges):
    waits = second_step(method, synchronize_batch_norm)
    assert waits.found == []
    assert "all_reduce" in exchanges, "whether all ranks have a finite loss"


def test_a_step_that_the_device_skips_leaves_what_one_leaves_that_the_host_skips(method):
    """The same code on the CPU's tensors: after a good step, a bad one, of which nothing stays, and a good one."""
    if type(make_objective(method)).after_step is Objective.after_step and method != "mae":
        pytest.skip("nothing follows a step of it; of the optimiser: tests/pretrain/engines/test_torch_engine.py")
    on_host, on_device = (make_single_engine(method, "ddp", ONE, optim=OPTIM, clip=0.5) for _ in range(2))
    on_device.decides_on_device = True
    states = []
    for engine in (on_host, on_device):
        refresh(engine.objective)
        good = after(engine, make_batch(engine.objective))
        bad = make_batch(engine.objective, seed=1)
        bad.views[0][0] = math.nan
        states.append((good, after(engine, bad), after(engine, make_batch(engine.objective))))
    for host, device in zip(*states, strict=True):
        assert [name for name in host if not alike(host[name].double(), device[name].double())] == []
    for good, bad, _ in states:
        assert [name for name in good if not torch.equal(good[name], bad[name])] == []


def alike(one: Tensor, other: Tensor) -> bool:
    """To rounding."""
    return bool((one - other).norm() <= 1e-3 * one.norm() + 1e-4)


def after(engine: Engine, batch: Batch) -> dict[str, Tensor]:
    """All that a checkpoint would hold after the loop's step, whoever decides whether it is taken."""
    passed, statistics = StepRecord(0), RunningStatistics(engine.objective)
    scalars = engine.forward(MicroBatch(batch=batch))
    engine.backward(scalars["loss"])
    passed.add(batch, scalars)
    _, taken = engine.step(0.05, passed.finite())
    statistics.put_back_unless(taken)
    if taken is False:
        engine.objective.after_skip()
    else:
        engine.objective.after_step(0.5, taken)
    return {name: tensor.detach().clone() for name, tensor in engine.save_tensors().items()}


def test_a_forward_pass_on_cuda_mixes_no_devices(method):
    """An operator on fake tensors raises where one is the CPU's; a backward pass asks for a real driver."""
    objective = make_objective(method)
    if objective.in_stages:  # where the run stands is read once, before its first pass
        with torch.no_grad():
            objective(make_batch(objective))
    with FakeTensorMode(), patch.object(torch, "randint", lambda *_, **__: 7), patch.object(Tensor, "pin_memory", here):
        for part in objective.modules():
            for name, parameter in part.named_parameters(recurse=False):
                fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
                setattr(part, name, nn.Parameter(fake, requires_grad=parameter.requires_grad))
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda"))
        ids, spec = torch.empty(COUNT, dtype=torch.int64), objective.views()
        batch = FakeBatch(
            views=[
                torch.empty(COUNT, *shape, dtype=getattr(torch, view.dtype), device="cuda")
                for view, shape in zip(spec.views, spec.shapes(), strict=True)
            ],
            ids=ids,
            epochs=ids,
            labels=torch.empty(COUNT, dtype=torch.int64, device="cuda"),
            seed=0,
        )
        found = objective(batch)
    assert {scalar.device.type for scalar in found.values()} == {"cuda"}


class FakeBatch(Batch):
    """Its random numbers have a shape and no values."""

    def uniforms(self, stream: str, count: int) -> Tensor:
        return torch.empty(len(self), count, device="cuda")


def here(tensor: Tensor) -> Tensor:
    """In place of ``Tensor.pin_memory``."""
    return tensor
