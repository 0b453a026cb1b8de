"""How long it takes to look at much: ``status`` of many runs, ``report`` of a long one.

    python benchmarks/watching.py --runs 1000 --lines 1000000

Each command runs as a person runs it, in a process of its own; its time and its peak of memory are written into
results/watching.md, of few beside many.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from eyespot.pretrain.run_record import RunRecord

PARTS = ("data", "forward", "backward", "communication", "optimiser", "checkpoint", "other")


def line(step: int) -> bytes:
    """One of metrics.jsonl, as a run writes them."""
    values = {"step": step, "time": round(1.7e9 + step, 3), "loss": 7 / (1 + step / 1e4), "lr": 1e-3 / (1 + step)}
    values |= {"grad_norm": 0.1 + step % 7, "images_per_second": 1200.5, "data_wait_share": 0.01}
    values |= {"samples_seen": 256 * (step + 1), "epoch": step / 5000, "peak_memory_gb": 11.25}
    values |= {f"time_share/{part}": 1 / len(PARTS) for part in PARTS}
    values |= {"sample_digest": f"{step:016x}"}
    if step % 100 == 0:
        values |= {"online/knn": 0.5, "health/collapsed": 0.0}
    return json.dumps(values).encode() + b"\n"


def write_run(folder: Path, lines: int) -> None:
    """A run folder with everything that ``status`` reads."""
    for name in ("logs", "checkpoints", "cluster"):
        (folder / name).mkdir(parents=True)
    run = {"steps": lines, "data": {"shards": "/nowhere"}, "encoder": {"name": "vit_small", "image_size": 224}}
    RunRecord(recipe="mae_tiny", run=run, argv=["eyespot", "pretrain", "mae_tiny"], run_key="0" * 16).write(folder)
    with (folder / "metrics.jsonl").open("wb") as file:
        file.writelines(map(line, range(lines)))
    text = "2026-01-01 00:00:00,000 INFO step 1/10  loss 0.5\n" * 2_000
    (folder / "logs" / "rank-0.log").write_text(f"{text}2026-01-01 00:00:00,000 INFO done: step {lines} of {lines}\n")
    (folder / ".lock").write_text("process 1 on node1\n")
    for step in range(0, 50, 10):
        (folder / "checkpoints" / f"step-{step:08d}").mkdir()
        (folder / "checkpoints" / f"step-{step:08d}" / "meta.json").write_text("{}")


def measured(*words: str) -> tuple[float, float, float]:
    """Seconds, seconds of a core, and peak MB of a command."""
    begin = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "eyespot.cluster.cli", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{words} failed"
    return time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Makes the runs, looks at them, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--lines", type=int, default=1_000_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        for number in range(asked.runs):
            write_run(runs / f"{number:04d}", 400)
        write_run(Path(folder) / "short", 400)
        write_run(Path(folder) / "long", asked.lines)
        rows = []
        for name, words in {
            "status of 1 run": ["status", str(runs / "0000")],
            f"status of {asked.runs:,} runs": ["status", str(runs)],
            "report of 400 lines": ["report", str(Path(folder) / "short")],
            f"report of {asked.lines:,} lines": ["report", str(Path(folder) / "long")],
        }.items():
            seconds, of_a_core, megabytes = measured(*words)
            rows.append([name, f"{seconds:.1f}", f"{of_a_core:.1f}", f"{megabytes:,.0f}"])
            print(*rows[-1], flush=True)
    from results import write_results  # only now: with torch in it, our own memory would count as that of the commands

    header = ["command", "seconds", "seconds of a core", "peak MB"]
    write_results("watching", title="Looking at many runs, and at long ones", header=header, rows=rows, details={})


if __name__ == "__main__":
    main()
