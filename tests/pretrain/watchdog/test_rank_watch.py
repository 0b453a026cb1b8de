"""Real ranks that die, freeze, fail, hang and dawdle, and what the others say. This file is those ranks' program."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.distributed.collectives import barrier
from eyespot.pretrain.distributed.rendezvous import fresh_store, restarted
from eyespot.pretrain.loop.stop_signals import StopSignals
from eyespot.pretrain.watchdog import heartbeats, rank_watch
from eyespot.pretrain.watchdog.rank_watch import RankFailure, RankWatch

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 6.0
TROUBLE_AT = 5
STEPS = 20
SLOW_SECONDS = 0.15
"""Much more than a rank waits for its core when other tests run too."""


# The ranks' program: a loop like the trainer's.


def rank_main(folder: Path, trouble: str, victim: int) -> int:
    """One rank: trains a small layer until ``trouble`` comes over ``victim``. Returns the exit code."""
    rank_watch.BEAT_SECONDS, rank_watch.SETTLE_SECONDS = 0.5, 1.5
    rank_watch.GRACE_SECONDS, rank_watch.STALL_SECONDS = 3.0, 1.5
    rank_watch.STORE_SECONDS = heartbeats.STORE_SECONDS = 3.0
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if store := fresh_store(rank, size, 60.0):
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    world = process_group.start("cpu", timeout_seconds=TIMEOUT_SECONDS)
    StopSignals()
    to_file = logging.FileHandler(folder / f"rank-{world.rank}.log")
    rank_watch.log.addHandler(to_file)
    rank_watch.log.propagate = False
    try:
        with RankWatch(world, folder, TIMEOUT_SECONDS) as watch:
            train(folder, trouble, world, victim, watch)
        return 0
    except RankFailure as error:
        rank_watch.log.error("stopped: %s", error)
        return 1
    finally:
        process_group.stop()
        note(folder, f"end-{world.rank}", time.time())


def train(folder: Path, trouble: str, world: process_group.World, victim: int, watch: RankWatch) -> None:
    layer = torch.nn.Linear(64, 64)
    engine = torch.nn.parallel.DistributedDataParallel(layer)
    comes = world.rank == victim and not restarted()
    watch.on_event = lambda line: note(folder, "event", line)
    for step in range(1, STEPS + 1):
        now = trouble if step == TROUBLE_AT else ""
        watch.at("reading data", step)
        if comes:
            happen_in_data(folder, trouble, now, watch)
        waited = watch.at("forward and backward")
        assert 0 <= waited < 60
        if now == "killed unseen" and not comes:
            time.sleep(60)  # like a GPU kernel that waits for the dead one
        if comes and now == "stuck in forward":
            note(folder, "trouble", time.time())
            time.sleep(60)
        if comes and trouble == "slow compute":
            busy(SLOW_SECONDS)
        engine(torch.randn(8, 64)).sum().backward()
        watch.at("optimiser")
        barrier()
        if step % 4 == 0:
            watch.at("logging")
            note(
                folder,
                f"metrics-{world.rank}",
                {k: v for k, v in watch.close_interval().items() if "time_share" not in k},
            )
    if trouble == "pause":
        two_beats(watch)


def happen_in_data(folder: Path, trouble: str, now: str, watch: RankWatch) -> None:
    if now in ("killed", "killed unseen", "frozen", "failed", "stuck"):
        two_beats(watch)  # the last thing heard of the rank is that it is here
        note(folder, "trouble", time.time())
    if now in ("killed", "killed unseen"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif now == "frozen":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif now == "failed":
        raise MemoryError("no room\nfor the second line")
    elif now == "stuck":
        time.sleep(60)
    elif now == "pause":
        time.sleep(2.5)
    elif trouble == "slow data":
        time.sleep(SLOW_SECONDS)


def two_beats(watch: RankWatch) -> None:
    until = watch.num_beats + 2
    while watch.num_beats < until:
        time.sleep(0.05)


def busy(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def note(folder: Path, name: str, value: object) -> None:
    with (folder / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(value) + "\n")


def notes(folder: Path, name: str) -> list:
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def spawned(folder: Path, trouble: str, victim: int) -> None:
    with (folder / "terminal").open("a") as terminal:
        os.dup2(terminal.fileno(), 2)
    sys.exit(rank_main(folder, trouble, victim))


# The tests.


@pytest.fixture
def run(start_ranks, tmp_path):
    """``run(trouble, victim, size)``: the ranks' exit codes, without a launcher: rank 0 hosts the store."""

    def start(trouble: str, victim: int = 1, size: int = 3) -> list[int | None]:
        ranks = start_ranks(spawned, size, tmp_path, trouble, victim)
        try:
            for number, rank in enumerate(ranks):
                if not (trouble == "frozen" and number == victim):
                    rank.join(60)
        finally:
            for rank in ranks:
                rank.kill()
                rank.join()
        return [rank.exitcode for rank in ranks]

    return start


