"""Does it learn? Each method on CIFAR-10, shortened to about ten minutes on two cores, against its random twin.

Packs the data once, trains a method's recipe with a small encoder for fewer steps and a smaller batch, then runs the
linear probe and kNN of the trained encoder and of the same encoder with random weights (50,000 images to fit, 10,000 to
report). Gate: the linear probe gains at least 5 points, and the intervals do not overlap. Methods that were not asked
for keep their last row of the table.

    python benchmarks/learning_cifar10.py --data ../shared/data/cifar10-images.tar.gz --work /tmp/cifar10 simclr byol
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from results import RESULTS, write_results

NAME = "learning_cifar10"
EYESPOT = str(Path(sys.executable).parent / "eyespot")
SMALL_RESNET = "--encoder.name resnet10t --encoder.no-small-stem"
SHORT = "--optim.name adamw --optim.weight-decay 0.05"
SHORT += " --optim.warmup-steps 100 --precision fp32"  # convolutions in bf16 are slower than in fp32 on most CPUs
METHODS = {
    "mae": "mae_vitt_cifar10 --steps 1200 --data.batch-size 128 --optim.lr 2e-3 --optim.warmup-steps 100",
    "simclr": f"simclr_r18_cifar10 --steps 1000 --data.batch-size 256 --optim.lr 1e-3 {SMALL_RESNET} {SHORT}",
    "supcon": f"supcon_r18_cifar10 --steps 400 --data.batch-size 256 --optim.lr 1e-3 {SMALL_RESNET} {SHORT}",
    "byol": f"byol_r18_cifar10 --steps 1200 --data.batch-size 128 --optim.lr 2e-3 {SMALL_RESNET} {SHORT}"
    " --objective.momentum 0.95 --objective.first.scale 0.2 1.0 --objective.second.scale 0.2 1.0",
    "moco": f"moco_r18_cifar10 --steps 700 --data.batch-size 256 --optim.lr 1e-3 {SMALL_RESNET} {SHORT}",
    "moco_v3": "moco_v3_vitt_cifar10 --encoder.name test_vit --steps 700 --data.batch-size 256 --optim.lr 1e-3"
    f" {SHORT}",
}
"""What each method's short training is: a recipe and what is changed of it."""
GATE_POINTS = 5


def eyespot(*words: str) -> None:
    print("eyespot", *words, flush=True)
    subprocess.run([EYESPOT, *words], check=True)


def newest_result(run_dir: Path, protocol: str, role: str) -> dict:
    results = [json.loads(path.read_text()) for path in (run_dir / "eval").glob(f"{protocol}_*.json")]
    return max((result for result in results if result["role"] == role), key=lambda result: result["created"])


def measure(method: str, shards: Path, run_dir: Path) -> dict:
    """Trains and judges one method: its row of the table, as plain values."""
    places = ["--data.shards", str(shards), "--run-dir", str(run_dir), "--resume", "auto"]
    recipe, *changes = METHODS[method].split()
    eyespot("pretrain", recipe, *places, *changes)
    row: dict = {"settings": METHODS[method]}
    for protocol in ("linear", "knn"):
        eyespot("eval", protocol, str(run_dir), str(shards))
        for role in ("encoder", "random"):
            result = newest_result(run_dir, protocol, role)
            row[f"{protocol}_{role}"] = [result["accuracy"], *result["interval"]]
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    row["data_wait_share"] = sum(line["data_wait_share"] for line in metrics) / len(metrics)
    row["images_per_second"] = sorted(line["images_per_second"] for line in metrics)[len(metrics) // 2]
    row["loss"] = metrics[-1]["loss"]
    (accuracy, low, _), (random, _, high) = row["linear_encoder"], row["linear_random"]
    row["passed"] = 100 * (accuracy - random) >= GATE_POINTS and low > high
    return row


def shown(method: str, row: dict) -> tuple[str, ...]:
    """A row for people."""
    cells = []
    for key in ("linear_encoder", "linear_random", "knn_encoder", "knn_random"):
        accuracy, low, high = (100 * value for value in row[key])
        cells.append(f"{accuracy:.1f} ({low:.1f} to {high:.1f})")
    gain = 100 * (row["linear_encoder"][0] - row["linear_random"][0])
    return method, *cells, f"{gain:+.1f}, {'passed' if row['passed'] else 'FAILED'}", f"{row['data_wait_share']:.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(METHODS)}; all by default")
    parser.add_argument("--data", default="cifar10", help="CIFAR-10, as eyespot shards pack takes it")
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
    options = parser.parse_args()
    if unknown := set(options.methods) - set(METHODS):
        parser.error(f"unknown methods: {', '.join(sorted(unknown))}")
    shards = options.work / "shards"
    eyespot("shards", "pack", options.data, str(shards))
    before = RESULTS / f"{NAME}.json"
    rows = json.loads(before.read_text()).get("methods", {}) if before.is_file() else {}
    for method in options.methods or METHODS:
        rows[method] = measure(method, shards, options.work / method)
        write_results(
            NAME,
            title="CIFAR-10, about ten minutes of training each: accuracy in %, 95 % intervals, against random weights",
            header=("method", "linear", "linear, random", "kNN", "kNN, random", "gain (gate 5)", "waited for data"),
            rows=[shown(name, rows[name]) for name in METHODS if name in rows],
            details={"methods": rows},
        )
    sys.exit(0 if all(row["passed"] for row in rows.values()) else 1)


if __name__ == "__main__":
    main()
