"""Is pretraining worth anything? A small ViT on CIFAR-10, fine-tuned from a short MAE training and from scratch.

Both have the same labels, steps, batch and augmentation; each is run with several seeds and judged by its last
checkpoint on 10,000 test images. Layer decay, which holds early layers to what they have learned, is for pretrained
weights: from scratch all layers learn at the full rate. Gate: with every seed the pretrained encoder's interval lies
above that of the one from scratch. Called again it goes on where it stopped.

    python benchmarks/finetune_gate.py --data ../shared/data/cifar10-images.tar.gz --work /tmp/finetune
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from results import write_results

NAME = "finetune_cifar10"
EYESPOT = str(Path(sys.executable).parent / "eyespot")
PRETRAIN = (
    "mae_vitt_cifar10 --encoder.name test_vit --steps 600 --data.batch-size 128 --optim.lr 3e-3"
    " --optim.warmup-steps 100 --objective.decoder-dim 64 --objective.decoder-depth 1 --objective.decoder-heads 2"
    " --precision fp32 --picture-every 0"
)
FINETUNE = (
    "--recipe finetune_cifar10 --steps 160 --data.batch-size 128 --optim.lr 4e-3 --optim.warmup-steps 20"
    " --objective.mix.mixup 0 --objective.mix.cutmix 0 --objective.view.rand-augment 0 --encoder.drop-path 0"
    " --precision fp32"
)
ARMS = {"pretrained": "", "from scratch": "--scratch --optim.layer-decay 1"}
"""What is added to FINETUNE."""


def eyespot(*words: str) -> None:
    print("eyespot", *words, flush=True)
    subprocess.run([EYESPOT, *words], check=True)


def measure(run_dir: Path, shards: Path, work: Path, arm: str, seed: int) -> dict:
    """Fine-tunes once: what the result says, without where it lies and which samples were right."""
    out = work / f"{arm.replace(' ', '-')}-seed{seed}"
    places = [str(run_dir), str(shards), "--out", str(out), "--seed", str(seed), "--no-track"]
    eyespot("eval", "finetune", *places, *FINETUNE.split(), *ARMS[arm].split())
    (path,) = out.glob("*.json")
    result = json.loads(path.read_text())
    return {name: result[name] for name in ("accuracy", "interval", "num_correct", "num_test", "settings", "seed")}


def cell(result: dict) -> str:
    accuracy, (low, high) = result["accuracy"], result["interval"]
    return f"{100 * accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="CIFAR-10, as eyespot shards pack takes it")
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    shards, run_dir = options.work / "shards", options.work / "mae"
    eyespot("shards", "pack", options.data, str(shards))
    eyespot(
        "pretrain",
        *PRETRAIN.split(),
        *("--data.shards", str(shards), "--run-dir", str(run_dir), "--resume", "auto", "--no-track"),
    )
    rows, details, passed = [], {}, True
    for seed in range(options.seeds):
        found = {arm: measure(run_dir, shards, options.work, arm, seed) for arm in ARMS}
        trained, scratch = found["pretrained"], found["from scratch"]
        passed = passed and trained["interval"][0] > scratch["interval"][1]
        gain = 100 * (trained["accuracy"] - scratch["accuracy"])
        rows.append((str(seed), *(cell(result) for result in found.values()), f"{gain:+.1f}"))
        details[seed] = found
        write_results(
            NAME,
            title="CIFAR-10, small ViT, same fine-tuning: accuracy in %, 95 % intervals (Wilson)",
            header=("seed", *ARMS, "gain"),
            rows=rows,
            details={"pretrain": PRETRAIN, "finetune": FINETUNE, "arms": ARMS, "passed": passed, "results": details},
            script="finetune_gate",
        )
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
