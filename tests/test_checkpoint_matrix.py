"""A checkpoint of any engine on 1, 2 or 3 ranks, loaded by any engine on 1, 2 or 3 ranks: the same run goes on."""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from step_passes import take_passes

from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.reader import Meta
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Engine
from eyespot.pretrain.optim.optimizers import OptimConfig

sys.path.insert(0, str(Path(__file__).parent))
from engine_states import ENGINES, make_batch, make_single_engine, own_batches, rows_of, whole_state

pytestmark = pytest.mark.slow

METHOD = "moco"
"""It has all that a checkpoint may hold: encoder, head, teachers, a queue, running statistics."""
THOROUGH = 3
"""This number of ranks, besides 1 and 2, meets the thorough tests only."""


def make(engine: str, world: World) -> Engine:
    return make_single_engine(METHOD, engine, world, optim=OptimConfig(lr=1e-3))


def step(engine: Engine, world: World, number: int) -> float:
    """The global batch's loss."""
    loss = take_passes(engine, [(own_batches(engine, world)[number], number)])[0]["loss"].clone()
    assert engine.step(1e-3)[1]
    engine.objective.after_step((number + 1) / 10)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(loss)
    return float(loss) / world.size


def write_all(world: World, folder: Path) -> None:
    """With each engine two steps, a checkpoint, its whole state beside it, and the loss of the third step."""
    for name in ENGINES:
        engine = make(name, world)
        for number in range(2):
            step(engine, world, number)
        run_dir = folder / f"{name.replace(' ', '')}-{world.size}"
        writer = CheckpointWriter(run_dir, keep=2)
        meta = Meta(step=2, loader={"samples_consumed": 12}, world_size=world.size, run_key="k", engine=name)
        writer.save(engine.save_tensors(), meta, wait=True)
        writer.close()
        state, loss = whole_state(engine), step(engine, world, 2)
        if world.rank == 0:
            np.savez(run_dir / "state.npz", **state)
            (run_dir / "loss.txt").write_text(repr(loss))
        after = whole_state(engine)
        if world.rank == 0:
            np.savez(run_dir / "after.npz", **after)
        engine.close()


def pairs(ranks: int, written_on: tuple[int, ...], thorough: bool) -> list[tuple[str, str, int]]:
    """Reader, writer and its ranks; of as many ranks as the reader's only its own, and thoroughly the others, too."""
    every = itertools.product(ENGINES, ENGINES, written_on)
    return [
        (reader, writer, count) for reader, writer, count in every if thorough or count != ranks or reader == writer
    ]


def read_all(world: World, folder: Path, wanted: list[tuple[str, str, int]]) -> dict[tuple[str, str, int], list[str]]:
    """What is wrong, by reader and writer."""
    found = {}
    for name in ENGINES:
        engine = make(name, world)
        for writer, ranks in [(writer, ranks) for reader, writer, ranks in wanted if reader == name]:
            run_dir = folder / f"{writer.replace(' ', '')}-{ranks}"
            meta = checkpoint.load(checkpoint.newest(run_dir), engine.load_tensors)
            wrong = [] if (meta.step, meta.world_size) == (2, ranks) else [f"meta {meta}"]
            wrong += differences(whole_state(engine), run_dir / "state.npz")
            loss, expected = step(engine, world, 2), float((run_dir / "loss.txt").read_text())
            if (name, world.size) == (writer, ranks):
                wrong += [] if loss == expected else [f"next loss {loss}, not {expected}"]
                wrong += differences(whole_state(engine), run_dir / "after.npz")
            elif abs(loss - expected) > 1e-5 * expected:
                wrong.append(f"next loss {loss}, not about {expected}")
            found[name, writer, ranks] = wrong
        engine.close()
    return found


def differences(state: dict[str, np.ndarray], path: Path) -> list[str]:
    with np.load(path) as expected:
        if set(expected) != set(state):
            return [f"other tensors: {set(expected) ^ set(state)}"]
        return [name for name in expected if not np.array_equal(expected[name], state[name])]


@pytest.fixture(scope="module")
def written(on_ranks, tmp_path_factory) -> Callable[[tuple[int, ...]], Path]:
    folder, there = tmp_path_factory.mktemp("matrix"), set[int]()

    def written(counts: tuple[int, ...]) -> Path:
        for ranks in sorted(set(counts) - there):
            on_ranks(write_all, ranks, folder)
        there.update(counts)
        return folder

    return written


@pytest.mark.parametrize(
    ("ranks", "written_on", "thorough"),
    [
        (1, (2,), False),
        (2, (1, 2), False),
        pytest.param(1, (1, THOROUGH), True, marks=pytest.mark.thorough),
        pytest.param(2, (2, THOROUGH), True, marks=pytest.mark.thorough),
        pytest.param(THOROUGH, (1, 2, THOROUGH), True, marks=pytest.mark.thorough),
    ],
)
def test_any_engine_reads_what_any_engine_wrote(ranks, written_on, thorough, written, on_ranks):
    """Bit by bit; and the next step has the same loss: on the same engine and ranks to the bit, else to rounding."""
    wanted = pairs(ranks, written_on, thorough)
    for rank in on_ranks(read_all, ranks, written(written_on), wanted):
        assert set(rank) == set(wanted)
        assert {combination: wrong for combination, wrong in rank.items() if wrong} == {}


def six_steps(world: World, folder: Path) -> dict[str, list[str]]:
    """Six steps, and three that another engine goes on from for three: what differs, by engine and method."""
    found = {}
    for name, method in itertools.product(ENGINES, ("mae", METHOD)):
        losses, states = list[list[float]](), list[dict[str, np.ndarray]]()
        run_dir = folder / f"{name.replace(' ', '')}-{method}"
        for first, writes in ((0, True), (3, False)):
            engine = make_single_engine(method, name, world, optim=OptimConfig(lr=1e-3), micro_batch_size=2)
            if not writes:
                checkpoint.load(checkpoint.newest(run_dir), engine.load_tensors)
            losses.append([])
            for number in range(first, 6):
                batch = make_batch(engine.objective, 2 * world.size, seed=number)
                own = rows_of(batch, torch.arange(2 * world.size).chunk(world.size)[world.rank])
                losses[-1].append(float(take_passes(engine, [(own, number)])[0]["loss"]))
                assert engine.step(1e-3)[1]
                engine.objective.after_step((number + 1) / 10)
                if writes and number == 2:
                    writer = CheckpointWriter(run_dir, keep=2)
                    meta = Meta(step=3, loader={}, world_size=world.size, run_key="k", engine=name)
                    writer.save(engine.save_tensors(), meta, wait=True)
                    writer.close()
            states.append(whole_state(engine))
            engine.close()
        wrong = [] if losses[0][3:] == losses[1] else [f"losses {losses}"]
        wrong += [key for key, value in states[0].items() if not np.array_equal(value, states[1][key])]
        found[f"{name}, {method}"] = wrong
    return found


@pytest.mark.thorough
def test_on_four_ranks_three_steps_and_three_more_are_six_to_the_bit(on_ranks, tmp_path):
    for told in on_ranks(six_steps, 4, tmp_path):
        assert {name: wrong for name, wrong in told.items() if wrong} == {}
