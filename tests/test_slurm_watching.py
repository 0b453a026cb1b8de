"""eyespot status, logs and cancel on a real SLURM cluster, which has no accounting."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster

from eyespot.cluster import slurm as asked
from eyespot.cluster.cli import main
from eyespot.cluster.slurm import SlurmError
from eyespot.cluster.status.records import JobLine, Records
from eyespot.cluster.status.survey import survey

pytestmark = pytest.mark.slow

EYESPOT = str(Path(sys.executable).with_name("eyespot"))
# What a supervisor does with USR1, in one line: ends, so that the job fails with code 75.
SAVES = "srun bash -c 'trap \"touch {run}/saved; exit 75\" USR1; touch {run}/up; while :; do sleep 0.05; done'"
DEAF = "srun bash -c 'trap \"\" USR1; touch {run}/up; while :; do sleep 0.05; done'"

# What a rank says in its log, in each start of the job; the second one is done.
LOGS = """say() {{ echo "$(date +%F\\ %T,000) INFO $*" >> {run}/logs/rank-0.log; }}; mkdir -p {run}/logs
say start ${{SLURM_RESTART_COUNT:-0}}; [ -z "$SLURM_RESTART_COUNT" ] && sleep 60; say done: step 100 of 100"""


@pytest.fixture
def cluster(slurm: SlurmCluster, monkeypatch):
    """The cluster as this process's own."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.environment[name])
    yield slurm
    slurm.reset()


