"""What the gates of some methods of ``benchmarks/zoo.py`` were chosen by: training images of CIFAR-10 held out.

The 10,000 test images play no part. Of each class a tenth of the training images is held out; each candidate trains on
the 45,000 others and is probed as in the zoo: 10,000 of them to fit, the 5,000 held out to report. One seed.
The table is written after each training; what is there already is not trained again.

    OMP_NUM_THREADS=1 python benchmarks/gate_choice.py --data ../shared/data/cifar10-images.tar.gz --work /tmp/choice
"""

import argparse
import json
import os
import tarfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from results import RESULTS, write_results
from zoo import GATES, eyespot

from eyespot.pretrain.recipes.gate import Gate

NAME = "gate_choice"
CAPI = (
    "--optim.lr 2e-3 --objective.predictor-heads 2 --objective.predictor-depth 2 --objective.momentum 0.98"
    " --objective.asked-ratio 0.25"
)
IJEPA = "--optim.lr 2e-3 --objective.predictor-dim 64 --objective.predictor-depth 2 --objective.predictor-heads 2"
DINOV3 = (
    "--optim.lr 2e-3 --optim.min-lr 0 --objective.num-small 2 --objective.out-dim 256 --objective.momentum 0.95"
    " --objective.final-momentum 1 --objective.frozen 0.01"
)
CANDIDATES: dict[str, dict[str, tuple[int, str]]] = {
    "capi": {
        "256 clusters": (200, CAPI),
        "64 clusters": (200, f"{CAPI} --objective.num-prototypes 64"),
        "256 clusters, twice the rate": (250, f"{CAPI} --optim.lr 4e-3"),
        "256 clusters, longer": (600, CAPI),
        "256 clusters, momentum 0.95": (300, f"{CAPI} --objective.momentum 0.95"),
        "256 clusters, twice the rate, momentum 0.95": (300, f"{CAPI} --optim.lr 4e-3 --objective.momentum 0.95"),
        "256 clusters, all hidden patches asked": (300, f"{CAPI} --objective.asked-ratio 1"),
        "256 clusters, all asked, momentum 0.99, half the rate, longer": (
            1200,
            f"{CAPI} --objective.asked-ratio 1 --objective.momentum 0.99 --optim.lr 1e-3",
        ),
    },
    "ijepa": {
        "momentum 0.996": (200, IJEPA),
        "momentum 0.996, longer": (600, IJEPA),
        "momentum 0.996, half the rate, longer": (600, f"{IJEPA} --optim.lr 1e-3"),
        "momentum 0.99, half the rate, larger targets, longer": (
            600,
            f"{IJEPA} --optim.lr 1e-3 --objective.momentum 0.99 --objective.target-scale 0.2 0.3",
        ),
        "momentum 0.98": (200, f"{IJEPA} --objective.momentum 0.98"),
        "momentum 0.99, smaller batches, larger targets": (
            500,
            f"{IJEPA} --data.batch-size 64 --objective.momentum 0.99 --objective.num-targets 2"
            " --objective.target-scale 0.3 0.4",
        ),
    },
    "dinov3": {
        "as DINOv2's gate": (200, DINOV3),
    },
}
"""Of each method by name: steps, and what is changed of the recipe beside what all gates share."""


def pack(data: str, work: Path) -> None:
    """The training images alone, a tenth held out; and for the probe one shard of the rest beside these."""
    with tarfile.open(data) as tar:
        tar.extractall(work / "images", (m for m in tar if m.name.split("/")[0] == "train"), filter="data")
    eyespot("shards", "pack", str(work / "images" / "train"), str(work / "shards"), "--holdout", "0.1")
    for split in ("train", "test"):
        first, folder = min((work / "shards" / split).glob("*.tar")), work / "probe" / split
        folder.mkdir(parents=True, exist_ok=True)
        os.link(first, folder / first.name)
        eyespot("shards", "index", str(folder))


def measure(gate: Gate, work: Path, run_dir: Path) -> dict[str, Any]:
    """Trains one candidate and probes it, unless that is done: accuracies with their intervals, CPU minutes."""
    used = run_dir / "cpu_seconds.txt"
    if not used.exists():
        recipe, *changes = gate.settings.split()
        places = [
            "--data.shards",
            str(work / "shards"),
            "--run-dir",
            str(run_dir),
            "--no-track",
            "--picture-every",
            "0",
        ]
        used.write_text(f"{eyespot('pretrain', recipe, *places, *changes):.1f}\n")
    if not any((run_dir / "eval").glob("linear_*.json")):
        eyespot("eval", "linear", str(run_dir), str(work / "probe"))
    found = [json.loads(path.read_text()) for path in (run_dir / "eval").glob("linear_*.json")]
    row: dict[str, Any] = {each["role"]: [each["accuracy"], *each["interval"]] for each in found}
    return {**row, "cpu_minutes": round(float(used.read_text()) / 60, 1)}


def shown(row: dict[str, Any]) -> tuple[str, ...]:
    """A row for people."""
    cells = ["{:.1f} ({:.1f} to {:.1f})".format(*(100 * x for x in row[role])) for role in ("encoder", "random")]
    gain = 100 * (row["encoder"][0] - row["random"][0])
    return row["method"], row["candidate"], f"{gain:+.1f}", *cells, f"{row['cpu_minutes']}"


def write(rows: list[dict[str, Any]]) -> None:
    """The table, with what each candidate was."""
    write_results(
        NAME,
        title="Candidates for gates on 5,000 held-out training images of CIFAR-10: accuracy in %, 95 % intervals",
        header=("method", "candidate", "gain", "linear", "linear, random", "CPU minutes"),
        rows=[shown(row) for row in rows],
        details={"candidates": rows},
    )
    lines = [f"- {row['method']}, {row['candidate']}: `eyespot pretrain {row['settings']}`" for row in rows]
    with (RESULTS / f"{NAME}.md").open("a") as file:
        file.write("\n".join(["", *lines, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(CANDIDATES)}; all by default")
    parser.add_argument("--data", default="cifar10-images.tar.gz", help="train/CLASS/NUMBER.jpg in a tar")
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
    options = parser.parse_args()
    if not (options.work / "probe" / "test" / "manifest.json").exists():
        pack(options.data, options.work)
    before = RESULTS / f"{NAME}.json"
    rows: list[dict[str, Any]] = json.loads(before.read_text())["candidates"] if before.is_file() else []
    for method in options.methods or CANDIDATES:
        for name, (steps, changes) in CANDIDATES[method].items():
            gate = replace(GATES[method], steps=steps, changes=changes)
            if any(row["settings"] == gate.settings for row in rows):
                continue
            run_dir = options.work / "runs" / f"{method}-{sha256(gate.settings.encode()).hexdigest()[:6]}"
            found = measure(gate, options.work, run_dir)
            rows.append({"method": method, "candidate": name, "settings": gate.settings, **found})
            write(rows)


if __name__ == "__main__":
    main()
