"""The first minutes on a GPU: what runs, what is exact, what waits, and how fast; one table, within ten minutes.

    python benchmarks/gpu_check.py [PHASE ...] [--seconds 600]         make gpu-check: all phases
    DRY=1 python benchmarks/gpu_check.py                               tiny, on the CPU: shows that the phases run

Each phase is a process of its own: one that crashes, hangs or takes too long ends alone, and what it had found stands.
All that ran are in benchmarks/results/gpu.md; a dry run, and one of some phases, only prints its table. For a machine
without eyespot's packages and without a network: benchmarks/gpu/make_kit.sh and benchmarks/gpu/run_kit.sh.
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRY = bool(os.environ.get("DRY"))
NOT_MEASURED = "not measured"
PATIENCE = 10 if DRY else 1
"""Times the seconds of each phase: a dry run shows that they run, on however busy a CPU."""
LEAST_SECONDS = 10
"""With less a phase is not begun."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Phase:
    """One file of benchmarks/gpu with a function ``run(note)``."""

    name: str
    seconds: float
    """After which it is ended."""
    shows: str
    """What its rows say; the one row of a phase that did not run."""


PHASES = (
    Phase(name="environment", seconds=40, shows="machine, bf16 product, copy"),
    Phase(name="decode", seconds=90, shows="DALI's levels against the CPU's, decoders"),
    Phase(name="step", seconds=110, shows="MAE's step eager, FSDP, compiled; host synchronisations; busy share"),
    Phase(name="views", seconds=120, shows="views alone and beside a busy GPU, kernels and copies a batch"),
    Phase(name="batch_norm", seconds=30, shows="batch norm of one process, ours and torch's over ranks"),
    Phase(name="convolutions", seconds=50, shows="ResNet-50's step channels first and last"),
    Phase(name="loss", seconds=40, shows="NT-Xent from 4,096 to 65,536 images"),
    Phase(name="exactness", seconds=80, shows="twice the same steps: the same bits?"),
    Phase(name="saving", seconds=40, shows="how long a checkpoint holds the training up"),
    Phase(name="suite", seconds=180, shows="tests/test_gpu.py"),
)
ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""Of the phases: the first is what deterministic products need."""

Row = tuple[str, str, str]
"""Phase, what, found."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [phase.name for phase in PHASES]
    parser.add_argument("phases", nargs="*", choices=[*names, []], metavar="PHASE", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=600, help="of all phases together; later ones are left out")
    parser.add_argument("--work", type=Path, default=Path(".gpu-check"), help="folder for photographs and findings")
    parser.add_argument("--run-one", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["EYESPOT_GPU_WORK"] = str(options.work)
    if options.run_one is not None:
        run_here(options.phases[0], options.run_one)
        return
    chosen = [phase for phase in PHASES if phase.name in (options.phases or names)]
    options.work.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + PATIENCE * options.seconds
    reason = "" if DRY else why_no_gpu()
    rows = (
        [(phase.name, phase.shows, NOT_MEASURED) for phase in chosen]
        if reason
        else check(chosen, options.work, deadline)
    )
    report(rows, options.work, reason, whole=len(chosen) == len(PHASES))


def check(phases: Sequence[Phase], work: Path, deadline: float) -> list[Row]:
    """Runs the phases in turn, each at most until the deadline."""
    rows: list[Row] = []
    for phase in phases:
        left = min(PATIENCE * phase.seconds, deadline - time.monotonic())
        if left < LEAST_SECONDS:
            rows.append((phase.name, phase.shows, f"{NOT_MEASURED}: no time was left"))
            continue
        print(f"--- {phase.name}, at most {left:.0f} s", flush=True)
        begun = time.monotonic()
        rows += run_apart(phase, work, left)
        print(f"--- {phase.name} took {time.monotonic() - begun:.0f} s", flush=True)
    return rows


def why_no_gpu() -> str:
    """Why nothing can be measured here; empty where a GPU computes. Asked in a process of its own, which may crash."""
    script = "import torch; torch.zeros(1, device='cuda').sum().item()"
    try:
        asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        return "torch does not get to use a GPU within 90 s"
    lines = asked.stderr.strip().splitlines() or [f"torch ended with {asked.returncode}"]
    return "" if asked.returncode == 0 else lines[-1].split(". ")[0]


def run_apart(phase: Phase, work: Path, seconds: float) -> list[Row]:
    """Runs a phase in a process of its own: what it found, and how it ended where that was not well."""
    file = work / f"{phase.name}.jsonl"
    file.unlink(missing_ok=True)
    command = [sys.executable, __file__, phase.name, "--work", str(work), "--run-one", str(file)]
    process = subprocess.Popen(command, env={**ENVIRONMENT, **os.environ}, start_new_session=True)
    ending = ""
    try:
        if code := process.wait(seconds):
            ending = f"ended with exit code {code}" if code > 0 else f"died of {signal.Signals(-code).name}"
    except subprocess.TimeoutExpired:
        ending = f"took more than {seconds:.0f} s and was ended"
    finally:
        end_all_of(process)
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [(phase.name, *json.loads(line)) for line in lines]
    return [*rows, (phase.name, "how it ended", ending)] if ending else rows


def end_all_of(process: subprocess.Popen) -> None:
    """Ends a phase's process, and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_here(name: str, file: Path) -> None:
    """One phase in this process; each finding is in the file as soon as it is made."""
    begun = time.monotonic()

    def note(what: str, found: str) -> None:
        what, found = (" ".join(text.split()) for text in (what, found))
        print(f"{time.monotonic() - begun:6.1f} s  {what}: {found}", flush=True)
        with file.open("a") as lines:
            lines.write(json.dumps([what, found]) + "\n")

    try:
        run: Callable[[Callable[[str, str], None]], Any] = importlib.import_module(f"gpu.{name}").run
        run(note)
    except Exception as error:
        note("failed", f"{type(error).__name__}: {error}")
        raise


def report(rows: list[Row], work: Path, reason: str, *, whole: bool) -> None:
    """Prints the table, and leaves it with the other results where all phases have been asked for in earnest.

    ``reason``: why there is no GPU.
    """
    from results import RESULTS, write_results

    state = "dry: run tiny on the CPU, nothing is measured" if DRY else reason and f"{NOT_MEASURED}, {reason}"
    write_results(
        "gpu",
        title=f"The check of a GPU{f' ({state})' if state else ''}",
        header=("phase", "what", "found"),
        rows=[tuple(cell.replace("|", "/") for cell in row) for row in rows],
        details={},
        script="gpu_check",
        folder=RESULTS if whole and not DRY else work,
    )


if __name__ == "__main__":
    main()
