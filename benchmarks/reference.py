"""Settings with which four methods learn on CIFAR-10 in minutes on two cores: LeJEPA, I-JEPA, DINOv2 and MAE.

    OMP_NUM_THREADS=1 python benchmarks/reference.py choose --data ../shared/data --work /tmp/reference
    OMP_NUM_THREADS=1 python benchmarks/reference.py measure --data ../shared/data --work /tmp/reference --seeds 1 2 3

One encoder for all, a ViT of 6 blocks of 64 channels (timm's test_vit) that sees 32 pixels in patches of 4 or 8.

choose: each candidate trains once, with seed 0, on nine tenths of the training images; a linear probe learns from some
of these, and names the other tenth, which nothing else has seen. The best candidate of a method is its reference. The
test images play no part.

measure: the reference of each method trains on all training images with other seeds; the linear probe and kNN learn
from 10,000 of them and name the test images. Beside them the same encoder with random weights.

What is there already is not trained again. Each part keeps the other's rows.
"""

import argparse
import json
import math
import os
import statistics
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from curation import images_of, interval, write_images
from results import RESULTS, write_results
from zoo import eyespot

from eyespot.data_pipeline.shards.pack import pack

NAME = "reference"
VIT = (
    "--encoder.name test_vit --encoder.patch-size 4 --encoder.no-small-stem --precision fp32 --device cpu --no-track"
    " --picture-every 0 --log-every 50 --save-every 100000 --data.batch-size 128"
)
ADAMW = "--optim.name adamw --optim.weight-decay 0.05 --optim.warmup-steps 50"
LEJEPA = f"lejepa_r18_cifar10 {VIT} {ADAMW} --objective.hidden-dim 512"
IJEPA = f"ijepa_vitt_cifar10 {VIT} {ADAMW} --objective.predictor-dim 32 --objective.predictor-heads 2"
DINOV2 = f"dinov2_vitt_cifar10 {VIT} {ADAMW} --objective.out-dim 256 --objective.frozen 0.01"
MAE = f"mae_vitt_cifar10 {VIT} {ADAMW}"
MILD = "--objective.large.scale 0.2 1.0 --objective.large.jitter 0.4 0.4 0.2 0.1"
CANDIDATES: dict[str, dict[str, str]] = {
    "lejepa": {
        "2 views": f"{LEJEPA} --steps 800 --optim.lr 2e-3 --objective.num-large 2 {MILD}",
        "4 views": f"{LEJEPA} --steps 400 --optim.lr 2e-3 --objective.num-large 4 {MILD}",
    },
    "ijepa": {
        "rate 1e-3": f"{IJEPA} --steps 1200 --optim.lr 1e-3 --objective.predictor-depth 3",
        "rate 2e-3": f"{IJEPA} --steps 1200 --optim.lr 2e-3 --objective.predictor-depth 3",
        "rate 1e-3, larger targets": f"{IJEPA} --steps 1200 --optim.lr 1e-3 --objective.predictor-depth 3"
        " --objective.target-scale 0.2 0.3",
        "rate 1e-3, larger targets, momentum 0.99": f"{IJEPA} --steps 1200 --optim.lr 1e-3"
        " --objective.predictor-depth 3 --objective.target-scale 0.2 0.3 --objective.momentum 0.99",
        "rate 5e-4, larger targets, momentum 0.98": f"{IJEPA} --steps 1200 --optim.lr 5e-4"
        " --objective.predictor-depth 3 --objective.target-scale 0.2 0.3 --objective.momentum 0.98",
        "rate 1e-3, larger targets, momentum stays 0.996": f"{IJEPA} --steps 1200 --optim.lr 1e-3"
        " --objective.predictor-depth 3 --objective.target-scale 0.2 0.3 --objective.final-momentum 0.996",
        "rate 5e-4, larger targets, momentum stays 0.98, longer": f"{IJEPA} --objective.predictor-depth 3"
        " --objective.target-scale 0.2 0.3 --steps 2400 --optim.lr 5e-4 --objective.momentum 0.98"
        " --objective.final-momentum 0.98",
        "rate 1e-3, larger targets, momentum stays 0.996, longer": f"{IJEPA} --objective.predictor-depth 3"
        " --objective.target-scale 0.2 0.3 --steps 2400 --optim.lr 1e-3 --objective.final-momentum 0.996",
    },
    "dinov2": {
        "rate 2e-3, momentum 0.95": f"{DINOV2} --steps 300 --optim.lr 2e-3 --objective.num-small 2"
        " --objective.momentum 0.95",
        "rate 2e-3, momentum 0.99": f"{DINOV2} --steps 300 --optim.lr 2e-3 --objective.num-small 2"
        " --objective.momentum 0.99",
        "rate 2e-3, momentum 0.95, 8-pixel patches, longer": f"{DINOV2} --encoder.patch-size 8 --steps 1000"
        " --optim.lr 2e-3 --objective.num-small 2 --objective.momentum 0.95",
    },
    "mae": {
        "rate 2e-3": f"{MAE} --steps 1500 --optim.lr 2e-3",
        "rate 4e-3": f"{MAE} --steps 1500 --optim.lr 4e-3",
    },
}
"""By method what was tried, of about equal cost within a method, but for I-JEPA's last two, which cost twice that."""
HELD_OUT = 0.1
CHOOSING_SEED = 0


