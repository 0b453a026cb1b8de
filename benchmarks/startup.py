"""How long a person waits: `eyespot --help`, and from the command to the end of the first training step.

python benchmarks/startup.py [--rounds 5]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import write_results

EYESPOT = str(Path(sys.executable).parent / "eyespot")


def help_seconds() -> float:
    begun = time.perf_counter()
    subprocess.run([EYESPOT, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def first_step_seconds(shards: Path, run_dir: Path) -> float:
    """From the command to the time stamp of the first line of metrics.jsonl."""
    flags = ["--data.shards", str(shards), "--run-dir", str(run_dir), "--log-every", "1", "--stop-after", "1"]
    begun = time.time()
    subprocess.run([EYESPOT, "pretrain", "mae_tiny", *flags], check=True, stderr=subprocess.DEVNULL)
    first = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])
    return first["time"] - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "digits"
        subprocess.run([EYESPOT, "shards", "pack", "digits", str(shards)], check=True, stdout=subprocess.DEVNULL)
        helps = [help_seconds() for _ in range(options.rounds)]
        steps = [first_step_seconds(shards, Path(folder) / f"run{number}") for number in range(options.rounds)]
    rows = [
        ("eyespot --help", f"{statistics.median(helps):.2f}", f"{max(helps):.2f}", "< 0.5"),
        ("first training step, mae_tiny", f"{statistics.median(steps):.1f}", f"{max(steps):.1f}", "< 20"),
    ]
    write_results(
        "startup",
        title=f"Start-up, seconds, {options.rounds} rounds",
        header=("what", "median", "longest", "target"),
        rows=rows,
        details={"seconds": {"help": helps, "first_step": steps}},
    )


if __name__ == "__main__":
    main()
