"""A run without memory ends in one line, and with the micro-batch that the line names it runs."""

import dataclasses
import os
import re
import resource
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from eyespot.cluster.cli import main
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.pretrain import trainer
from eyespot.pretrain.distributed.collectives import barrier
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.run_end import TrainingError
from eyespot.pretrain.planning import trace_apart
from eyespot.pretrain.planning.out_of_memory import Room, explanation, forget, in_words, is_lack, room
from eyespot.pretrain.planning.trace import Trace, trace
from eyespot.pretrain.recipe_lookup import make_run

CPU = torch.device("cpu")
GB = 10**9
IMAGE_SIZE, BATCH = 64, 512
ROOM_BYTES = 1_300_000_000
"""Beyond what the imports take: threads and model have some of it, a step of the whole batch wants twice as much."""
ARENAS = 300_000_000
"""What the C library's allocator keeps for threads, more in one run than in another."""

LIMITED = """
import re, resource, sys
import eyespot.pretrain.trainer
from eyespot.cluster.cli import main
size = 1024 * int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1])
resource.setrlimit(resource.RLIMIT_DATA, (size + int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


def run_limited(shards, run_dir, *more: str, limit: int = ROOM_BYTES) -> subprocess.CompletedProcess:
    words = ["pretrain", "mae_tiny", "--data.shards", str(shards), "--run-dir", str(run_dir), "--device", "cpu"]
    words += ["--steps", "2", "--data.batch-size", str(BATCH), "--encoder.image-size", str(IMAGE_SIZE)]
    words += ["--optim.warmup-steps", "1", "--picture-every", "0", "--no-track", "--data.num-threads", "2", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIMITED, str(limit), *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_a_run_without_memory_names_a_micro_batch_that_fits(digits, tmp_path):
    done = run_limited(digits, tmp_path / "whole")
    assert done.returncode == ExitCode.WRONG_INPUT, done.stderr
    assert "Traceback" not in done.stderr + (tmp_path / "whole" / "logs" / "rank-0.log").read_text()
    (line,) = (line for line in done.stderr.splitlines() if "out of memory" in line)
    found = re.search(
        rf"micro-batches of {BATCH:,} images .* ([\d,]+) images would fit; use --data.accumulate (\d+)", line
    )
    assert found is not None, line
    largest, accumulate = (int(number.replace(",", "")) for number in found.groups())
    assert BATCH // 16 <= largest < BATCH
    assert BATCH // accumulate <= largest
    again = run_limited(digits, tmp_path / "parts", "--data.accumulate", str(accumulate), limit=ROOM_BYTES + ARENAS)
    assert again.returncode == ExitCode.DONE, again.stderr


def test_a_state_that_does_not_fit_is_said_in_a_line_too(digits, tmp_path, monkeypatch, capfd):
    """The optimiser's: before the first step, beside parameters that did fit."""

    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")

    monkeypatch.setattr(trainer, "make_optimizer", too_large)
    monkeypatch.setattr(trace_apart, "trace_apart", lambda *_: None)
    words = ["--data.shards", str(digits), "--run-dir", str(tmp_path / "run"), "--device", "cpu", "--no-track"]
    assert main(["pretrain", "mae_tiny", *words]) == ExitCode.FAILED
    said = capfd.readouterr().err
    assert "out of memory on cpu, with micro-batches of 256 images per process; CUDA out of memory. Tried" in said
    assert "Traceback" not in said + (tmp_path / "run" / "logs" / "rank-0.log").read_text()


def test_views_that_do_not_fit_are_said_in_a_line_too(digits, tmp_path, monkeypatch, capfd):
    """The pictured samples' come first: 384 terabytes, more than there are addresses."""
    monkeypatch.setattr(trace_apart, "trace_apart", lambda *_: None)
    words = ["--data.shards", str(digits), "--run-dir", str(tmp_path / "run"), "--device", "cpu", "--no-track"]
    assert main(["pretrain", "simclr_tiny", *words, "--objective.view.size", "2000000"]) == ExitCode.FAILED
    said = capfd.readouterr().err
    assert "out of memory on cpu, with micro-batches of 256 images per process; Unable to allocate" in said
    assert "Traceback" not in said + (tmp_path / "run" / "logs" / "rank-0.log").read_text()


