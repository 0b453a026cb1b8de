"""Is a distilled student better than the same student trained alone, for as many steps? CIFAR-10, minutes on two cores.

    OMP_NUM_THREADS=1 python benchmarks/distill.py --data ../shared/data --work /tmp/distill --seeds 0 1

A ResNet-10-T is trained by SimCLR on 45,000 training images, at 16 pixels. It teaches two students at once, a ViT and a
smaller ResNet; each of them is also trained alone, by the teacher's own method, for as many steps of as many images.
Judged by the nearest of 5,000 labelled training images, on the test set. Nothing was tuned: all learn at one rate, and
class tokens alone are matched, for at 16 pixels a ResNet's map has one place. No labels reach teacher or students. What
is there already is not done again.
"""

import argparse
import contextlib
import io
import json
import math
from pathlib import Path

from curation import images_of, write_images
from results import write_results

from eyespot.cluster.cli import main as run_command
from eyespot.data_pipeline.shards.pack import pack

NAME = "distill"
TEACHER_STEPS, STEPS = 600, 200
SHARED = (
    "--data.batch-size 128 --optim.name adamw --optim.weight-decay 0.05 --optim.warmup-steps 20 --precision fp32"
    " --optim.lr 2e-3 --device cpu --no-track --picture-every 0 --log-every 50"
    " --encoder.no-small-stem --encoder.image-size 16"
)
SIMCLR = f"simclr_r18_cifar10 {SHARED} --objective.view.scale 0.2 1.0"
VIT = "--encoder.name test_vit --encoder.patch-size 4"
CONV = "--encoder.name test_resnet"
ALONE = {"vit": VIT, "conv": CONV}
DISTILL = f"distill_r18_cifar10 {SHARED} {VIT} --objective.students conv=test_resnet --objective.patch-weight 0"
LEFT_OUT, LABELED = 500, 500
"""Images of each class of the training set: that nobody trains on, and that neighbours are sought among."""


def eyespot(*words: str | Path) -> None:
    print("eyespot", *words, flush=True)
    with contextlib.redirect_stdout(io.StringIO()):
        code = run_command([str(word) for word in words])
    if code:
        raise SystemExit(code)


def prepare(data: Path, work: Path) -> dict[str, Path]:
    """Shards: 45,000 training images; and where neighbours are sought, and what is asked."""
    found = {name: work / name for name in ("train", "judged")}
    if not (found["judged"] / "test" / "manifest.json").exists():
        archive = data / "cifar10-images.tar.gz"
        train, test = (images_of(archive, split) for split in ("train", "test"))
        seen = {name: each[LEFT_OUT:] for name, each in train.items()}
        labeled = {name: each[:LABELED] for name, each in seen.items()}
        for name, images in {"train": seen, "judged/train": labeled, "judged/test": test}.items():
            write_images(work / "images" / name, images)
        for name, folder in found.items():
            pack(str(work / "images" / name), folder, workers=1)
    return found


def trained(work: Path, name: str, settings: str, steps: int, seed: int, shards: Path) -> Path:
    run = work / "runs" / f"{name}-{steps}-seed{seed}"
    if not any((run / "checkpoints").glob(f"step-*{steps}")):
        words = ["pretrain", *settings.split(), "--steps", steps, "--save-every", 100, "--seed", seed]
        eyespot(*words, "--data.shards", shards, "--run-dir", run, "--resume", "auto")
    return run


def judged(run: Path, shards: Path, student: str = "") -> float:
    """Test accuracy of k nearest neighbours; k and features are chosen on labelled training images."""
    out = run / f"eval-{shards.name}{student and '-'}{student}"
    if not out.exists():
        eyespot("eval", "knn", f"{run}@{student}" if student else run, shards, "--device", "cpu", "--out", out)
    results = [json.loads(path.read_text()) for path in out.glob("knn_*.json")]
    return next(one["accuracy"] for one in results if one["role"] == "encoder")


def interval(share: float, count: int = 10_000) -> str:
    """With its 95 % interval (Wilson) over the test images, percent."""
    middle, z = (share + 1.96**2 / 2 / count) / (1 + 1.96**2 / count), 1.96
    half = z * math.sqrt(share * (1 - share) / count + z**2 / 4 / count**2) / (1 + z**2 / count)
    return f"{100 * share:.1f} ({100 * (middle - half):.1f} to {100 * (middle + half):.1f})"


def measure(work: Path, shards: dict[str, Path], teacher: Path, seeds: list[int]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"teacher": [judged(teacher, shards["judged"])]}
    for seed in seeds:
        words = f"{DISTILL} --objective.teacher.model {teacher}"
        run = trained(work, "distilled", words, STEPS, seed, shards["train"])
        for kind, flags in ALONE.items():
            student = "" if kind == "vit" else kind
            found.setdefault(f"{kind}, distilled", []).append(judged(run, shards["judged"], student))
            alone = trained(work, f"alone-{kind}", f"{SIMCLR} {flags}", STEPS, seed, shards["train"])
            found.setdefault(f"{kind}, alone", []).append(judged(alone, shards["judged"]))
        print(seed, found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    shards = prepare(asked.data, asked.work)
    words = f"{SIMCLR} --encoder.name resnet10t"
    teacher = trained(asked.work, "teacher", words, TEACHER_STEPS, 0, shards["train"])
    write_rows(measure(asked.work, shards, teacher, asked.seeds), asked.seeds)


def write_rows(found: dict[str, list[float]], seeds: list[int]) -> None:
    rows = [
        ["teacher: ResNet-10-T, SimCLR", f"{TEACHER_STEPS:,}", interval(found["teacher"][0]), *[""] * len(seeds[1:])]
    ]
    names = {"vit": "ViT of 64 channels, 4-pixel patches", "conv": "ResNet of 96 features"}
    for kind, name in names.items():
        for how in ("distilled", "alone"):
            told = f"{name}, {how}" + (" (SimCLR)" if how == "alone" else "")
            rows.append([told, str(STEPS), *map(interval, found[f"{kind}, {how}"])])
    write_results(
        NAME,
        title="CIFAR-10 at 16 pixels: students distilled and alone, kNN in % on test (95 % intervals)",
        header=["encoder", "steps of 128", *(f"seed {seed}" for seed in seeds)],
        rows=rows,
        details={"accuracies": found},
    )


if __name__ == "__main__":
    main()