def prepare(data: Path, work: Path, part: str) -> Path:
    """Shards to learn from, and beside them ``probe``: one shard of each split, in which images lie in no order."""
    folder = work / part
    if not (folder / "probe" / "test" / "manifest.json").exists():
        archive = data / "cifar10-images.tar.gz"
        if part == "choose":
            write_images(work / "images", images_of(archive, "train"))
            pack(str(work / "images"), folder / "shards", workers=1, holdout=HELD_OUT)
        else:
            pack(str(archive), folder / "shards", workers=1)
        for split in ("train", "test"):
            first = min((folder / "shards" / split).glob("*.tar"))
            (folder / "probe" / split).mkdir(parents=True, exist_ok=True)
            if not (folder / "probe" / split / first.name).exists():
                os.link(first, folder / "probe" / split / first.name)
            eyespot("shards", "index", str(folder / "probe" / split))
    return folder


def trained(method: str, settings: str, folder: Path, seed: int) -> dict[str, Any]:
    """Trains and judges once: accuracies by role and probe; the CPU minutes, where the training was not broken off."""
    run = folder / "runs" / f"{method}-{sha256(settings.encode()).hexdigest()[:6]}-seed{seed}"
    kept, (recipe, *changes) = run / "judged.json", settings.split()
    if kept.exists():
        return json.loads(kept.read_text())
    places = ["--data.shards", str(folder / "shards"), "--run-dir", str(run), "--resume", "auto"]
    whole = not run.exists()
    seconds = eyespot("pretrain", recipe, *changes, *places, "--seed", str(seed))
    found: dict[str, Any] = {"settings": settings, "cpu_minutes": round(seconds / 60, 1) if whole else None}
    for protocol in ("linear", "knn"):
        eyespot("eval", protocol, str(run), str(folder / "probe"), "--device", "cpu", "--out", str(run / "eval"))
        for path in (run / "eval").glob(f"{protocol}_*.json"):
            one = json.loads(path.read_text())
            found.setdefault(one["role"], {})[protocol] = one["accuracy"]
    kept.write_text(json.dumps(found))
    return found


def choose(methods: list[str], data: Path, work: Path, rows: dict[str, Any]) -> None:
    """Each candidate once."""
    folder = prepare(data, work, "choose")
    for method in methods:
        tried = rows.setdefault(method, {}).setdefault("tried", {})
        for name, settings in CANDIDATES[method].items():
            tried[name] = trained(method, settings, folder, CHOOSING_SEED)
            print(method, name, tried[name], flush=True)
            write(rows)


def measure(methods: list[str], seeds: list[int], data: Path, work: Path, rows: dict[str, Any]) -> None:
    """The reference of each, with other seeds; where several calls share the work, what others measured stays."""
    folder = prepare(data, work, "measure")
    for seed in seeds:
        for method in methods:
            found = trained(method, CANDIDATES[method][chosen(method, rows)], folder, seed)
            kept = rows[method].get("seeds", {})
            same = {number: one for number, one in kept.items() if one["settings"] == found["settings"]}
            rows[method]["seeds"] = {**same, str(seed): found}
            print(method, seed, found, flush=True)
            write(rows)


