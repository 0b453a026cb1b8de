"""Ranks of a command on one node and on two, and what the first node makes of how they ended."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eyespot.cluster.processes import Place
from eyespot.cluster.supervisor import command_ranks
from eyespot.cluster.supervisor.command_ranks import run_again_until_done
from eyespot.cluster.supervisor.node_barrier import NodeBarrier

NODES = ("north", "south")


def places(processes: int = 1) -> list[Place]:
    return [Place(index=index, nodes=NODES, processes=processes, job="7", requeues=0) for index in range(2)]


def verdict(folder: Path, codes: list[list[int]], *, again: bool = True) -> dict:
    barrier = NodeBarrier(folder, "7", 0, 0)
    for node, own in zip(NODES, codes, strict=False):
        barrier.post(f"report-{node}", {"codes": own})
    return command_ranks._verdict(barrier, places(2)[0], again=again)


@pytest.mark.parametrize(
    ("codes", "code", "again", "why"),
    [
        ([[0, 0], [0, 0]], 0, False, ""),
        ([[0, 0], [2, -9]], 2, False, ""),
        ([[1, -9], [1, 1]], 1, True, "rank 1 on north was killed by signal 9; all start again"),
        ([[0, 0], [1, 0]], 1, True, "rank 2 on south ended with code 1; all start again"),
    ],
)
def test_what_the_reports_come_to(tmp_path: Path, codes, code, again, why):
    assert verdict(tmp_path, codes) == {"code": code, "again": again, "why": why}


def test_after_the_last_restart_it_is_given_up(tmp_path: Path):
    assert verdict(tmp_path, [[-9, 1], [1, 1]], again=False)["why"].endswith("killed by signal 9; it is given up")


def test_a_node_that_says_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(command_ranks, "COME_SECONDS", 0.0)
    assert verdict(tmp_path, [[0, 0]]) == {"code": 1, "again": False, "why": "south stopped answering"}


def test_two_nodes_end_alike_and_wrong_words_are_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    for words, code in ((["--version"], 0), (["nothing"], 2)):
        meetings = tmp_path / words[0]
        with ThreadPoolExecutor(2) as pool:
            ends = list(pool.map(lambda place: run_again_until_done(words, place, meetings, 3), places()))  # noqa: B023
        assert ends == [code, code]
        assert len(list(meetings.iterdir())) == 1
