"""Small runs for the drills on the cluster: a recipe whose steps take their time, and what a drill asks of a run."""

import io
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster
from torch import Tensor, nn

from eyespot.cluster import cli
from eyespot.cluster.status.records import Attempt, Records
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.config import Run
from eyespot.pretrain.objectives.mae import MAE
from eyespot.pretrain.recipes.mae import mae_tiny
from eyespot.pretrain.skipped_step import Taken

STEPS, SAVE_EVERY = 150, 10
SLOW_SECONDS = 3.0
"""Of a step beyond the gate."""
PATIENCE = 300.0
"""Seconds that a drill waits for what must come; a machine with much else to do takes its time."""


class GatedMAE(MAE):
    """MAE that goes on slowly once it has come so far: a drill needs the time, and its machine may be slow."""

    @dataclass(kw_only=True, slots=True)
    class Config(MAE.Config):
        gate: str = ""
        """A file that says how far (share of the run); "" = nothing is slowed."""

        def build(self, encoder: nn.Module, image_size: int) -> "GatedMAE":
            return GatedMAE(self, encoder, image_size)

    config: Config
    progress = 0.0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if self.config.gate and self.progress >= float(Path(self.config.gate).read_text()):
            time.sleep(SLOW_SECONDS)
        return super().forward(batch)

    def after_step(self, progress: float, taken: Taken = True) -> None:
        self.progress = progress


def gated() -> Run:
    """mae_tiny with little to compute, which logs every step and saves often."""
    run = mae_tiny()
    run.objective = GatedMAE.Config(decoder_dim=64, decoder_depth=1, decoder_heads=2, crop_scale=(0.6, 1.0), flip=0.0)
    run.data.batch_size, run.optim.warmup_steps = 16, 10
    run.steps, run.log_every, run.save_every = STEPS, 1, SAVE_EVERY
    run.picture_every = run.monitor_every = 0
    run.device, run.rank_timeout_seconds = "cpu", 15.0
    return run


