"""What a cluster does to a run, on a real one. Afterwards nothing shows: the same samples, the same losses, to the bit.

Three runs, each on two nodes of six:

- ``straight``: nothing happens to it; the others are compared with it.
- ``harried``: one thing after another happens to it, each after it has recovered from the one before. A fixture makes
  it happen, a test says what must have come of it. All the while its MLflow server is dead.
- ``cramped``: its disk is full, for a while.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, missing
from slurm_runs import PATIENCE, SAVE_EVERY, STEPS, DrillRun

from eyespot.cluster.slurm import node_names
from eyespot.cluster.status.records import Attempt

pytestmark = pytest.mark.slow

TOKEN = secrets.token_hex(16)
HARRIED_NODES, OTHER_NODES = "node1,node2,node3,node4", "node5,node6"


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    if why := missing():
        pytest.skip(why)
    with SlurmCluster(num_nodes=6) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("drills")


@pytest.fixture(scope="module")
def dead_server(cluster) -> str:
    """The address of an MLflow server, with a password in it; nobody reaches it before ``cluster.revive()``."""
    with socket.socket() as probe:
        probe.bind((cluster.head, 0))
        return f"http://somebody:{TOKEN}@{cluster.dead_address}:{probe.getsockname()[1]}"


@pytest.fixture(scope="module")
def server(dead_server, folder) -> Iterator[str]:
    """The real server behind that address."""
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/artifacts"]
    place = ["--host", "0.0.0.0", "--port", dead_server.rpartition(":")[2], "--workers", "1", "--allowed-hosts", "*"]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, *place],
            cwd=folder,
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    yield dead_server
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def launch(cluster, digits) -> Callable[..., DrillRun]:
    def launch(run_dir: Path, avoid: str, *flags: str, tracking: str, gate: int | None = None) -> DrillRun:
        environment = {"MLFLOW_TRACKING_URI": tracking, "EYESPOT_DRILL_TOKEN": TOKEN}
        run = DrillRun(cluster, run_dir, digits, "--exclude", avoid, *flags, gate=gate, environment=environment)
        run.launch()
        return run

    return launch


@pytest.fixture(scope="module")
def straight(launch, folder) -> DrillRun:
    return launch(folder / "straight", HARRIED_NODES, tracking=f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def harried(launch, folder, dead_server, straight) -> DrillRun:
    limits = ("--time", "2h", "--save-seconds", "75")
    run = launch(folder / "harried", OTHER_NODES, *limits, tracking=dead_server, gate=SAVE_EVERY + 5)
    run.wait_for_step(SAVE_EVERY + 3)
    return run


@pytest.fixture(scope="module")
def requeued(harried) -> Attempt:
    return harried.disturb(lambda: harried.cluster.run("scontrol", "requeue", harried.job))


@pytest.fixture(scope="module")
def told_to_stop(harried, requeued) -> Attempt:
    """--full: the job's script hears it, too, and srun."""
    return harried.disturb(lambda: harried.cluster.run("scancel", "--full", "--signal=USR1", harried.job))