def last_words(folder: Path, rank: int) -> str:
    return (folder / f"rank-{rank}.log").read_text().splitlines()[-1]


def seconds_to_end(folder: Path, ranks: list[int]) -> float:
    return max(notes(folder, f"end-{rank}")[-1] for rank in ranks) - notes(folder, "trouble")[0]


def said_at_terminal(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("eyespot: ")]


def check_survivors(folder: Path, survivors: list[int], pattern: str, terminal: str | None = None) -> None:
    """Each survivor's log ends with the one line, and the terminal has it once."""
    for rank in survivors:
        words = last_words(folder, rank)
        assert re.fullmatch(rf"stopped: {pattern}", words), words
        assert len([line for line in (folder / f"rank-{rank}.log").read_text().splitlines() if "stopped" in line]) == 1
    said = said_at_terminal((folder / "terminal").read_text() if terminal is None else terminal)
    assert len(said) == 1, said
    assert re.fullmatch(rf"eyespot: {pattern}", said[0]), said


def named(folder: Path, rank: int, what: str) -> str:
    return (
        rf"rank {rank} \({re.escape(socket.gethostname())}, process \d+\) {what} at step {TROUBLE_AT},"
        rf" .*; its log: {re.escape(str(folder))}/rank-{rank}.log"
    )


def test_torchrun_a_killed_rank_is_named_and_the_run_restarts(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "--max-restarts=1", __file__, str(tmp_path), "killed", "1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_survivors(tmp_path, [0], named(tmp_path, 1, "died"), done.stderr)  # the second start has nothing to say
    assert notes(tmp_path, "end-0")[0] - notes(tmp_path, "trouble")[0] < 5
    assert [len(notes(tmp_path, f"end-{rank}")) for rank in range(2)] == [2, 1]


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.thorough)])  # rank 0 hosts the store
def test_a_killed_rank(victim, run, tmp_path):
    codes = run("killed", victim)
    survivors = [rank for rank in range(3) if rank != victim]
    assert codes == [-9 if rank == victim else 1 for rank in range(3)]
    at_step = "" if victim == 0 else rf" at step {TROUBLE_AT}, .*"
    check_survivors(
        tmp_path, survivors, rf"rank {victim} \(.*, process \d+\) died{at_step}; its log: .*/rank-{victim}.log"
    )
    assert seconds_to_end(tmp_path, survivors) < 5


@pytest.mark.parametrize("victim", [2, pytest.param(0, marks=pytest.mark.thorough)])
def test_a_frozen_rank(victim, run, tmp_path):
    """SIGSTOP: found when the group's timeout ends the exchange, plus the time to compare beats."""
    codes = run("frozen", victim)
    survivors = [rank for rank in range(3) if rank != victim]
    assert [codes[rank] for rank in survivors] == [1, 1]
    check_survivors(tmp_path, survivors, rf"rank {victim} \(.*\) is stopped \(SIGSTOP\).*; its log: .*")
    assert seconds_to_end(tmp_path, survivors) < TIMEOUT_SECONDS + 10


def test_an_exception_is_named_and_not_its_echo(run, tmp_path):
    assert run("failed", 2) == [1, 1, 1]
    pattern = rf"rank 2 \(.*\) failed at step {TROUBLE_AT}, reading data: MemoryError: no room; its log: .*/rank-2.log"
    check_survivors(tmp_path, [0, 1], pattern)
    assert "MemoryError" in (tmp_path / "terminal").read_text()  # the failed rank's own traceback
    assert seconds_to_end(tmp_path, [0, 1, 2]) < 5


