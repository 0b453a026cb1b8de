"""Supervisors on a real SLURM cluster. Their ranks are a small program of this file instead of a training."""

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster

from eyespot.cluster.status.records import Attempt, Records

pytestmark = pytest.mark.slow

JOB = """
import json, os, sys
from pathlib import Path
from eyespot.cluster.supervisor import rank_monitor, supervisor
from eyespot.cluster.supervisor.node_job import NodeJob
assert "torch" not in sys.modules
rank_monitor.GRACE_SECONDS = 5.0
supervisor.BEAT_SECONDS = 1.0
settings = json.loads(sys.argv[1])
os.environ["PYTHONPATH"] = settings.pop("program")  # of the ranks: this process has imported what it needs
NodeJob(**{**settings, "run_dir": Path(settings["run_dir"]), "words": tuple(settings["words"])})()
"""

PROGRAM = '''
"""In place of eyespot's command: takes steps, saves when it is asked to stop, and ends as the test wants."""
import json, os, signal, sys, time
from pathlib import Path

folder, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
rank, attempt = os.environ["RANK"], os.environ["EYESPOT_ATTEMPT"]
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME")
seen = {name: os.environ[name] for name in names} | {"host": os.uname().nodename, "attempt": attempt}
with (folder / "started").open("a") as file:
    file.write(json.dumps(seen) + "\\n")
stop = []
time.sleep(plan.get("deaf", 0))  # as while torch is imported
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: stop.append(number))


def say(kind, text, ranks=()):
    os.write(int(os.environ["EYESPOT_LAST_WORDS"]), json.dumps({"kind": kind, "text": text, "ranks": ranks}).encode())


def save(step):
    if rank == "0":
        checkpoint = folder / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "meta.json").write_text("{}")


end, _, guilty = plan.get(attempt, "").partition(" ")
dead = folder / f"dead-{attempt}"
for step in range(1, plan.get("steps", 10) if attempt in "01" and not end else 10):  # of an evaluation: 0
    time.sleep(0.1)
    if stop:
        save(step)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)  # as StopSignals restores it: Python itself would restore death
        sys.exit(75)
    if dead.exists():
        say("another rank", f"rank {guilty} died", [int(guilty)])
        sys.exit(1)
    if step == 5 and rank == guilty:
        dead.touch()
        if end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        say("crash", "ValueError: what a pity")
        sys.exit(1)
if end in ("training", "wrong"):
    say("training" if end == "training" else "wrong input", f"the {end} is bad")
    sys.exit(1 if end == "training" else 2)
save(10)
'''


@dataclass(kw_only=True)
class Drill:
    """A job, and what it should meet."""

    slurm: SlurmCluster
    run_dir: Path
    job: str = ""
    settings: dict[str, object] = field(default_factory=dict)

    @property
    def records(self) -> Records:
        return Records(self.run_dir)

    @property
    def output(self) -> str:
        return (self.run_dir / "output").read_text()

    @property
    def starts(self) -> list[dict[str, str]]:
        path = self.run_dir / "started"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def outcomes(self) -> list[tuple[str, int]]:
        return [(attempt.outcome, attempt.requeues) for attempt in self.records.attempts()]

    def until(self, there: Callable[[], object], seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, f"{self.records.attempts()}\n{self.output}"
            time.sleep(0.1)

    def ends(self, state: str, seconds: float = 240) -> list[Attempt]:
        found = self.slurm.wait_for(self.job, ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), seconds)
        assert found == state, self.output
        print(*self.records.attempts(), self.output, sep="\n")  # for whoever looks for what went wrong
        return self.records.attempts()


