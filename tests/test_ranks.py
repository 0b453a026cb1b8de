"""benchmarks/ranks.py, on which all tests of several ranks stand: what one rank's end does to the others."""

import os
import signal
from pathlib import Path

import pytest
import ranks


def crash_once(world, mark: Path, number: int) -> int:
    """The last rank dies the first time, as torch does where its heap is damaged; the other waits for it."""
    if world.rank == world.size - 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), number)
    return world.rank


def fail(world) -> None:
    if world.rank == 1:
        raise ValueError("rank 1 has a reason")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_native_crash_is_tried_once_more_and_said(number, on_ranks, tmp_path):
    with pytest.warns(UserWarning, match=f"by rank their exit codes: .*1: -{int(number)}.*; once more"):
        assert on_ranks(crash_once, 2, tmp_path / "mark", number) == [0, 1]


def test_a_kill_is_not(on_ranks, tmp_path):
    with pytest.raises(ranks.RankError, match=f"1: -{int(signal.SIGKILL)}"):
        on_ranks(crash_once, 2, tmp_path / "mark", signal.SIGKILL)


def test_an_exception_is_told_with_its_rank(on_ranks):
    with pytest.raises(ranks.RankError, match=r"(?s)rank 1: Traceback.*ValueError: rank 1 has a reason"):
        on_ranks(fail, 2)