@pytest.mark.parametrize("trouble", ["stuck", pytest.param("stuck in forward", marks=pytest.mark.thorough)])
def test_a_stuck_rank_is_named_and_ended(trouble, run, tmp_path):
    """Its thread lives, so it hears the verdict, logs it and ends the process that does not come back."""
    assert run(trouble, 1) == [1, 1, 1]
    place = "reading data" if trouble == "stuck" else "forward and backward"
    pattern = (
        rf"rank 1 \(.*\) is stuck at step {TROUBLE_AT}, {place} \(test_rank_watch.py:\d+\), for \d+ s; its log: .*"
    )
    check_survivors(tmp_path, [0, 2], pattern)
    assert re.fullmatch(rf"stopped: {pattern}; this process did not end by itself", last_words(tmp_path, 1))
    assert seconds_to_end(tmp_path, [0, 2]) < TIMEOUT_SECONDS + 8


def test_a_death_that_no_exchange_shows(run, tmp_path):
    """The others' main threads sleep; the neighbour's thread finds out, and all threads end their processes."""
    began = time.monotonic()
    assert run("killed unseen", 1) == [1, -9, 1]
    assert time.monotonic() - began < 30
    for rank in (0, 2):
        assert re.search(r"stopped: rank 1 \(.*\) died at step 5, .* did not end by itself", last_words(tmp_path, rank))


def test_a_pause_is_named_once_and_so_is_its_end(run, tmp_path):
    assert run("pause", 1) == [0, 0, 0]
    lines = (tmp_path / "rank-0.log").read_text().splitlines()
    assert len(lines) == 2, lines
    assert re.fullmatch(
        rf"no progress for \d s at step {TROUBLE_AT}: rank 1 \(.*\) at step {TROUBLE_AT}, reading data \(.*\)", lines[0]
    )
    assert re.fullmatch(r"going on after \d s", lines[1])
    assert notes(tmp_path, "event") == lines
    assert said_at_terminal((tmp_path / "terminal").read_text()) == []


@pytest.mark.parametrize(("what", "size"), [("data", 2), pytest.param("compute", 3, marks=pytest.mark.thorough)])
def test_a_slow_rank(what, size, run, tmp_path):
    assert run(f"slow {what}", 1, size) == [0] * size
    everywhere = [notes(tmp_path, f"metrics-{rank}") for rank in range(size)]
    assert len(everywhere[0]) == STEPS // 4
    assert all(metrics == everywhere[0] for metrics in everywhere)
    # Other processes want the same cores: now and then another rank is the slower one.
    assert [metrics["slowest_rank"] for metrics in everywhere[0]].count(1) > len(everywhere[0]) / 2
    assert min(metrics["rank_seconds_median"] for metrics in everywhere[0]) < SLOW_SECONDS / 2
    assert min(metrics["rank_seconds_max"] for metrics in everywhere[0]) >= SLOW_SECONDS
    lines = (tmp_path / "rank-0.log").read_text().splitlines()
    assert any(re.match(rf"rank 1 \(.*\) is slow: .* its {what} takes 0\.\d+ s, elsewhere", line) for line in lines)


def test_one_process_needs_no_store_and_a_note_costs_microseconds(tmp_path):
    world = process_group.World(rank=0, size=1, device=torch.device("cpu"))
    with RankWatch(world, tmp_path, 60.0) as watch:
        begun = time.thread_time()
        for step in range(2000):
            watch.at("reading data", step)
            watch.at("forward and backward")
            watch.at("optimiser")
        each = (time.thread_time() - begun) / 6000
        assert "time_share/passes" in watch.close_interval()
    assert each < 50e-6, f"{each * 1e6:.1f} us"
    with pytest.raises(ValueError, match="own"), RankWatch(world, tmp_path, 60.0):
        raise ValueError("own")


if __name__ == "__main__":
    sys.exit(rank_main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
