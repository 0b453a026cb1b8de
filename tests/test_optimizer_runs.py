"""Muon and schedule-free AdamW in engines: one process, ranks and shards agree, and what goes on is the same run."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from step_passes import take_passes

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Engine
from eyespot.pretrain.optim.optimizers import OptimConfig
from eyespot.pretrain.optim.schedule_free import ScheduleFreeAdamW

sys.path.insert(0, str(Path(__file__).parent))
from engine_states import make_batch, make_single_engine, rows_of, whole_state

pytestmark = pytest.mark.slow

NAMES = ("muon", "schedulefree")
METHOD = "mae"


def step(engine: Engine, world: World, number: int) -> float:
    """Of four samples: both ranks' halves, or one process's two micro-batches."""
    batch = make_batch(engine.objective, 4, seed=number)
    parts = torch.arange(4).chunk(2)
    own = [parts[world.rank]] if world.size == 2 else parts
    rows = take_passes(engine, [(rows_of(batch, rows), number) for rows in own])
    assert engine.step(0.01, done=number / 5)[1]
    engine.objective.after_step((number + 1) / 5)
    return float(rows[0]["loss"])


def make(optim: str, engine: str, world: World) -> Engine:
    changes = OptimConfig(name=optim, weight_decay=0.1)
    return make_single_engine(METHOD, engine, world, optim=changes, accumulate=3 - world.size, precision="fp32")


def train(world: World, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Four steps; a checkpoint after two; goes on from it on the same engine."""
    found = {}
    for optim in NAMES:
        for name in ("ddp", "fsdp"):
            engine, out = make(optim, name, world), folder / f"{optim}-{name}-{world.size}"
            found[f"{optim} {name} start"] = whole_state(engine)
            for number in range(2):
                step(engine, world, number)
            writer = CheckpointWriter(out, keep=2)
            meta = checkpoint.Meta(step=2, loader={}, world_size=world.size, run_key="k", engine=name)
            writer.save(engine.save_tensors(), meta, wait=True)
            writer.close()
            with engine.averaged():
                pass
            found[f"{optim} {name} saved"] = whole_state(engine)
            losses = [step(engine, world, number) for number in (2, 3)]
            found[f"{optim} {name}"] = whole_state(engine)
            engine.close()
            again = make(optim, name, world)
            checkpoint.load(checkpoint.newest(out), again.load_tensors)
            assert [step(again, world, number) for number in (2, 3)] == losses, (optim, name)
            same = whole_state(again)
            assert all(np.array_equal(same[key], value) for key, value in found[f"{optim} {name}"].items())
            again.close()
    return found


def go_on(world: World, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """In one process, from what two ranks of either engine have saved."""
    found = {}
    for optim in NAMES:
        for writer in ("ddp", "fsdp"):
            engine = make(optim, "ddp", world)
            checkpoint.load(checkpoint.newest(folder / f"{optim}-{writer}-2"), engine.load_tensors)
            found[f"{optim} {writer} saved"] = whole_state(engine)
            for number in (2, 3):
                step(engine, world, number)
            found[f"{optim} {writer}"] = whole_state(engine)
            engine.close()
    return found


def apart(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest difference of a weight tensor in norm; of biases of keys, whose gradient is rounding, none."""
    names = [name for name in one if name.startswith("model.") and "qkv.bias" not in name]
    return max(float(np.linalg.norm(one[name] - other[name]) / (np.linalg.norm(one[name]) + 1e-3)) for name in names)


@pytest.mark.thorough
def test_ranks_engines_and_checkpoints_agree(on_ranks, tmp_path):
    alone, both = on_ranks(train, 1, tmp_path)[0], on_ranks(train, 2, tmp_path)[0]
    resumed = on_ranks(go_on, 1, tmp_path)[0]
    for optim in NAMES:
        for name in ("ddp", "fsdp"):
            assert apart(both[f"{optim} {name}"], alone[f"{optim} ddp"]) < 1e-4, (optim, name)
            assert all(
                np.array_equal(resumed[f"{optim} {name} saved"][key], value)
                for key, value in both[f"{optim} {name} saved"].items()
            )
            assert apart(resumed[f"{optim} {name}"], alone[f"{optim} ddp"]) < 1e-4, (optim, name)
        assert apart(alone[f"{optim} ddp"], alone[f"{optim} ddp start"]) > 1e-3


def test_what_is_saved_is_the_average_and_a_skipped_step_leaves_it():
    alone = World(rank=0, size=1, device=torch.device("cpu"))
    engine = make("schedulefree", "ddp", alone)
    for number in range(2):
        step(engine, alone, number)
    optimizer, saved = engine._optimizer, whole_state(engine)
    assert isinstance(optimizer, ScheduleFreeAdamW)
    weight = "encoder.blocks.0.mlp.fc1.weight"
    learning = engine.objective.get_parameter(weight).detach().clone()
    assert not np.array_equal(saved[f"model.{weight}"], learning.numpy())
    with engine.averaged():
        assert np.array_equal(engine.objective.get_parameter(weight).detach().numpy(), saved[f"model.{weight}"])
    assert torch.equal(engine.objective.get_parameter(weight), learning)
    engine.decides_on_device = True
    take_passes(engine, [(make_batch(engine.objective, 4), 5)])
    assert not engine.step(0.01, torch.tensor(False))[1]
    assert all(np.array_equal(value, saved[key]) for key, value in whole_state(engine).items())


@pytest.mark.parametrize("name", NAMES)
def test_zero_refuses_them_in_a_line(name):
    alone = World(rank=0, size=1, device=torch.device("cpu"))
    with pytest.raises(UserError, match=rf"optim.name {name}: needs .*, ZeRO cuts tensors up; use --engine fsdp"):
        make_single_engine(METHOD, "deepspeed 2", alone, optim=OptimConfig(name=name))
