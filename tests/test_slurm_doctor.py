"""Doctor on a real SLURM cluster: a job on whose nodes something is wrong is stopped before it trains."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from slurm_cluster import SlurmCluster

from eyespot.cluster.doctor.findings import Verdict
from eyespot.cluster.status.records import Records
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import to_values

pytestmark = pytest.mark.slow

NODES = ("node1", "node2")
JOB = """
import sys
from pathlib import Path
from eyespot.cluster.supervisor.node_job import NodeJob
run = Path(sys.argv[1])
words = ("pretrain", "--from", str(run / "cluster" / "run.json"), "--run-dir", str(run), "--resume", "auto")
NodeJob(run_dir=run, words=words, processes=1, kind="pretrain", max_requeues=0, max_restarts=0, doctor=True)()
"""
EXAMINE = """
import os, sys
from pathlib import Path
from eyespot.cluster.doctor.examine import examine
from eyespot.cluster.processes import Place
nodes, job = tuple(sys.argv[2].split(",")), os.environ["SLURM_JOB_ID"]
place = Place(index=int(os.environ["SLURM_NODEID"]), nodes=nodes, processes=1, job=job, requeues=0)
sys.exit(0 if examine(Path(sys.argv[1]), place, "key", 20.0).ok else 2)
"""


@pytest.fixture
def cluster(slurm: SlurmCluster):
    """The shared cluster, put right afterwards."""
    yield slurm
    slurm.reset()


def plan(run_dir: Path, shards: Path, batch_size: int) -> Records:
    """What ``eyespot launch`` leaves in a run folder, as far as doctor reads it."""
    run, records = make_run("mae_tiny"), Records(run_dir)
    run.run_dir, run.data.shards, run.data.batch_size, run.device = run_dir, str(shards), batch_size, "cpu"
    records.folder.mkdir(parents=True)
    records.run_file.write_text(json.dumps({"recipe": "mae_tiny", "run": to_values(run)}))
    return records


def start(slurm: SlurmCluster, logs: Path, script: str, *words: object, **environment: str) -> tuple[int, list[str]]:
    """Runs a script as one task on each of both nodes: the exit code, and what each said."""
    logs.mkdir()
    srun = ["srun", "-w", ",".join(NODES), "-N2", "--ntasks-per-node=1", "--output", f"{logs}/%t.log", "--unbuffered"]
    command = [*srun, sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(command, env=slurm.environment | environment, capture_output=True, text=True, timeout=400)
    said = [(logs / f"{number}.log").read_text() for number in range(len(NODES))]
    print(*said, done.stdout, done.stderr, sep="\n-----\n")  # for whoever looks for what went wrong
    return done.returncode, said


def spoil(cluster: SlurmCluster, shards: Path, folder: Path) -> None:
    """node1 sees an index that is not the manifest's; node2 lacks a tar and has another version of a package."""
    index = bytearray((shards / "index.npy").read_bytes())
    index[-20] ^= 1
    (folder / "index.npy").write_bytes(index)
    cluster.bind("node1", folder / "index.npy", shards / "index.npy")
    lacking = shutil.copytree(shards, folder / "lacking")
    (lacking / "shard-000000.tar").unlink()
    cluster.bind("node2", lacking, shards)
    (metadata,) = Path(timm.__file__).parents[1].glob("timm-*.dist-info/METADATA")
    text, version = metadata.read_text(), importlib.metadata.version("timm")
    (folder / "METADATA").write_text(text.replace(f"\nVersion: {version}\n", "\nVersion: 0.9.9\n"))
    cluster.bind("node2", folder / "METADATA", metadata)


def test_all_that_is_wrong_is_named_and_nothing_trains(cluster, digits, tmp_path):
    shards = shutil.copytree(digits / "train", tmp_path / "shards")
    records = plan(tmp_path / "run", shards, batch_size=2000)
    spoil(cluster, shards, tmp_path)
    server = f"http://someone:very-secret-word@{cluster.head}:9"  # nobody listens there

    code, said = start(cluster, tmp_path / "logs", JOB, tmp_path / "run", MLFLOW_TRACKING_URI=server)

    verdict = Verdict.read(next(records.doctor.glob("*/verdict.json")))
    failed = {(finding.check, finding.node): finding for finding in verdict.failed}
    assert set(failed) == {
        ("packages", "node2"),
        *(("shards", node) for node in NODES),
        ("samples", "node1"),
        ("MLflow", "node1"),
    }, said
    assert failed["packages", "node2"].found == f"timm 0.9.9 (elsewhere {importlib.metadata.version('timm')})"
    assert "index.npy: changed since it was written" in failed["shards", "node1"].found
    assert failed["shards", "node2"].found == f"{shards / 'shard-000000.tar'}: missing"
    assert failed["samples", "node1"].found == "1,438 samples are too few for 2 ranks x 1,000 images at once"
    assert "Connection refused" in failed["MLflow", "node1"].found
    assert all(finding.fix for finding in verdict.failed)

    # Everything else was looked at, on both nodes, and found good: the ranks met, the signal arrived.
    good = {(finding.check, finding.node): finding.found for finding in verdict.findings if finding.level == "ok"}
    for check in ("signals", "run folder", "renames", "code", "limits", "all-reduce"):
        assert {node for name, node in good if name == check} == set(NODES), check
    assert good["signals", "node2"].startswith("delivered")
    assert good["all-reduce", "node2"].startswith("gloo: right on all 2 ranks")
    assert {"disk space", "clocks", "nodes"} <= {check for check, _ in good}

    assert code == 2
    assert [(attempt.outcome, attempt.why) for attempt in records.attempts()] == [("doctor", verdict.why)]
    assert not (tmp_path / "run" / "logs").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert said[0].count("doctor: 5 failed: the run must not start") == 1
    assert "very-secret-word" not in "".join([*said, verdict.why])


def test_a_node_that_cannot_write_the_run_folder(cluster, digits, tmp_path):
    """It says so in its own log; the others miss its answer."""
    run_dir = tmp_path / "run"
    records = plan(run_dir, digits / "train", batch_size=64)
    cluster.bind("node2", run_dir, run_dir, read_only=True)
    code, (first, second) = start(cluster, tmp_path / "logs", EXAMINE, run_dir, ",".join(NODES))
    assert code == 2
    assert "run folder (node2)" in second
    assert "(Read-only file system)" in " ".join(second.split())
    verdict = Verdict.read(records.doctor / "key" / "verdict.json")
    assert [(finding.check, finding.node) for finding in verdict.failed] == [("nodes", "node2")]
    assert "FAIL nodes (node2): no answer" in " ".join(first.split())