class DrillRun:
    """A run on two nodes of a cluster, submitted by ``eyespot launch`` like anybody's.

    Args:
        run_dir: its folder.
        flags: of ``eyespot launch``.
        gate: how many steps it makes before it slows down; None = it never does.
        environment: variables of whoever submits it, besides those that name the cluster.
    """

    def __init__(
        self,
        cluster: SlurmCluster,
        run_dir: Path,
        shards: Path,
        *flags: str,
        gate: int | None = None,
        environment: dict[str, str],
    ) -> None:
        self.cluster, self.run_dir, self.records = cluster, run_dir, Records(run_dir)
        self.environment = {**cluster.environment, "PYTHONPATH": str(Path(__file__).parent), **environment}
        words = ["pretrain", "slurm_runs:gated", "--data.shards", str(shards), "--run-dir", str(run_dir)]
        self._gate = run_dir.parent / f"{run_dir.name}.gate"
        if gate is not None:
            self.open_gate(gate)
            words += ["--objective.gate", str(self._gate)]
        self.command = ["launch", "--nodes", "2", "--no-doctor", *flags, "--", *words]

    def eyespot(self, *words: str) -> tuple[int, str]:
        """Exit code of a command, and what it says; it runs in this process, which has imported torch already."""
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as here, redirect_stdout(said), redirect_stderr(said):
            for name, value in self.environment.items():
                here.setenv(name, value)
            code = cli.main(list(words))
        return code, said.getvalue()

    def launch(self) -> None:
        code, said = self.eyespot(*self.command)
        assert code == 0, said

    def open_gate(self, step: int) -> None:
        """So far it goes at full speed."""
        temporary = self._gate.with_suffix(".tmp")
        temporary.write_text(str(step / STEPS))
        temporary.replace(self._gate)

    @property
    def job(self) -> str:
        return self.records.jobs()[-1].job

    def wait(self, there: Callable[[], object], seconds: float, what: str) -> None:
        """Waits until it is so; the assertion that ends it tells what is known of the run."""
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, f"{seconds:.0f} s: {what}\n{self.story()}"
            time.sleep(0.05)

    def wait_for_step(self, step: int, seconds: float = PATIENCE) -> None:
        self.wait(lambda: self.last_step() >= step, seconds, f"step {step} was never logged")

    def attempt(self) -> Attempt:
        """The newest."""
        return self.records.attempts()[-1]

    def nodes(self) -> tuple[str, ...]:
        """Where it runs."""
        return self.attempt().nodes

    def disturb(self, action: Callable[[], object], seconds: float = PATIENCE) -> Attempt:
        """Does it, and waits until a new attempt has logged steps that no earlier one logged.

        Returns:
            How the disturbed attempt ended.
        """
        disturbed = self.attempt().number
        action()
        self.wait(lambda: self.attempt().number > disturbed, seconds, "no new attempt")
        last = self.last_step()
        self.open_gate(last + 5)
        self.wait_for_step(last + 3, seconds)
        return self.records.attempts()[disturbed - 1]

    @contextmanager
    def frozen_in_checkpoint(self) -> Iterator[None]:
        """Inside, the ranks stand still in the middle of writing a checkpoint."""
        pids = [pid for node in self.nodes() for pid in self.ranks_on(node)]
        before = self._unfinished()
        self.open_gate(self.last_step() + 2 * SAVE_EVERY)
        end = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < end, self.story()
            if self._unfinished() - before:
                _signal_all(pids, signal.SIGSTOP)
                time.sleep(0.05)  # a stop is not immediate
                if self._unfinished() - before:
                    break
                _signal_all(pids, signal.SIGCONT)
        yield
        _signal_all(pids, signal.SIGCONT)

    def _unfinished(self) -> set[Path]:
        return set((self.run_dir / "checkpoints").glob("step-*.tmp"))

    def wait_until_done(self, seconds: float = PATIENCE) -> None:
        state = self.cluster.wait_for(self.job, ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), seconds)
        assert state == "COMPLETED", self.story()

    def metrics(self) -> list[dict[str, object]]:
        """The complete lines of metrics.jsonl."""
        path = self.run_dir / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def last_step(self) -> int:
        lines = self.metrics()
        return int(str(lines[-1]["step"])) if lines else -1

    def weights(self) -> dict[str, bytes]:
        """The encoder in the newest checkpoint."""
        newest = checkpoint.newest(self.run_dir)
        assert newest is not None
        return {name: tensor.numpy().tobytes() for name, tensor in checkpoint.read_encoder(newest).items()}

    def log(self, rank: int = 0) -> str:
        path = self.run_dir / "logs" / f"rank-{rank}.log"
        return path.read_text() if path.exists() else ""

    def said(self) -> str:
        """All that the job's tasks have printed."""
        return "\n".join(path.read_text() for path in sorted(self.records.submitit.glob("*.err"))) + "\n".join(
            path.read_text() for path in sorted(self.records.submitit.glob("*.out"))
        )

    def ranks_on(self, node: str) -> list[int]:
        """The processes of this run's ranks on a node."""
        return self.cluster.node_pids(node, f"eyespot.cluster.cli pretrain --from {self.records.run_file}")

    def story(self) -> str:
        """What is known of the run, for an assertion that fails."""
        attempts = "\n".join(map(str, self.records.attempts()))
        queue = self.cluster.run("squeue", "-o", "%i %T %r %N", check=False)
        return f"{queue}\n{attempts}\n{self.log()[-1500:]}\n{self.said()[-4000:]}"

    def assert_as_undisturbed(self, reference: "DrillRun") -> None:
        """Every step is there once, with the very samples and the very loss of a run that nothing interrupted."""
        reference.wait_for_step(self.last_step())
        found, expected = ([_essence(line) for line in run.metrics()] for run in (self, reference))
        assert found == expected[: len(found)]
        assert "the resumed run differs" not in self.log()
        agreed = re.findall(r"re-run steps agreed with metrics.jsonl (.*)", self.log())
        assert set(agreed) <= {"bit for bit"}


def _signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def _essence(line: dict[str, object]) -> tuple[object, ...]:
    return line["step"], line["loss"], line["sample_digest"], line["samples_seen"]
