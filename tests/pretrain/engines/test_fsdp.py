"""FSDP on real ranks: bit by bit what one process does that accumulates the same micro-batches.

A rank takes seconds to start, so the ranks of a size run everything once and the tests look at what they found.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from step_passes import take_passes
from torch import nn

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.distributed.process_group import World, own_share
from eyespot.pretrain.engine import Engine, FSDPConfig, Settings, make_engine
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.networks.eval_mode import at_rest
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.objectives.byol import BYOL
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

ONE = World(rank=0, size=1, device=torch.device("cpu"))
COUNT, STEPS, FEW, TEACHER_STEPS = 8, 8, 3, 12
KINDS = [(precision, checkpointing) for precision in ("fp32", "bf16") for checkpointing in (False, True)]
CLIP = 0.5
"""Below all gradient norms that occur."""
State = dict[str, np.ndarray]


def mae(checkpointing: bool = False) -> Objective:
    run = make_run("mae_tiny")
    run.encoder.checkpointing = checkpointing
    run.objective.decoder_depth = 2
    torch.manual_seed(0)
    return run.objective.build(shallow(run.encoder), run.encoder.image_size)


def shallow(config: EncoderConfig) -> nn.Module:
    """Two blocks: what costs time here is the number of exchanges."""
    encoder = make_encoder(config)
    encoder.blocks = encoder.blocks[:2]
    return encoder


def pixel_cnn() -> Objective:
    run = make_run("pixel_cnn_tiny")
    torch.manual_seed(0)
    return run.objective.build(make_encoder(run.encoder), run.encoder.image_size)


def byol() -> Objective:
    """With a teacher that has blocks of its own, in float64: batch norm and training enlarge roundings."""
    torch.manual_seed(0)
    encoder = shallow(EncoderConfig(name="test_vit", image_size=32))
    return BYOL.Config(momentum=0.9, hidden_dim=16, out_dim=8).build(encoder, 32).double()


def make(name: str, objective: Objective, world: World, optim: str = "adamw", **settings: Any) -> Engine:
    config = OptimConfig(name=optim, trust=0.02, weight_decay=0.05)
    return make_engine(name, objective, world, lambda module: make_optimizer(module, config), Settings(**settings))


def batches(engine: Engine, world: World, step: int, accumulate: int = 1) -> Iterator[tuple[Batch, int]]:
    """This rank's micro-batches of a step: micro-batch i of rank r is part i * ranks + r of the batch."""
    views = engine.objective.views().views
    generator = torch.Generator().manual_seed(step)
    whole = [torch.randn(COUNT, 3, view.size, view.size, generator=generator) for view in views]
    dtype = next(engine.objective.parameters()).dtype
    for part in range(world.rank, world.size * accumulate, world.size):
        rows = torch.arange(COUNT).chunk(world.size * accumulate)[part]
        yield Batch(views=[v[rows].to(dtype) for v in whole], ids=rows, epochs=rows * 0, labels=rows, seed=step), part


def train(engine: Engine, world: World, steps: int | list[int] = STEPS, accumulate: int = 1, lr: float = 2e-3) -> list:
    losses = []
    for step in range(steps) if isinstance(steps, int) else steps:
        scalars = take_passes(engine, batches(engine, world, step, accumulate))
        assert engine.step(lr)[1]
        engine.objective.after_step((step + 1) / 100)
        losses.append([float(each["loss"]) for each in scalars])
    return losses


def whole(engine: Engine) -> State:
    """The state; without the key third of biases: its true gradient is 0, and AdamW enlarges its noise."""
    return without_keys({n: getattr(t, "full_tensor", t.clone)().numpy() for n, t in engine.save_tensors().items()})


