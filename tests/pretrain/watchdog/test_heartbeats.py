"""Who is to blame, from two readings of the beats; and the board itself on real ranks."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.distributed.collectives import barrier
from eyespot.pretrain.watchdog.heartbeats import (
    Beat,
    Board,
    Cause,
    RankProcess,
    find_culprits,
    furthest_behind,
    process_state,
)


def beat(number: int, *, ticks: int = 7, state: str = "failed", waits: bool = False) -> Beat:
    return Beat(
        number=number,
        state=state,
        ticks=ticks,
        waits=waits,
        step=3,
        place="saving",
        code="a.py:1",
        seconds=0.0,
        clock=0.0,
    )


CASES = {
    "the kernel knows that it died": ([beat(1), beat(1)], [beat(2), beat(1)], [None, "died"], ("died", [1])),
    "silent on another host": ([beat(1), beat(1)], [beat(4), beat(1)], [None, None], ("silent", [1])),
    "stopped": ([beat(1), beat(1)], [beat(4), beat(1)], [None, "stopped"], ("stopped", [1])),
    "ended is not silent": ([beat(1), beat(9, state="ended")], [beat(4), beat(9, state="ended")], [None, "died"], None),
    "stuck: did not come back": (
        [beat(1), beat(1), beat(1)],
        [beat(4), beat(4, state="running", waits=True), beat(4, state="running", ticks=6)],
        [None] * 3,
        ("stuck", [2]),
    ),
    "all came back": ([beat(1), beat(1)], [beat(4), beat(4)], [None, None], None),
}


@pytest.mark.parametrize("case", CASES)
def test_culprits(case):
    before, after, processes, expected = CASES[case]
    assert find_culprits(before, after, processes) == (expected or ("network", []))


def test_those_who_wait_are_not_behind_those_who_work():
    beats = [beat(1, waits=True), beat(1), beat(1, ticks=8), beat(1)]
    assert furthest_behind(beats, range(4)) == [1, 3]
    assert furthest_behind(beats, [0, 2]) == [0]


def test_the_kernel_knows_its_processes():
    me = RankProcess.this(0)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    other = replace(me, rank=1, pid=child.pid)
    assert process_state(other, me) is None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_state(other, me) == "died"  # a zombie
    child.communicate()
    assert process_state(other, me) == "died"
    assert process_state(replace(other, pid_namespace="elsewhere"), me) is None


def boards(world: process_group.World):
    first, second = Board(world, beat(world.rank)), Board(world, beat(10 + world.rank))
    read = [[b.number for b in board.beats()] for board in (first, second)]
    judges = first.claim("judge")
    declared = first.declare(Cause(ranks=[world.rank], line=f"of rank {world.rank}"))
    barrier()
    found = read, judges, declared == first.cause(), declared.ranks, second.cause(), [m.rank for m in first.members]
    barrier()
    for said in (b"[" * 100_000, b"{}", b"\xff", b'{"number": "1"}'):  # somebody else's, in the store
        first._store.set(f"{first._prefix}/beat/0", said)
        first._store.set(f"{first._prefix}/cause", said)
        for ask in (first.beats, first.cause):
            with pytest.raises(RuntimeError, match="torch's store: "):
                ask()
    barrier()
    return found


def test_board(on_ranks):
    answers = on_ranks(boards, 3)
    for read, _, same, _, untouched, members in answers:
        assert read == [[0, 1, 2], [10, 11, 12]]
        assert same
        assert untouched is None
        assert members == [0, 1, 2]
    assert sum(judges for _, judges, *_ in answers) == 1
    assert len({tuple(ranks) for _, _, _, ranks, *_ in answers}) == 1
