"""Does it learn? MAE on CIFAR-10, shortened to about ten minutes on two cores, against its random twin.

Packs the data, trains `mae_vitt_cifar10` for fewer steps with a smaller batch, then runs the linear probe and kNN of
the trained encoder and of the same encoder with random weights. Gate: at least 5 points, intervals that do not overlap.

    python benchmarks/learning_cifar10.py --data ../shared/data/cifar10-images.tar.gz --work /tmp/cifar10
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from results import write_results

EYESPOT = str(Path(sys.executable).parent / "eyespot")
STEPS, BATCH = 1200, 128


def eyespot(*words: str) -> None:
    print("eyespot", *words, flush=True)
    subprocess.run([EYESPOT, *words], check=True)


def newest_result(run_dir: Path, protocol: str, role: str) -> dict:
    results = [json.loads(path.read_text()) for path in (run_dir / "eval").glob(f"{protocol}_*.json")]
    return max((result for result in results if result["role"] == role), key=lambda result: result["created"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="CIFAR-10, as eyespot shards pack takes it")
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and run")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    shards, run_dir = options.work / "shards", options.work / "run"
    eyespot("shards", "pack", options.data, str(shards))
    short = ["--steps", str(options.steps), "--data.batch-size", str(BATCH), "--optim.warmup-steps", "100"]
    places = ["--data.shards", str(shards), "--run-dir", str(run_dir), "--resume", "auto"]
    eyespot("pretrain", "mae_vitt_cifar10", *places, *short, "--optim.lr", "2e-3")
    rows, gaps = [], {}
    for protocol in ("linear", "knn"):
        eyespot("eval", protocol, str(run_dir), str(shards))
        trained, random = (newest_result(run_dir, protocol, role) for role in ("encoder", "random"))
        for result in (trained, random):
            low, high = result["interval"]
            interval = f"{100 * low:.2f} to {100 * high:.2f}"
            rows.append((result["metric"], result["name"], f"{100 * result['accuracy']:.2f}", interval))
        gaps[protocol] = {
            "points": 100 * (trained["accuracy"] - random["accuracy"]),
            "apart": trained["interval"][0] > random["interval"][1],
        }
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    waits = sum(line["data_wait_share"] for line in metrics) / len(metrics)
    rows.append(("data-wait share of step time", "mean over the run", f"{100 * waits:.3f} %", "target < 5 %"))
    gate = gaps["linear"]["points"] >= 5 and gaps["linear"]["apart"]
    rows.append(
        (
            "linear probe, trained minus random",
            "gate >= 5",
            f"{gaps['linear']['points']:.2f}",
            "passed" if gate else "FAILED",
        )
    )
    write_results(
        "learning_cifar10",
        title=f"mae_vitt_cifar10, {options.steps} steps of {BATCH} images, CIFAR-10 test set",
        header=("metric", "what", "value", "95 % interval"),
        rows=rows,
        details={"gaps": gaps, "loss": metrics[-1]["loss"], "data_wait_share": waits},
    )
    sys.exit(0 if gate else 1)


if __name__ == "__main__":
    main()