@pytest.fixture(scope="module")
def out_of_time(harried, told_to_stop) -> Attempt:
    def limit(minutes: int) -> None:
        harried.cluster.run("scontrol", "update", f"JobId={harried.job}", f"TimeLimit={minutes}")

    def run_out() -> None:
        # SLURM counts in minutes. 35 to 95 seconds are left then; the signal comes when 75 are.
        limit(int(time.time() - harried.attempt().start + 35) // 60 + 1)
        harried.wait(lambda: harried.attempt().end is not None, PATIENCE, "the time limit does not come")
        limit(120)

    return harried.disturb(run_out)


@pytest.fixture(scope="module")
def rank_killed(harried, out_of_time) -> Attempt:
    (pid,) = harried.ranks_on(harried.nodes()[0])
    return harried.disturb(lambda: os.kill(pid, signal.SIGKILL))


@pytest.fixture(scope="module")
def cut_in_step(harried, rank_killed, cramped, server) -> Attempt:
    """Rank 0's node, whose rank has been killed before: its second failure. While SLURM notices, others begin."""
    harried.wait(lambda: 0 < harried.last_step() % SAVE_EVERY < SAVE_EVERY - 2, PATIENCE, "it always saves")
    return harried.disturb(lambda: lose(harried.cluster, harried.nodes()[0]))


@pytest.fixture(scope="module")
def cut_in_checkpoint(harried, cut_in_step) -> Attempt:
    """Rank 1's node. The one that was cut off before is back."""
    harried.cluster.join(cut_in_step.blamed[0])
    harried.cluster.start_slurmd(cut_in_step.blamed[0])

    def lose_it() -> None:
        node = harried.nodes()[1]
        with harried.frozen_in_checkpoint():
            lose(harried.cluster, node)

    return harried.disturb(lose_it)


@pytest.fixture(scope="module")
def survived(harried, cut_in_checkpoint) -> DrillRun:
    harried.open_gate(STEPS)
    harried.wait_until_done()
    return harried


@pytest.fixture(scope="module")
def cramped(launch, cluster, folder, straight) -> DrillRun:
    straight.wait_until_done()
    tracking = f"sqlite:///{folder}/mlflow.db"
    return launch(cluster.small / "cramped", HARRIED_NODES, tracking=tracking, gate=SAVE_EVERY + 5)


@pytest.fixture(scope="module")
def full(cramped) -> DrillRun:
    """It has failed, and its disk is still full."""
    cramped.wait_for_step(SAVE_EVERY + 3)
    small = cramped.cluster.small
    with (small / "ballast").open("wb") as file:
        file.write(bytes(shutil.disk_usage(small).free - 500_000))
    cramped.open_gate(STEPS)
    cramped.cluster.wait_for(cramped.job, "FAILED", PATIENCE)
    return cramped


def answers(server: str) -> bool:
    """Whether an MLflow server is there."""
    try:
        return urllib.request.urlopen(f"http://{server.partition('@')[2]}/health", timeout=2).status == 200
    except OSError:
        return False


def lose(cluster: SlurmCluster, node: str) -> None:
    """The network of a node goes, and SLURM's daemon with it; its ranks live on."""
    cluster.cut(node)
    cluster.kill_slurmd(node)


def logged_steps(database: Path, run: DrillRun) -> list[tuple[str, int]]:
    """Status and number of logged steps of each MLflow run that stands for a run folder."""
    key = json.loads((run.run_dir / "run.json").read_text())["run_key"]
    with sqlite3.connect(database) as connection:
        return connection.execute(
            """SELECT runs.status, COUNT(DISTINCT metrics.step) FROM runs
            JOIN tags ON tags.run_uuid = runs.run_uuid AND tags.key = 'eyespot.run_key' AND tags.value = ?
            LEFT JOIN metrics ON metrics.run_uuid = runs.run_uuid AND metrics.key = 'train/loss'
            GROUP BY runs.run_uuid""",
            [key],
        ).fetchall()


def test_each_rank_runs_on_its_own_node(harried):
    assert harried.nodes() == ("node1", "node2")
    assert [len(harried.ranks_on(node)) for node in harried.nodes()] == [1, 1]


def test_scontrol_requeue(requeued, harried, straight):
    assert requeued.outcome == "stopped"
    assert harried.attempt().requeues > requeued.requeues
    harried.assert_as_undisturbed(straight)


def test_submitting_again_while_it_runs(requeued, harried):
    before = harried.cluster.run("squeue", "-h")
    code, said = harried.eyespot(*harried.command)
    assert code == 2
    assert f"job {harried.job}" in said
    assert len(said.strip().splitlines()) == 1
    assert len(harried.cluster.run("squeue", "-h").splitlines()) == len(before.splitlines())


def test_a_job_trains_on_two_nodes_and_finishes(straight, folder):
    straight.wait_until_done()
    (attempt,) = straight.records.attempts()
    assert attempt.outcome == "done"
    assert attempt.nodes == ("node5", "node6")
    assert [line["step"] for line in straight.metrics()] == list(range(1, STEPS + 1))
    assert (straight.run_dir / "checkpoints" / "latest").read_text() == f"step-{STEPS:08d}"
    assert logged_steps(folder / "mlflow.db", straight) == [("FINISHED", STEPS)]


def test_scancel_signal(told_to_stop, harried, straight):
    assert told_to_stop.outcome == "stopped"
    assert "USR1" in told_to_stop.why
    assert harried.attempt().requeues > told_to_stop.requeues
    harried.assert_as_undisturbed(straight)


def test_time_limit(out_of_time, harried, straight):
    assert out_of_time.outcome == "stopped"
    assert harried.attempt().requeues > out_of_time.requeues
    harried.assert_as_undisturbed(straight)


def test_a_killed_rank(rank_killed, harried, straight):
    assert rank_killed.outcome == "failed"
    assert rank_killed.blamed == rank_killed.nodes[:1]
    now = harried.attempt()
    assert (now.requeues, now.nodes) == (rank_killed.requeues, rank_killed.nodes), "not restarted in the job"
    harried.assert_as_undisturbed(straight)


def test_a_node_that_is_cut_off_in_a_step(cut_in_step, harried, straight):
    lost = cut_in_step.nodes[0]
    assert cut_in_step.outcome == "failed"
    assert cut_in_step.blamed == (lost,)
    assert lost not in harried.nodes()
    harried.wait(lambda: not harried.ranks_on(lost), PATIENCE, "the rank of the lost node still runs")
    harried.assert_as_undisturbed(straight)


def test_a_node_that_is_cut_off_in_a_checkpoint(cut_in_checkpoint, harried, straight):
    assert cut_in_checkpoint.outcome == "failed"
    assert cut_in_checkpoint.blamed == cut_in_checkpoint.nodes[1:]
    assert not set(cut_in_checkpoint.blamed) & set(harried.nodes())
    harried.assert_as_undisturbed(straight)


def test_a_node_that_fails_twice_is_excluded_and_named(cut_in_checkpoint, harried):
    """By then it is back, and SLURM has given it to the job again."""
    (bad,) = harried.records.failing_nodes()
    job = harried.cluster.run("scontrol", "show", "job", harried.job)
    assert bad in node_names(job.partition("ExcNodeList=")[2].split()[0])
    assert f"{bad} failed twice in this run; requeued, without {bad}" in harried.said()
    assert bad not in harried.nodes()


def test_all_of_it(survived, straight):
    assert survived.last_step() == STEPS
    survived.assert_as_undisturbed(straight)
    assert survived.weights() == straight.weights()


def test_a_full_disk(full, straight, folder):
    (attempt,) = full.records.attempts()
    assert attempt.outcome == "failed"
    assert "No space left on device" in attempt.why
    assert not any((full.run_dir / "checkpoints").glob("*.tmp"))
    assert any("No space left on device" in line and "eyespot" in line for line in full.said().splitlines())
    (full.cluster.small / "ballast").unlink()
    code, said = full.eyespot("launch", "--again", str(full.run_dir))
    assert code == 0, said
    full.wait_until_done()
    assert full.last_step() == STEPS
    full.assert_as_undisturbed(straight)
    assert logged_steps(folder / "mlflow.db", full) == [("FINISHED", STEPS)]


def test_mlflow_dead_all_the_while_and_back(survived, folder, server):
    assert "MLflow" in survived.log()
    survived.cluster.revive()
    survived.wait(lambda: answers(server), PATIENCE, (folder / "server.log").read_text())
    code, said = survived.eyespot("sync", str(survived.run_dir))
    assert code == 0, said
    assert logged_steps(folder / "server.db", survived) == [("FINISHED", STEPS)]


def test_nothing_secret_is_written_anywhere(survived, straight, cramped, folder):
    files = [path for run in (survived.run_dir, cramped.run_dir, folder) for path in run.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
