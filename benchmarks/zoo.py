"""The whole zoo on CIFAR-10: each method trained for a few minutes on two cores and probed beside its random twin.

Packs the data once, trains each method as the ``GATE`` of its recipe file says, a small encoder for a few steps, and
runs the linear probe and kNN of the trained encoder and of the same architecture with random weights (10,000 training
images to fit, the 10,000 test images to report). Gate: on the average over the seeds the linear probe gains at least 2
points, and with no seed do the two 95 % intervals overlap. A method that fails stays in the table, with what was found
out about it.

The table is written after each training, so a run that was broken off goes on where it was: what is already there with
the same settings is not trained again. What the package itself shows (``eyespot recipes``, docs/methods.md) is kept in
``pretrain/recipes/measured.json``.

    python benchmarks/zoo.py --data ../shared/data/cifar10-images.tar.gz --work /tmp/zoo --seeds 2 rotation simclr
"""

import argparse
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from statistics import mean
from threading import Lock
from typing import Any

from results import RESULTS, write_results

from eyespot.cluster.method_cards import MEASURED, cards
from eyespot.pretrain.recipes.gate import TENTH

NAME = "zoo"
EYESPOT = str(Path(sys.executable).parent / "eyespot")
GATE_POINTS = 2
GATES = {card.name: card.gate for card in cards() if card.gate}
"""Of all methods whose recipe file has one. classify has none: it is no pretraining."""


def eyespot(*words: str) -> float:
    """Runs a command: its CPU seconds, which hardly depend on what else the machine does."""
    print("eyespot", *words, flush=True)
    process = subprocess.Popen([EYESPOT, *words])
    _, status, used = os.wait4(process.pid, 0)  # of this one and its processes; others may run beside it
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, ["eyespot", *words])
    return used.ru_utime + used.ru_stime


def pack(data: str, work: Path) -> None:
    """All images to learn from, and for the probes one shard of each split: images lie in them in no order."""
    eyespot("shards", "pack", data, str(work / "shards"))
    for split in ("train", "test"):
        first, folder = min((work / "shards" / split).glob("*.tar")), work / "probe" / split
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / first.name).exists():
            os.link(first, folder / first.name)
        eyespot("shards", "index", str(folder))
    (work / "tenth.txt").write_text("".join(f"{sample}\n" for sample in range(0, 50_000, 10)))


def measure(method: str, seed: int, work: Path, run_dir: Path) -> dict[str, Any]:
    """Trains and judges one method with one seed: accuracies with their intervals, and how long training took."""
    gate = GATES[method]
    shown_at = ["--image-size", str(gate.shown_at)] if gate.shown_at else []
    recipe, *changes = gate.settings.replace(TENTH, str(work / "tenth.txt")).split()
    places = ["--data.shards", str(work / "shards"), "--run-dir", str(run_dir), "--resume", "auto", "--no-track"]
    used = run_dir / "cpu_seconds.txt"  # stays known where only the probes are repeated
    broken_off = (run_dir / "checkpoints").exists() and not used.exists()  # nobody counted until then
    seconds = eyespot("pretrain", recipe, *places, *changes, "--seed", str(seed))
    seconds += float(used.read_text()) if used.exists() else math.nan if broken_off else 0.0
    used.write_text(f"{seconds:.1f}\n")
    row: dict[str, Any] = {"cpu_minutes": None if math.isnan(seconds) else round(seconds / 60, 1)}
    for protocol in ("linear", "knn"):
        eyespot("eval", protocol, str(run_dir), str(work / "probe"), "--seed", str(seed), *shown_at)
        results = [json.loads(path.read_text()) for path in (run_dir / "eval").glob(f"{protocol}_*.json")]
        for role in ("encoder", "random"):
            newest = max((r for r in results if r["role"] == role), key=lambda result: result["created"])
            row[f"{protocol}_{role}"] = [newest["accuracy"], *newest["interval"]]
    return row


def average(row: dict[str, Any], key: str) -> float:
    """Percent, over the seeds."""
    return 100 * mean(seed[key][0] for seed in row["seeds"].values())


def gain(row: dict[str, Any]) -> float:
    """Points that the linear probe of the trained encoder is better by."""
    return average(row, "linear_encoder") - average(row, "linear_random")


def passed(row: dict[str, Any]) -> bool:
    """Whether it learned something, beyond doubt."""
    apart = all(seed["linear_encoder"][1] > seed["linear_random"][2] for seed in row["seeds"].values())
    return gain(row) >= GATE_POINTS and apart