def without_keys(state: State) -> State:
    for name, array in state.items():
        if "qkv.bias" in name and array.ndim:
            state[name] = np.delete(array, np.s_[len(array) // 3 : 2 * len(array) // 3])
    return state


def different(one: State, other: State, tolerance: float = 0.0) -> list[str]:
    """Names of tensors that differ by more than a share of their norm; what is below 1e-6 is noise of a zero."""
    assert one.keys() == other.keys()
    return [n for n in one if np.linalg.norm(one[n] - other[n]) > tolerance * max(np.linalg.norm(other[n]), 1e-6)]


def images(engine: Engine) -> torch.Tensor:
    return next(batches(engine, ONE, 99))[0].views[0]


# What the ranks do.


def two(world: World, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for precision, checkpointing in KINDS:
        engine = make("fsdp", mae(checkpointing), world, precision=precision)
        found[f"{precision} {checkpointing}"] = train(engine, world), whole(engine)
    found["shares"] = [(own_share(t).nbytes, t.nbytes) for t in engine.save_tensors().values()]
    found["alone"] = looked_at(world)
    found["nan"], found["nan on the device"] = with_a_nan(world), with_a_nan(world, on_device=True)
    found["teacher"] = [with_a_teacher(world, optim) for optim in ("sgd", "lars")]
    engine = make("fsdp", mae(), world, accumulate=2)
    found["accumulated"] = train(engine, world, FEW, accumulate=2), whole(engine)
    engine = make("fsdp", mae(), world, fsdp=FSDPConfig(gather="bf16"))
    found["gather"] = train(engine, world, FEW)
    with at_rest(engine.objective):
        found["gather features"] = engine.objective.encode(images(engine)).numpy()
    found["saved"] = saved(world, folder)
    return found


def looked_at(world: World) -> tuple[State, np.ndarray]:
    """Monitors and pictures at every place between two steps, before the first one too."""
    engine = make("fsdp", mae(), world)

    def look() -> torch.Tensor:
        engine.objective.picture(next(batches(engine, ONE, 7))[0])
        with at_rest(engine.objective):
            return engine.objective.encode(images(engine))

    for step in range(FEW):
        look()
        take_passes(engine, batches(engine, world, step))
        look()
        engine.step(2e-3)
        look()
        engine.objective.after_step((step + 1) / 100)
    return whole(engine), look().numpy()


def with_a_nan(world: World, on_device: bool = False) -> tuple[State, State]:
    """Two runs of the steps 0, 1, 3, 4, and in the first a step with a NaN on rank 1 and one that is dropped."""
    engines = [make("fsdp", mae(), world, clip=CLIP if on_device else None) for _ in range(2)]
    for engine in engines:
        engine.decides_on_device = on_device  # as on a GPU
    train(engines[0], world, [0, 1])
    ((batch, seed),) = batches(engines[0], world, 2)
    if world.rank == 1:
        batch = replace(batch, views=[view * math.nan for view in batch.views])
    take_passes(engines[0], [(batch, seed)])
    norm, applied = engines[0].step(2e-3)
    assert not applied
    assert not math.isfinite(norm)
    engines[0].objective.after_skip()
    take_passes(engines[0], batches(engines[0], world, 2))
    engines[0].discard()
    train(engines[0], world, [3, 4])
    train(engines[1], world, [0, 1, 3, 4])
    return whole(engines[0]), whole(engines[1])


def with_a_teacher(world: World, optim: str) -> tuple[list, State]:
    name = "fsdp" if world.size > 1 else "ddp"
    engine = make(name, byol(), world, optim=optim)
    return train(engine, world, TEACHER_STEPS, lr=0.05), whole(engine)


def saved(world: World, folder: Path) -> State:
    """Written on these ranks, read on them by an engine that has gone elsewhere."""
    engine, other = make("fsdp", mae(), world), make("fsdp", mae(), world)
    train(engine, world, 3)
    train(other, world, [7, 8])
    meta = checkpoint.Meta(step=3, loader={}, world_size=world.size, run_key="k")
    writer = CheckpointWriter(folder, keep=2)
    writer.save(engine.save_tensors(), meta, wait=True)
    writer.close()
    checkpoint.load(checkpoint.newest(folder), other.load_tensors)
    state = whole(engine)
    assert not different(state, whole(other))
    assert train(engine, world, [3, 4]) == train(other, world, [3, 4])
    return state


def four(world: World) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for way in ("all", "node"):
        os.environ["LOCAL_WORLD_SIZE"] = "2"
        engine = make("fsdp", mae(), world, clip=CLIP, fsdp=FSDPConfig(shard_over=way))
        found[way] = train(engine, world), whole(engine)
        found[f"{way} bytes"] = sum(own_share(tensor).nbytes for tensor in engine.save_tensors().values())
    found["lars"] = {
        way: whole_after(make("fsdp", byol(), world, optim="lars", fsdp=FSDPConfig(shard_over=way)), world)
        for way in ("all", "node")
    }
    for number in ("3", None):
        os.environ.pop("LOCAL_WORLD_SIZE")
        os.environ |= {"LOCAL_WORLD_SIZE": number} if number else {}
        with pytest.raises(UserError, match=r"fsdp\.shard_over 'node': "):
            make("fsdp", mae(), world, fsdp=FSDPConfig(shard_over="node"))
    return found


def whole_after(engine: Engine, world: World) -> State:
    train(engine, world, 5, lr=0.05)
    return whole(engine)


def one(world: World) -> tuple[list, State]:
    """A world of one, without a process group at first; and what it refuses."""
    resnet = BYOL.Config().build(make_encoder(EncoderConfig(name="resnet18", image_size=32)), 32)
    with pytest.raises(UserError, match=r"fsdp\.gather 'bf16': .*batch norm"):
        make("fsdp", resnet, world, fsdp=FSDPConfig(gather="bf16"))
    masked = make("fsdp", pixel_cnn(), world, fsdp=FSDPConfig(gather="bf16"))
    same = make("ddp", pixel_cnn(), world)
    assert np.allclose(train(masked, world, 2), train(same, world, 2), rtol=0.02), (
        "masks stay fp32 where weights do not"
    )
    engine = make("fsdp", mae(), world, accumulate=2, fsdp=FSDPConfig(shard_over="node"))
    return train(engine, world, FEW, accumulate=2), whole(engine)


def compiled(world: World) -> tuple[list, State, list, State]:
    answers: list[Any] = []
    for name in ("ddp", "fsdp"):
        torch._dynamo.reset()  # what one engine compiled shall not serve the other
        engine = make(name, mae(), world, compile=True)
        answers += [train(engine, world, 3), whole(engine)]
    return tuple(answers)


# What is asked of them.


@pytest.fixture(scope="module")
def two_ranks(on_ranks, tmp_path_factory) -> list[dict[str, Any]]:
    return on_ranks(two, 2, tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def four_ranks(on_ranks) -> list[dict[str, Any]]:
    return on_ranks(four, 4)


def alone(accumulate: int, steps: int = STEPS, *, checkpointing: bool = False, **settings: Any) -> tuple:
    engine = make("ddp", mae(checkpointing), ONE, accumulate=accumulate, **settings)
    return train(engine, ONE, steps, accumulate), whole(engine), engine


@pytest.mark.parametrize(("precision", "checkpointing"), KINDS)
def test_two_ranks_equal_one_process_that_accumulates(precision, checkpointing, two_ranks):
    losses, state, _ = alone(2, checkpointing=checkpointing, precision=precision)
    assert losses[-1][0] < losses[0][0]
    answers = [found[f"{precision} {checkpointing}"] for found in two_ranks]
    assert [list(pair) for pair in zip(*([x for (x,) in own] for own, _ in answers), strict=True)] == losses
    for _, own in answers:
        assert different(own, state) == []


def test_accumulating_on_two_ranks_equals_one_process(two_ranks):
    losses, state, _ = alone(4, FEW)
    (first, own), (second, same) = (found["accumulated"] for found in two_ranks)
    assert [[a, c, b, d] for (a, b), (c, d) in zip(first, second, strict=True)] == [
        pytest.approx(row, rel=1e-6) for row in losses
    ]
    assert different(own, same) == []
    assert different(own, state, 1e-6) == []


def test_state_is_cut_in_half(two_ranks):
    for found in two_ranks:
        own, everything = (sum(sizes) for sizes in zip(*found["shares"], strict=True))
        assert own <= 0.55 * everything


def test_looking_between_steps_changes_nothing_and_sees_the_newest_weights(two_ranks):
    _, state, engine = alone(2, FEW)
    with at_rest(engine.objective):
        expected = engine.objective.encode(images(engine)).numpy()
    for found in two_ranks:
        own, features = found["alone"]
        assert different(own, state) == []
        assert np.array_equal(features, expected)


def test_a_nan_on_one_rank_is_a_step_that_never_was(two_ranks):
    for found in two_ranks:
        assert different(*found["nan"]) == []
        assert different(*found["nan on the device"]) == []


@pytest.mark.parametrize(("number", "optim"), [(0, "sgd"), (1, "lars")])
def test_a_teacher_follows_on_its_shards(number, optim, two_ranks):
    losses, state = with_a_teacher(ONE, optim)
    first, second = (found["teacher"][number] for found in two_ranks)
    means = [(a + b) / 2 for (a,), (b,) in zip(first[0], second[0], strict=True)]
    assert means == pytest.approx([loss for (loss,) in losses], rel=1e-9)
    start = without_keys({f"model.{name}": tensor.numpy() for name, tensor in byol().state_dict().items()})
    moved = [name for name in state if "teacher_encoder.blocks" in name and not np.allclose(state[name], start[name])]
    assert len(moved) > 10
    for own in (first[1], second[1]):
        teachers = {name: array for name, array in own.items() if name.startswith("model.teacher")}
        assert different(teachers, {name: state[name] for name in teachers}, 1e-6) == []


def test_gathering_in_bf16_stays_near(two_ranks):
    losses, _, _ = alone(2, FEW)
    for rank, found in enumerate(two_ranks):
        own = [loss for (loss,) in found["gather"]]
        expected = [row[rank] for row in losses]
        assert own != expected
        assert own == pytest.approx(expected, rel=0.01)
        assert np.isfinite(found["gather features"]).all()


def test_a_checkpoint_moves_to_one_process(two_ranks, tmp_path_factory):
    folder = next(tmp_path_factory.getbasetemp().glob("saved*"))
    engine = make("ddp", mae(), ONE)
    assert checkpoint.load(checkpoint.newest(folder), engine.load_tensors).step == 3
    for found in two_ranks:
        assert different(whole(engine), found["saved"]) == []


@pytest.mark.parametrize("way", ["all", "node"])
def test_four_ranks_that_clip_equal_one_process_to_rounding(way, four_ranks):
    losses, state, _ = alone(4, clip=CLIP)
    answers = [found[way] for found in four_ranks]
    rows = [[loss for (loss,) in row] for row in zip(*(own for own, _ in answers), strict=True)]
    assert rows == [pytest.approx(row, rel=1e-6) for row in losses]
    for _, own in answers:
        models = {name: array for name, array in own.items() if name.startswith("model.")}
        assert different(models, {name: state[name] for name in models}, 1e-6) == []


def test_a_node_holds_everything_once(four_ranks):
    for found in four_ranks:
        assert found["node bytes"] > 1.7 * found["all bytes"]


def test_lars_knows_whole_norms_however_tensors_are_cut(four_ranks):
    expected = whole_after(make("ddp", byol(), ONE, optim="lars"), ONE)
    for found in four_ranks:
        for own in found["lars"].values():
            weights = {name: array for name, array in own.items() if "weight" in name}
            assert different(weights, {name: expected[name] for name in weights}, 1e-9) == []


def test_one_process_alone(on_ranks):
    (answer,) = on_ranks(one, 1)
    losses, state, _ = alone(2, FEW)
    assert answer[0] == losses
    assert different(answer[1], state) == []


@pytest.mark.thorough
def test_compiled_blocks_are_the_same_on_shards(on_ranks):
    for losses, state, own_losses, own in on_ranks(compiled, 2):
        assert own_losses == losses
        assert different(own, state) == []