@pytest.fixture
def submit(slurm, tmp_path):
    """``submit(plan, nodes=2, ...)``: a job whose ranks follow the plan."""
    program = tmp_path / "program" / "eyespot" / "cluster"
    program.mkdir(parents=True)
    (program / "__init__.py").touch()
    (program.parent / "__init__.py").touch()
    (program / "cli.py").write_text(PROGRAM)
    (tmp_path / "job.py").write_text(JOB)
    drills: list[Drill] = []

    def start(
        plan: dict[str, object],
        *flags: str,
        nodes: int = 2,
        processes: int = 1,
        with_slurm: bool = True,
        **settings: object,
    ) -> Drill:
        run_dir = tmp_path / f"run{len(drills)}"
        run_dir.mkdir()
        values = {
            "run_dir": str(run_dir),
            "words": [str(run_dir), json.dumps(plan)],
            "processes": processes,
            "max_requeues": 3,
            "max_restarts": 3,
            "doctor": False,
            "program": str(program.parents[1]),
            **settings,
        }
        hidden = "" if with_slurm else "PATH=/nowhere"
        script = tmp_path / f"script{len(drills)}"
        script.write_text(
            "#!/bin/bash\nexport PYTHONSAFEPATH=1\n"
            f"srun env --ignore-signal=USR1 {hidden} {sys.executable} {tmp_path}/job.py '{json.dumps(values)}'\n"
        )
        output = ("-o", str(run_dir / "output"), "--open-mode=append")
        options = (f"-N{nodes}", "--ntasks-per-node=1", *output, "--requeue", "--signal=USR1@10", *flags)
        drills.append(Drill(slurm=slurm, run_dir=run_dir, settings=settings))
        drills[-1].job = slurm.run("sbatch", "--parsable", *options, str(script))
        return drills[-1]

    yield start
    slurm.reset()


def test_ends_that_need_no_signal(submit):
    """Several jobs: done, killed and restarted, crashing for ever, wrong, cannot go on, an evaluation, our fault."""
    done = submit({}, processes=2)
    killed = submit({"1": "killed 1"})
    crash = submit({"1": "crash 1", "2": "crash 0"}, max_restarts=1)
    wrong = submit({"1": "wrong"})
    training = submit({"1": "training"})
    evaluation = submit({"0": "wrong"}, nodes=1, kind="eval")
    contained = submit({"1": "killed 1"}, with_slurm=False)  # as in a container
    broken = submit({}, max_requeues="many")  # what only the first node stumbles over

    (attempt,) = done.ends("COMPLETED")
    assert (attempt.outcome, attempt.requeues, len(attempt.nodes)) == ("done", 0, 2)
    starts = sorted(done.starts, key=lambda start: int(start["RANK"]))
    assert [start["host"] for start in starts] == [node for node in attempt.nodes for _ in range(2)]
    assert [start["LOCAL_RANK"] for start in starts] == ["0", "1", "0", "1"]
    assert {start["WORLD_SIZE"] for start in starts} == {"4"}
    assert {start["MASTER_ADDR"] for start in starts} == {attempt.nodes[0]}
    assert {start["GLOO_SOCKET_IFNAME"] for start in starts} == {"eth0"}
    assert {beat.state for beat in done.records.beats().values()} == {"ended"}

    first, second = killed.ends("COMPLETED")
    assert (first.outcome, first.blamed) == ("failed", (first.nodes[1],))
    assert first.why == f"rank 1 on {first.nodes[1]} died of SIGKILL"
    assert (second.outcome, second.requeues, second.nodes) == ("done", 0, first.nodes)

    crashes = crash.ends("FAILED")
    assert [found.why for found in crashes] == [
        f"rank {rank} on {found.nodes[rank]} failed: ValueError: what a pity"
        for rank, found in zip((1, 0), crashes, strict=True)
    ]
    assert [found.blamed for found in crashes] == [(), ()]
    assert "failed 2 times without a new checkpoint" in crash.output
    assert f"resume with: eyespot launch --again {crash.run_dir}" in crash.output

    (attempt,) = wrong.ends("FAILED")
    assert (attempt.outcome, attempt.why) == ("wrong input", "the wrong is bad")
    assert "ExitCode=2:0" in wrong.slurm.run("scontrol", "show", "job", wrong.job)
    (attempt,) = training.ends("FAILED")
    assert (attempt.outcome, attempt.why) == ("failed", "the training is bad")
    assert evaluation.ends("FAILED") == []
    assert "ExitCode=2:0" in wrong.slurm.run("scontrol", "show", "job", evaluation.job)

    contained.ends("COMPLETED")
    assert contained.outcomes() == [("failed", 0), ("done", 0)]  # in the same job

    broken.slurm.wait_for(broken.job, ("FAILED",), 240)
    assert "TypeError" in broken.output
    assert [beat.state for beat in broken.records.beats().values()] == ["ended with exit code 1"]  # and nobody waits


