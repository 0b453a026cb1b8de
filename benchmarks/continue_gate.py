"""Does going on from an encoder on other images ruin it, and is it worth it? Five classes of CIFAR-10, then the rest.

A small ResNet learns by SimCLR on the images of the first five classes. From there it goes on, on those of the other
five, with the drift guard looking at labelled images of the first five (``--start.guard``, ``--stop-on-drift``). Beside
it: the same training on the other five from random weights, and one that goes on at a rate that ruins it, which the
guard has to stop. Linear probe and kNN learn from 5,000 images of a half and are tested on its 5,000 test images.

Gate, with every seed: the run that goes on is not stopped, and after it no probe of the first half is below its start
by more than the 95 % interval of the paired difference; on the second half the linear probe is above that from scratch
by more than that interval; and the ruinous run is stopped before it keeps anything. Called again it goes on where it
was.

    python benchmarks/continue_gate.py --data ../shared/data/cifar10-images.tar.gz --work /tmp/continue
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from results import write_results

NAME = "continue_gate"
EYESPOT = str(Path(sys.executable).parent / "eyespot")
HALVES = {
    "first": ("airplane", "automobile", "bird", "cat", "deer"),
    "second": ("dog", "frog", "horse", "ship", "truck"),
}
PROBED = 5000
"""Training images of a half that the probes learn from: its first tar."""
COMMON = (
    "simclr_r18_cifar10 --data.batch-size 128 --encoder.name test_resnet --encoder.no-small-stem --optim.name adamw"
    " --optim.weight-decay 0.05 --precision fp32 --picture-every 0 --keep-checkpoints 9"
)
STEPS = "--steps 200 --optim.warmup-steps 20"
GUARDED = "--optim.stages 0.1 --monitor-every 50 --save-every 50 --stop-on-drift"
RUNS = {
    "start": "--steps 600 --optim.lr 2e-3 --optim.warmup-steps 50",
    "scratch": f"{STEPS} --optim.lr 2e-3",
    "continued": f"{STEPS} --optim.lr 1e-3 {GUARDED}",
    "ruinous": f"{STEPS} --optim.lr 0.5 {GUARDED}",
}
"""What is added to COMMON; the last two begin with the first one's encoder."""


def eyespot(*words: str) -> int:
    print("eyespot", *words, flush=True)
    return subprocess.run([EYESPOT, *words], check=False).returncode


def must(*words: str) -> None:
    if code := eyespot(*words):
        raise SystemExit(f"eyespot {' '.join(words)}: exit status {code}")


def halved(data: Path, work: Path) -> None:
    """Shards of each half, and of its first tar of each split, which the probes use: images lie in them in no order."""
    for half, classes in HALVES.items():
        cut, shards = work / f"{half}.tar", work / half
        if not (shards / "test" / "manifest.json").exists():
            with tarfile.open(data) as whole, tarfile.open(cut, "w") as part:
                for member in whole:
                    if member.isfile() and member.name.split("/")[-2:-1] and member.name.split("/")[-2] in classes:
                        part.addfile(member, whole.extractfile(member))
            must("shards", "pack", str(cut), str(shards), "--max-samples", str(PROBED), "--workers", "1")
        for split in ("train", "test"):
            first, folder = min((shards / split).glob("*.tar")), work / f"{half}-probe" / split
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / first.name).exists():
                os.link(first, folder / first.name)
                must("shards", "index", str(folder))


def train(name: str, seed: int, work: Path) -> tuple[Path, bool]:
    """The run's folder, and whether it came to its end."""
    run_dir, half = work / f"seed{seed}" / name, "first" if name == "start" else "second"
    words = ["pretrain", *COMMON.split(), *RUNS[name].split(), "--seed", str(seed)]
    places = ["--data.shards", str(work / half), "--run-dir", str(run_dir), "--resume", "auto", "--no-track"]
    if name in ("continued", "ruinous"):
        places += ["--start.model", str(run_dir.parent / "start"), "--start.guard", str(work / "first")]
    if (run_dir / "stopped.txt").exists():
        return run_dir, False
    done = eyespot(*words, *places) == 0
    if not done:
        (run_dir / "stopped.txt").write_text("by the guard, or by an error: the log says\n")
    return run_dir, done