@pytest.fixture(scope="module")
def found() -> Trace:
    return trace(make_run("mae_tiny"), 1, "cpu")


def told(found: Trace | None, left: Room, batch_size: int = 4096) -> UserError | TrainingError:
    run = make_run("mae_tiny")
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, batch_size=batch_size))
    return explanation(run, World(rank=0, size=2, device=CPU), left, found, "DefaultCPUAllocator: tried 5 bytes")


def test_what_is_said_depends_on_what_there_is(found):
    per_image = (found.at(1000).activations - found.at(500).activations) / 500
    little = told(found, Room(whole=8 * GB, foreign=8 * GB - int(700 * per_image)))
    assert isinstance(little, UserError)
    assert re.search(r"accumulate 1: .*micro-batches of 2,048 images .*use --data.accumulate (4|8)", str(little))
    nothing = told(found, Room(whole=8 * GB, foreign=8 * GB))
    assert isinstance(nothing, UserError)
    assert "0 images would fit; try --encoder.checkpointing, --engine fsdp" in str(nothing)
    enough = told(found, Room(whole=900 * GB, foreign=300 * GB))
    assert isinstance(enough, TrainingError)
    assert "should fit" in str(enough) and "300.0 of them held by others" in str(enough)
    unknown = told(None, Room(whole=8 * GB, foreign=0))
    assert isinstance(unknown, TrainingError)
    assert "tried 5 bytes" in str(unknown)


def test_the_allocators_words_are_known_and_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_lack(refused.value)
    assert is_lack(MemoryError()) and is_lack(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    world = World(rank=0, size=1, device=CPU)
    with pytest.raises(RuntimeError, match="shapes"), in_words(make_run("mae_tiny"), world):
        raise RuntimeError("shapes cannot be multiplied")


def lack(world: World) -> tuple[str, list[float]]:
    """Two of three ranks lack memory, one a little later: their words, and for how long they may have traced."""
    limits: list[float] = []

    def noted(run, device, seconds):
        limits.append(seconds)

    words = ""
    if world.rank:
        time.sleep(0.3 * (2 - world.rank))
        traced, run = patch.object(trace_apart, "trace_apart", noted), make_run("mae_tiny")
        with pytest.raises(TrainingError) as raised, traced, in_words(run, world):
            raise MemoryError(f"of rank {world.rank}")
        words = str(raised.value)
    barrier()  # the first rank hosts the store
    return words, limits


@pytest.mark.thorough
def test_one_rank_traces_for_all_that_lack_memory_and_not_for_long(on_ranks):
    (_, nothing), (words, limits), (others, theirs) = on_ranks(lack, 3)
    assert "images per process; of rank 1" in words and others == f"{words} (rank 1)"
    assert (nothing, limits, theirs) == ([], [15.0], [])


def test_what_the_broken_step_held_is_given_back():
    def step() -> None:
        activations = torch.ones(1000)
        kept.append(weakref.ref(activations))
        raise MemoryError

    kept: list[weakref.ref] = []
    try:
        step()
    except MemoryError as error:
        assert kept[0]() is not None
        forget(error)
        assert kept[0]() is None


@pytest.fixture
def little_memory() -> Iterator[None]:
    """What this process may have is less than the machine's, of which other processes take and give back meanwhile."""
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    (size,) = re.findall(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(size) + GB, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, limits)


@pytest.mark.usefixtures("little_memory")
def test_tensors_are_not_foreign():
    before = room(CPU)
    held = torch.ones(200_000_000, dtype=torch.uint8)
    after = room(CPU)
    assert after.whole == before.whole
    assert after.foreign - before.foreign < 150_000_000, len(held)
