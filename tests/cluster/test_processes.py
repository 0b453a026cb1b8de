"""The processes of a node: a small program of this file in place of eyespot's command."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from node_ranks import wait_for_start

from eyespot.cluster.processes import Place, Words, free_port, interface_towards


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


def test_the_current_folder_is_not_where_ranks_find_modules(start, tmp_path, monkeypatch):
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "json.py").write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path / "stranger")
    assert start("ends0").wait(30.0) == [0, 0]


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