def chosen(method: str, rows: dict[str, Any]) -> str:
    """The candidate whose linear probe names most of the training images held out."""
    tried = rows.get(method, {}).get("tried", {})
    if missing := untried(method, rows):
        raise SystemExit(f"{method}: {', '.join(missing)} not tried yet; first: reference.py choose {method}")
    return max(CANDIDATES[method], key=lambda name: tried[name]["encoder"]["linear"])


def untried(method: str, rows: dict[str, Any]) -> list[str]:
    """Its candidates that no run was made with."""
    return [name for name in CANDIDATES[method] if name not in rows.get(method, {}).get("tried", {})]


def spread(seeds: dict[str, Any], role: str, protocol: str) -> str:
    """Mean over the seeds with its 95 % t-interval, percent; the random encoder is the same beside all of them."""
    if role == "random":
        return f"{100 * next(iter(seeds.values()))[role][protocol]:.1f}"
    return interval([one[role][protocol] for one in seeds.values()])


def cpu_minutes(runs: Iterable[dict[str, Any]]) -> str:
    """Mean over those of which it is known."""
    known = [one["cpu_minutes"] for one in runs if one["cpu_minutes"] is not None]
    return f"{statistics.mean(known):.1f}" if known else ""


def write(rows: dict[str, Any]) -> None:
    """The references, below them what was tried."""
    cells = [(role, protocol) for protocol in ("linear", "knn") for role in ("encoder", "random")]
    shown = [
        [
            method,
            chosen(method, rows),
            str(len(seeds)),
            *(spread(seeds, *cell) for cell in cells),
            cpu_minutes(seeds.values()),
        ]
        for method in CANDIDATES
        if not untried(method, rows) and (seeds := rows[method].get("seeds"))
    ]
    write_results(
        NAME,
        title="CIFAR-10, a small ViT: references of four methods, accuracy in % on test, mean over seeds ± 95 % (t)",
        header=["method", "settings", "seeds", "linear", "linear, random", "kNN", "kNN, random", "CPU minutes"],
        rows=shown,
        details={"methods": rows},
    )
    header = "| method | tried (`choose`), on training images held out | linear | CPU minutes |"
    lines = ["", header, "| --- | --- | --- | --- |"]
    for method in CANDIDATES:
        for name, one in rows.get(method, {}).get("tried", {}).items():
            half = 196 * math.sqrt(one["encoder"]["linear"] * (1 - one["encoder"]["linear"]) / 5000)
            told = f"{100 * one['encoder']['linear']:.1f} ± {half:.1f}"
            lines.append(f"| {method} | {name} | {told} | {cpu_minutes([one])} |")
    lines += ["", "The commands:", ""]
    for method in CANDIDATES:
        if not untried(method, rows):
            lines.append(f"- {method}: `eyespot pretrain {CANDIDATES[method][chosen(method, rows)]}`")
    with (RESULTS / f"{NAME}.md").open("a") as file:
        file.write("\n".join([*lines, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("choose", "measure"))
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(CANDIDATES)}; all by default")
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar10-images.tar.gz")
    parser.add_argument("--work", type=Path, required=True, help="folder of shards and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of measure")
    asked = parser.parse_args()
    methods = asked.methods or list(CANDIDATES)
    if unknown := set(methods) - set(CANDIDATES):
        parser.error(f"unknown methods: {', '.join(sorted(unknown))}")
    if asked.part == "measure" and CHOOSING_SEED in asked.seeds:
        parser.error(f"--seeds {CHOOSING_SEED}: settings were chosen with it; name others")
    asked.work.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text())["methods"] if path.exists() else {}
    if asked.part == "choose":
        choose(methods, asked.data, asked.work, rows)
    else:
        measure(methods, asked.seeds, asked.data, asked.work, rows)


if __name__ == "__main__":
    main()