def answers(run_dir: Path, half: str, work: Path) -> dict[str, np.ndarray]:
    """Of linear probe and kNN: which test images of the half are answered rightly, 1 or 0."""
    found = {}
    for protocol in ("linear", "knn"):
        out = run_dir / f"eval-{half}"
        must("eval", protocol, str(run_dir), str(work / f"{half}-probe"), "--out", str(out))
        results: list[dict[str, Any]] = [json.loads(path.read_text()) for path in out.glob(f"{protocol}_*.json")]
        newest = max((r for r in results if r["role"] == "encoder"), key=lambda result: result["created"])
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(newest["correct"]), np.uint8))[: newest["num_test"]]
        found[protocol] = bits.astype(np.float64)
    return found


def difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Points that one is above the other on the same images, and half of its 95 % interval."""
    change = 100 * (one - other)
    return float(change.mean()), 1.96 * float(change.std(ddof=1)) / math.sqrt(len(change))


def looks(run_dir: Path) -> dict[str, list[float]]:
    """What the guard saw: points above the start, look after look."""
    path = run_dir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {key: [100 * line[key] for line in lines if key in line] for key in ("drift/knn", "drift/linear")}


def measure(seed: int, work: Path) -> dict[str, Any]:
    """Trains and judges all runs of a seed."""
    start, _ = train("start", seed, work)
    scratch, _ = train("scratch", seed, work)
    continued, whole = train("continued", seed, work)
    ruined, survived = train("ruinous", seed, work)
    kept = len(list((ruined / "checkpoints").glob("step-*")))
    before, after = answers(start, "first", work), answers(continued, "first", work)
    alone, gained = answers(scratch, "second", work), answers(continued, "second", work)
    old = {name: difference(after[name], before[name]) for name in before}
    new = {name: difference(gained[name], alone[name]) for name in alone}
    unharmed = whole and all(change + half >= 0 for change, half in old.values())
    accuracies = {
        label: {name: 100 * float(right.mean()) for name, right in found.items()}
        for label, found in (
            ("start", before),
            ("continued", after),
            ("scratch, new", alone),
            ("continued, new", gained),
        )
    }
    return {
        "accuracies": accuracies,
        "old": old,
        "new": new,
        "looks": looks(continued),
        "ruinous": {"stopped": not survived, "kept": kept},
        "passed": unharmed and new["linear"][0] > new["linear"][1] and not survived and kept == 0,
    }


def rows_of(seed: str, found: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    pairs = (("old", "first five", "start", "continued"), ("new", "other five", "scratch, new", "continued, new"))
    for key, half, other, one in pairs:
        for protocol in ("linear", "knn"):
            change, span = found[key][protocol]
            values = [f"{found['accuracies'][label][protocol]:.1f}" for label in (one, other)]
            rows.append((seed, half, protocol, *values, f"{change:+.1f} ± {span:.1f}"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="cifar10-images.tar.gz: train/CLASS/, test/CLASS/")
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    halved(options.data, options.work)
    results: dict[str, Any] = {}
    for seed in range(options.seeds):
        results[str(seed)] = measure(seed, options.work)
        write_results(
            NAME,
            title="Going on from an encoder of five classes of CIFAR-10, on the other five: accuracy in %",
            header=("seed", "judged on", "probe", "continued", "start, or from scratch", "difference, 95 %"),
            rows=[row for key, found in results.items() for row in rows_of(key, found)],
            details={"common": COMMON, "runs": RUNS, "results": results},
        )
    sys.exit(0 if all(found["passed"] for found in results.values()) else 1)


if __name__ == "__main__":
    main()