def test_stops(submit, slurm):
    """Several jobs at once, each stopped in another way: which of them go on? In one, a node fails twice."""
    twice = submit({"1": "killed 1", "2": "killed 1"})
    long = {"steps": 2000}
    signalled, deaf, requeued = submit(long), submit({"deaf": 4, **long}), submit(long)
    cancelled, asked, forbidden = submit(long), submit(long), submit(long, "--no-requeue")
    often, evaluation = submit(long, max_requeues=0), submit(long, nodes=1, kind="eval")
    drills = (signalled, deaf, requeued, cancelled, asked, forbidden, often, evaluation)
    for drill in drills:
        drill.until(lambda drill=drill: len(drill.starts) == (1 if drill is evaluation else 2))
    time.sleep(1.0)
    asked.records.ask_cancel()
    for drill in (signalled, deaf, asked, forbidden, often, evaluation):
        slurm.run("scancel", "--signal=USR1", drill.job)
    slurm.run("scancel", cancelled.job)
    slurm.run("scontrol", "requeue", requeued.job)

    for drill, state in ((cancelled, "CANCELLED"), (asked, "FAILED"), (forbidden, "FAILED"), (often, "FAILED")):
        (attempt,) = drill.ends(state)
        assert attempt.outcome == "stopped", drill.output
        pattern = (
            rf"stopped at step \d+ with a checkpoint \((.*)\); resume with: eyespot launch --again {drill.run_dir}"
        )
        said = re.search(pattern, drill.output)
        assert said, drill.output
        assert said[1].startswith(attempt.why)
    assert cancelled.records.attempts()[0].why == "stopped by SIGTERM: the job was cancelled"
    assert asked.records.attempts()[0].why == "stopped by SIGUSR1: cancelled"
    assert "may not be requeued (scontrol: " in forbidden.output
    assert "requeued 0 times, the most it may" in often.output
    assert "ExitCode=75:0" in slurm.run("scontrol", "show", "job", often.job)
    evaluation.ends("FAILED")

    for drill in (signalled, deaf, requeued):
        first, second = drill.ends("COMPLETED")
        assert (first.outcome, first.requeues, second.outcome, second.requeues) == ("stopped", 0, "done", 1)
        assert first.why.startswith("stopped by SIG")
    assert "SLURM requeued the job" in requeued.records.attempts()[0].why

    attempts = twice.ends("COMPLETED")
    bad = attempts[0].nodes[1]
    assert twice.outcomes() == [("failed", 0), ("failed", 0), ("done", 1)]
    assert [attempt.blamed for attempt in attempts] == [(bad,), (bad,), ()]
    assert bad not in attempts[2].nodes
    assert f"{bad} failed twice in this run; requeued, without {bad}" in twice.output


def test_preemption(submit, slurm):
    drill = submit({"steps": 2000})
    drill.until(lambda: len(drill.starts) == 2)
    time.sleep(1.0)
    slurm.run("sbatch", "-purgent", "--exclusive", f"-N{len(slurm.nodes)}", "-o/dev/null", "--wrap=sleep 2")
    first, second = drill.ends("COMPLETED")
    assert (first.outcome, first.requeues, second.outcome, second.requeues) == ("stopped", 0, "done", 1)
    assert "preemption" in first.why
