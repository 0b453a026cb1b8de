"""The processes of a node: a small program of this file in place of eyespot's command."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eyespot.cluster.processes import Place, Ranks, Words, free_port, interface_towards
from eyespot.cluster.supervisor.rank_monitor import RankShift, StopRequest

ALONE = Place(index=0, nodes=("here",), processes=2, job="7", requeues=0)

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

rank, what = os.environ["RANK"], sys.argv[2:]
Path(sys.argv[1], f"rank-{rank}").write_text(json.dumps(dict(os.environ)))
mine = what[int(rank) % len(what)]
if mine == "says":
    os.write(int(os.environ["EYESPOT_LAST_WORDS"]), b'{"kind": "crash", "text": "so it is", "ranks": [3]}\\nand more')
elif mine.startswith("ends"):
    sys.exit(int(mine[4:]))
elif mine == "saves":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(75))
    time.sleep(60)
elif mine == "deaf":
    time.sleep(60)
elif mine == "parent":  # as a data loader's worker: holds the pipe when its parent is gone
    if os.fork() == 0:
        time.sleep(60)
"""


@pytest.fixture
def start(tmp_path, monkeypatch) -> Iterator[Callable[..., Ranks]]:
    folder = tmp_path / "program" / "eyespot" / "cluster"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder.parent / "__init__.py").touch()
    (folder / "cli.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "program"))
    started: list[Ranks] = []

    def begin(*what: str, place: Place = ALONE) -> Ranks:
        started.append(Ranks((str(tmp_path), *what), place, 4321, env={"MINE": "yes"}))
        return started[-1]

    yield begin
    for ranks in started:
        ranks.close()


def wait_for_start(folder: Path, *ranks: int) -> None:
    end = time.monotonic() + 30
    while not all((folder / f"rank-{rank}").exists() for rank in ranks):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.2)  # for the handlers


def test_each_rank_knows_its_place(start, tmp_path, monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    place = Place(index=1, nodes=("127.0.0.1", "here"), processes=2, job="7", requeues=0)
    ranks = start("ends0", place=place)
    assert ranks.wait(30.0) == [0, 0]
    assert place.node == "here"
    for local, rank in enumerate((2, 3)):
        seen = json.loads((tmp_path / f"rank-{rank}").read_text())
        wanted = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 4321}
        assert {name: seen[name] for name in wanted} == {name: str(value) for name, value in wanted.items()}
        assert (seen["MASTER_ADDR"], seen["GLOO_SOCKET_IFNAME"], seen["MINE"]) == ("127.0.0.1", "lo", "yes")


def test_the_user_s_interface_stays(start, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    start("ends0").wait(30.0)
    seen = json.loads((tmp_path / "rank-0").read_text())
    assert (seen["GLOO_SOCKET_IFNAME"], seen["MASTER_ADDR"]) == ("ib0", "127.0.0.1")


def test_exit_codes_and_last_words(start, tmp_path):
    ranks = start("says", "ends3")
    assert ranks.wait(30.0) == [0, 3]
    for _ in range(2):
        assert ranks.words() == [Words(kind="crash", text="so it is", ranks=(3,)), None]


def test_a_pipe_that_a_child_holds_open_blocks_nobody(start):
    ranks = start("parent", "ends0")
    assert ranks.wait(30.0) == [0, 0]
    began = time.monotonic()
    assert ranks.words() == [None, None]
    assert time.monotonic() - began < 5


def test_signals_before_the_program_listens_do_not_kill(start, tmp_path):
    ranks = start("saves", "deaf")
    for _ in range(10):
        ranks.send(signal.SIGUSR1)  # ignored all the time here
        time.sleep(0.02)
    wait_for_start(tmp_path, 0, 1)
    assert ranks.poll() == [None, None]
    ranks.send(signal.SIGTERM)
    assert ranks.wait(1.0) == [75, None]
    ranks.kill()
    assert ranks.poll() == [75, -9]


def test_ranks_die_with_their_supervisor(start, tmp_path):
    """Even if it has no time for a last word."""
    script = (
        "import os, time\nfrom eyespot.cluster.processes import Place, Ranks\n"
        "place = Place(index=0, nodes=('here',), processes=1, job='7', requeues=0)\n"
        f"os.environ['PYTHONPATH'] = {os.environ['PYTHONPATH']!r}\n"
        f"Ranks(({str(tmp_path)!r}, 'deaf'), place, 1, env={{'SIGN': {str(tmp_path)!r}}})\ntime.sleep(60)\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    supervisor = subprocess.Popen([sys.executable, "-c", script], env=env)
    wait_for_start(tmp_path, 0)
    supervisor.kill()
    supervisor.wait()
    end = time.monotonic() + 10
    while any(str(tmp_path).encode() in _command(path) for path in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < end
        time.sleep(0.05)


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_interface_and_port():
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("no.such.host.invalid") is None
    with socket.socket() as server:
        server.bind(("", free_port()))


# A shift: from the first breath to the last.


@pytest.fixture
def shift(start, tmp_path):
    """``shift(*what)``: what the watch over such ranks reports; with what was said between."""
    before = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
    }
    stop = StopRequest()

    def watch(*what: str, peers_failed: bool = False, saves: bool = True, stopped: bool = False):
        ranks = start(*what)
        wait_for_start(tmp_path, 0, 1)
        if stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        states: set[str] = set()
        peers, logs = lambda: peers_failed, tmp_path
        report = RankShift(ranks, "here", stop, saves=saves, logs=logs, peers_failed=peers, tick=states.add).watch()
        return report, states

    yield watch
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_shift_that_ends_by_itself(shift):
    report, _ = shift("ends0", "ends3")
    assert (report.codes, report.killed, report.failed) == ((0, 3), (), True)


def test_a_stop_is_passed_on_until_all_have_saved(shift):
    report, states = shift("saves", stopped=True)
    assert (report.codes, report.killed, report.failed) == ((75, 75), (), False)
    assert states == {"stopping: the ranks save"}


def test_ranks_that_do_not_save_are_killed(shift, capsys):
    report, _ = shift("deaf", stopped=True, saves=False)
    assert (report.codes, report.killed) == ((-9, -9), (0, 1))


@pytest.mark.parametrize("peers_failed", [False, True])
def test_who_does_not_end_after_another_failed_is_killed(shift, peers_failed, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr("eyespot.cluster.supervisor.rank_monitor.GRACE_SECONDS", 1.0)
    (tmp_path / "rank-1.log").write_text("first\nstep 12, saving\n")
    report, _ = shift("ends0" if peers_failed else "ends1", "deaf", peers_failed=peers_failed)
    assert (report.codes, report.killed) == ((0 if peers_failed else 1, -9), (1,))
    assert "rank 1 is killed, 1 s after another failed, its log ends: step 12, saving" in capfd.readouterr().err


def test_a_stop_that_takes_too_long_is_said_and_ended(shift, monkeypatch, capfd):
    monkeypatch.setattr("eyespot.cluster.supervisor.rank_monitor.STOP_SECONDS", 2.0)
    monkeypatch.setattr("eyespot.cluster.supervisor.rank_monitor.SAY_SECONDS", 0.5)
    report, _ = shift("saves", "deaf", stopped=True)
    assert (report.codes, report.killed) == ((75, -9), (1,))
    said = capfd.readouterr().err
    assert "rank 1 has not stopped for 1 s, it has no log yet" in said
    assert "rank 1 is killed, 2 s after they were asked to stop" in said