@pytest.fixture
def start():
    """Starts ``eyespot`` with these words, beside the test; it does not outlive it."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        started.append(subprocess.Popen([EYESPOT, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def make_run(run_dir: Path) -> Path:
    (run_dir / "cluster").mkdir(parents=True)
    (run_dir / "cluster" / "run.json").write_text(json.dumps({"recipe": "mae_tiny", "run": {"steps": 100}}))
    return run_dir


def submit(cluster: SlurmCluster, run_dir: Path, script: str, *flags: str, kind="pretrain", array=False) -> str:
    """A job of this run that executes ``script``."""
    log = str(run_dir / "%j.log")
    words = ["--parsable", f"--output={log}", "--wrap", script.format(run=run_dir)]
    job = cluster.run("sbatch", *flags, *words) + "_0" * array
    note(run_dir, job, kind)
    return job


def note(run_dir: Path, job: str, kind="pretrain") -> None:
    log = str(run_dir / f"{job}.log")
    Records(run_dir).add_job(JobLine(job=job, kind=kind, submitted=time.time(), log=log, nodes=1, processes=1))


def wait_until(there, seconds=120.0):
    end = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def words_of(run_dir: Path) -> str:
    return survey([run_dir]).runs[0].words


def test_every_state_in_plain_words(cluster, tmp_path, capsys):
    """All at once: one question to SLURM answers for all of them."""
    names = ["failed", "completed", "runs", "waits", "held", "begins", "follows", "gone", "many"]
    runs = {name: make_run(tmp_path / name) for name in names}
    jobs = {
        "failed": submit(cluster, runs["failed"], "exit 3"),
        "completed": submit(cluster, runs["completed"], "true"),
        "held": submit(cluster, runs["held"], "true", "--hold"),
        "begins": submit(cluster, runs["begins"], "true", "--begin=now+1hour"),
        "many": submit(cluster, runs["many"], "true", "--nodes=9"),
    }
    for name in ("failed", "completed"):
        cluster.wait_for(jobs[name], {"FAILED", "COMPLETED"})
    jobs["runs"] = submit(cluster, runs["runs"], "sleep 60", "--nodes=3", "--exclusive", "--time=10")
    cluster.wait_for(jobs["runs"], "RUNNING")
    jobs["waits"] = submit(cluster, runs["waits"], "true", "--exclusive")
    jobs["follows"] = submit(cluster, runs["follows"], "true", f"--dependency=afterok:{jobs['held']}")
    note(runs["gone"], "999999")
    wait_until(lambda: words_of(runs["waits"]) == "waits: no free nodes yet")
    wait_until(lambda: words_of(runs["follows"]) == "waits: another job has to end first")

    seen = survey(list(runs.values()))
    assert seen.slurm_error is None
    found = {Path(status.run).name: status for status in seen.runs}
    assert {name: (status.state, status.words.partition(";")[0]) for name, status in found.items()} == {
        "failed": ("failed", "failed (exit code 3)"),
        "completed": ("done", "completed"),
        "runs": ("running", "running, no step yet"),
        "waits": ("waiting", "waits: no free nodes yet"),
        "held": ("waiting", "waits: held by its user"),
        "begins": ("waiting", "waits: not before its begin time (after a requeue: a moment)"),
        "follows": ("waiting", "waits: another job has to end first"),
        "gone": ("failed", "ended without a word"),
        "many": ("waiting", "waits: it asks for more nodes than its partition gives"),
    }
    running = found["runs"]
    assert running.nodes == ("node1", "node2", "node3")
    assert 500 < (running.job_seconds_left or 0) <= 600
    assert running.requeues == 0
    assert "expected to start in 1 h" in found["begins"].words
    capsys.readouterr()
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert {run["state"] for run in json.loads(capsys.readouterr().out)["runs"]} == {
        "done",
        "failed",
        "running",
        "waiting",
    }
    assert main(["logs", str(runs["waits"])]) == 0
    assert "no log yet; " in (said := capsys.readouterr().err)
    assert f"job {jobs['waits']}: waits: no free nodes yet" in said
    assert main(["logs", str(runs["waits"]), "--job"]) == 0
    assert "no output yet" in capsys.readouterr().err


def test_what_is_asked_of_slurm(cluster, tmp_path):
    """Requeue, exclude, and what it refuses; each in one line."""
    run = make_run(tmp_path / "run")
    job = submit(cluster, run, DEAF, "--exclude=node3", "--requeue")
    cluster.wait_for(job, "RUNNING")
    found = asked.find_job(job)
    assert found is not None
    assert (found.requeue, found.restarts, len(found.nodes)) == (True, 0, 1)
    assert found.nodes[0] != "node3"
    with pytest.raises(SlurmError, match="no longer pending"):
        asked.exclude(job, found.nodes)
    asked.requeue(job)
    asked.exclude(job, found.nodes)
    assert set(cluster.run("scontrol", "show", "job", job, "-o").split()) & {
        f"ExcNodeList={found.nodes[0]},node3",
        f"ExcNodeList={found.nodes[0]},3",
        f"ExcNodeList=node[{found.nodes[0][4:]},3]",
        f"ExcNodeList=node[{found.nodes[0][4:]}-3]",
    }
    assert (asked.find_job(job) or found).restarts == 1
    asked.cancel(job)
    wait_until(lambda: not asked.alive(asked.find_job(job)))
    for refused in (lambda: asked.requeue("999999"), lambda: asked.send_signal("999999", "USR1")):
        with pytest.raises(SlurmError, match="Invalid job id") as error:
            refused()
        assert "\n" not in str(error.value)
    assert asked.find_jobs(["999999", job]).keys() == {job}


def test_a_controller_that_does_not_answer(cluster, tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path / "run")
    job = submit(cluster, run, "sleep 60")
    port = re.search(r"SlurmctldPort=(\d+)", settings := (cluster.folder / "slurm.conf").read_text())
    assert port is not None
    (tmp_path / "slurm.conf").write_text(settings.replace(port[0], f"SlurmctldPort={int(port[1]) + 7000}"))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    monkeypatch.setattr(asked, "ANSWER_SECONDS", 0.5)
    assert main(["status", str(tmp_path)]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "SLURM does not answer (squeue: no answer within" in page
    assert f"submitted; SLURM does not answer job {job} on 1 node" in page
    assert main(["cancel", str(run)]) == 1
    assert capsys.readouterr().err.startswith("eyespot: squeue: no answer within")
    assert not Records(run).cancelled


def test_cancel_lets_a_run_save_and_drops_what_waits(cluster, tmp_path, capsys):
    """A sweep as a job array: one task runs, one waits; and an evaluation that was to follow."""
    sweep = tmp_path / "sweep"
    runs = [make_run(sweep / name) for name in ("seed=0", "seed=1")]
    array = submit(cluster, runs[0], SAVES, "--array=0-1%1", array=True).partition("_")[0]
    note(runs[1], f"{array}_1")
    evaluation = submit(cluster, runs[0], "true", f"--dependency=afterok:{array}", kind="eval")
    wait_until((runs[0] / "up").exists)
    status = survey(runs).runs
    assert [(one.state, one.job) for one in status] == [("running", f"{array}_0"), ("waiting", f"{array}_1")]
    assert status[0].notes == (f"evaluation: job {evaluation} waits: another job has to end first",)
    assert "as many of its array run as may run at once" in status[1].words
    assert main(["cancel", str(sweep)]) == 0
    assert (runs[0] / "saved").exists()
    said = capsys.readouterr()
    assert f"job {array}_1: cancelled\n" in said.out
    assert f"job {evaluation}: cancelled\n" in said.out
    assert f"job {array}_0: asked to save and end" in said.err
    assert f"{runs[0]}: cancelled before its first checkpoint" in said.out
    assert all(Records(run).cancelled for run in runs)
    assert not any(map(asked.alive, asked.find_jobs([f"{array}_0", f"{array}_1", evaluation]).values()))
    assert main(["cancel", str(sweep)]) == 2
    assert capsys.readouterr().err == "eyespot: nothing to cancel: none of the 2 runs has a job that waits or runs\n"
    assert main(["cancel", str(runs[0])]) == 2
    assert "nothing to cancel, job" in capsys.readouterr().err


def test_cancel_does_not_wait_for_ever(cluster, tmp_path, capsys, start):
    """What does not save is ended; --now ends at once; Ctrl-C leaves it to itself."""
    runs = [make_run(tmp_path / name) for name in ("late", "now", "left")]
    jobs = [submit(cluster, run, DEAF) for run in runs]
    for run in runs:
        wait_until((run / "up").exists)
    assert main(["cancel", str(runs[0]), "--wait-seconds", "0.5"]) == 0
    assert f"job {jobs[0]}: not done within 0.5 s; SLURM ends it now" in capsys.readouterr().out
    assert main(["cancel", str(runs[1]), "--now"]) == 0
    assert f"job {jobs[1]}: ends now" in capsys.readouterr().out
    waiting = start("cancel", str(runs[2]))
    assert waiting.stderr is not None
    assert "asked to save and end" in waiting.stderr.readline()
    time.sleep(0.3)
    waiting.send_signal(signal.SIGINT)
    assert "the stop goes on without this command" in waiting.communicate(timeout=120)[0]
    assert waiting.returncode == 1
    left = survey(runs[2:]).runs[0]
    assert (left.state, left.words) == ("stopping", "asked to stop: saves and ends")
    wait_until(lambda: not any(map(asked.alive, asked.find_jobs(jobs[:2]).values())))


def test_logs_are_followed_through_a_requeue(cluster, tmp_path, start):
    run = make_run(tmp_path / "run")
    job = submit(cluster, run, LOGS, "--requeue", "--hold")
    follower = start("logs", str(run), "--follow")
    assert follower.stderr is not None
    assert follower.stderr.readline().startswith(f"no log yet; {run}: job {job}: waits: held by its user")
    cluster.run("scontrol", "release", job)
    wait_until((run / "logs" / "rank-0.log").exists)
    time.sleep(0.5)
    asked.requeue(job)
    out, err = follower.communicate(timeout=120)
    assert [line.split(" INFO ")[1] for line in out.splitlines()] == ["start 0", "start 1", "done: step 100 of 100"]
    assert f"{run}: job {job}: requeued, waits: " in err
    assert survey([run]).runs[0].requeues == 1


def test_a_real_run_is_watched_and_cancelled(cluster, digits, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["pretrain", "mae_tiny", "--data.shards", str(digits), "--run-dir", str(run), "--no-track"]
    words += ["--steps", "100000", "--data.batch-size", "16", "--log-every", "1", "--save-every", "10"]
    words += ["--picture-every", "0", "--monitor-every", "0"]
    done = subprocess.run([EYESPOT, "launch", "--no-doctor", "--", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    def look():
        return survey([run]).runs[0]

    wait_until(lambda: look().step > 12, 240)
    seen = look()
    assert (seen.state, seen.words, seen.requeues, seen.steps) == ("running", "running", 0, 100000)
    assert seen.checkpoint_step
    assert seen.images_per_second
    assert (seen.seconds_left or 0) > 60
    assert main(["cancel", str(run)]) == 0
    assert "go on with: eyespot launch --again" in capsys.readouterr().out
    seen = look()
    assert (seen.state, seen.checkpoint_step) == ("stopped", seen.step)
    assert main(["status", str(run)]) == 0
    page = capsys.readouterr().out
    assert "Attempts" in page
    assert "go on with: eyespot launch --again" in page
    assert main(["logs", str(run), "--follow", "--lines", "2"]) == 0
    assert re.search(r"stopped by SIG\w+ after step \d+", capsys.readouterr().out)
    assert main(["logs", str(run), "--job", "--lines", "200"]) == 0
    assert "M parameters" in capsys.readouterr().out