def shown(method: str, row: dict[str, Any]) -> tuple[str, ...]:
    """A row for people: the mean over the seeds, and the widest span of their intervals."""
    cells = []
    for key in ("linear_encoder", "linear_random", "knn_encoder", "knn_random"):
        low, high = (100 * end(seed[key][at] for seed in row["seeds"].values()) for at, end in ((1, min), (2, max)))
        cells.append(f"{average(row, key):.1f} ({low:.1f} to {high:.1f})")
    verdict = f"{gain(row):+.1f}, {'passed' if passed(row) else 'FAILED'}"
    return method, verdict, *cells, ", ".join(sorted(row["seeds"], key=int)), minutes_of(row)


def minutes_of(row: dict[str, Any]) -> str:
    """CPU minutes of a training, the mean over the seeds."""
    minutes = [seed["cpu_minutes"] for seed in row["seeds"].values()]
    return "not measured" if None in minutes else f"{mean(minutes):.1f}"


def write(rows: dict[str, Any]) -> None:
    """The table for people, the numbers, and the few that the package shows."""
    there = {method: rows[method] for method in GATES if method in rows}
    write_results(
        NAME,
        title="CIFAR-10, a few minutes of training each: accuracy in %, 95 % intervals, against random weights",
        header=("method", "gain (gate 2)", "linear", "linear, random", "kNN", "kNN, random", "seeds", "CPU minutes"),
        rows=[shown(method, row) for method, row in there.items()],
        details={"methods": there},
    )
    notes = [f"- {method}: {GATES[method].finding}" for method in there if GATES[method].finding]
    commands = [
        f"- {method}: `eyespot pretrain {row['settings']}`"
        + (f", probes with `--image-size {row['shown']}`" if row["shown"] else "")
        for method, row in there.items()
    ]
    parts = ["", "What was found out:", "", *notes] if notes else []
    about = f"Each method, before `eyespot eval linear` and `knn`; {TENTH} lists every tenth training image, from 0 on:"
    parts += ["", about, "", *commands, ""]
    with (RESULTS / f"{NAME}.md").open("a") as file:
        file.write("\n".join(parts))
    MEASURED.write_text(json.dumps({method: _short(row) for method, row in there.items()}, indent=1) + "\n")


def _short(row: dict[str, Any]) -> dict[str, Any]:
    encoder = row["settings"].partition("--encoder.name ")[2].split(" ")[0]
    return {
        "encoder": encoder or row["settings"].split()[0],
        "linear": round(average(row, "linear_encoder"), 1),
        "random": round(average(row, "linear_random"), 1),
        "passed": passed(row),
    }


def learn(rows: dict[str, Any], wanted: list[tuple[int, str]], work: Path, jobs: int) -> list[str]:
    """Measures what is wanted and not there yet, and writes the table each time: the trainings that failed."""
    failed: list[str] = []
    one_writes = Lock()

    def one(seed: int, method: str) -> None:
        name = f"{method}-{seed}-{sha256(GATES[method].settings.encode()).hexdigest()[:6]}"
        try:
            found = measure(method, seed, work, work / "runs" / name)
        except subprocess.CalledProcessError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed.append(name)
            return
        with one_writes:
            if not is_current(method):
                rows[method] = {"settings": GATES[method].settings, "shown": GATES[method].shown_at, "seeds": {}}
            rows[method]["seeds"][str(seed)] = found
            write(rows)

    def is_current(method: str) -> bool:
        row = rows.get(method, {})
        return (row.get("settings"), row.get("shown")) == (GATES[method].settings, GATES[method].shown_at)

    missing = [(s, method) for s, method in wanted if not is_current(method) or str(s) not in rows[method]["seeds"]]
    with ThreadPoolExecutor(jobs) as lanes:
        list(lanes.map(lambda pair: one(*pair), missing))
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(GATES)}; all by default")
    parser.add_argument("--data", default="cifar10", help="CIFAR-10, as eyespot shards pack takes it")
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
    parser.add_argument("--seeds", type=int, default=2, help="trainings per method")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, of OMP_NUM_THREADS threads each")
    options = parser.parse_args()
    if unknown := set(options.methods) - set(GATES):
        parser.error(f"unknown methods: {', '.join(sorted(unknown))}")
    if not (options.work / "probe" / "test" / "manifest.json").exists():
        pack(options.data, options.work)
    before = RESULTS / f"{NAME}.json"
    rows = json.loads(before.read_text())["methods"] if before.is_file() else {}
    wanted = [(seed, method) for seed in range(options.seeds) for method in options.methods or GATES]
    failed = learn(rows, wanted, options.work, options.jobs)
    write(rows)
    sys.exit(0 if not failed and all(passed(row) for row in rows.values()) else 1)


if __name__ == "__main__":
    main()
