"""Does ``eyespot curate`` find copies, and does balance help? Planted copies, and a long-tailed CIFAR-10.

    python benchmarks/curation.py copies --data ../shared/data --work /tmp/curation
    python benchmarks/curation.py tail --data ../shared/data --work /tmp/curation --seeds 0 1 2

copies: of images of CIFAR-10 (long-tailed, imbalance 100) and of photographs, some are planted again: the same bytes,
JPEG of quality 90 to 30, other sizes, brighter, cropped, mirrored. Found = the copy or its original is dropped for the
other's sake. Dropped besides are images that nobody planted: false, or copies that the data set came with (CIFAR-10 has
some, the photographs hold many mirror images); those of two classes are false for sure.

tail: SimCLR with a small ResNet on the long-tailed training set, as long on a balanced third of it, chosen by features
of the first run, and as long on a third drawn by lot. Judged on CIFAR-10's balanced test set: a probe learns from
one half of each class, and names the other. Each part keeps the other's rows, and what other seeds said.
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
from PIL import Image, ImageEnhance, ImageOps
from results import RESULTS, write_results
from scipy.stats import t

from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import plural

NAME = "curation"
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
    f"simclr_r18_cifar10 --steps {STEPS} --data.batch-size 128 --optim.lr 1e-3 --encoder.name resnet10t"
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


ARMS = ("all of it", "a balanced third", "a third by lot")


def arms(tail: Path, judged: Path, work: Path, seed: int, asked: list[str]) -> dict[str, list]:
    """kNN and linear probe of each run of one seed."""
    opened, folder = ShardFolder.find(tail), work / f"seed-{seed}"
    count = opened.manifest.num_samples
    keep = count // 3
    folder.mkdir(exist_ok=True)
    lot = np.sort(np.random.default_rng(seed).permutation(count)[:keep])
    (folder / "lot.txt").write_text("".join(f"{sample}\n" for sample in lot))
    known = {"all of it": [], "a third by lot": ["--data.ids", folder / "lot.txt"]}
    known["a balanced third"] = ["--data.ids", folder / "even" / "ids.txt"]
    found = {}
    for arm in asked:
        flags, run = known[arm], folder / arm.replace(" ", "-")
        if arm == "a balanced third":
            words = ["curate", "balance", tail, folder / "even", "--model", folder / "all-of-it", "--keep", keep]
            eyespot(*words, "--seed", seed, "--device", "cpu")
        if not (run / "checkpoints").exists() or not any((run / "checkpoints").glob(f"step-*{STEPS}")):
            words = ["pretrain", *TRAIN.split(), "--seed", seed, "--data.shards", tail, "--run-dir", run]
            eyespot(*words, *flags, "--resume", "auto")
        found[arm] = []
        for protocol in ("knn", "linear"):
            eyespot("eval", protocol, run, judged, "--device", "cpu")
            (result,) = [
                json.loads(path.read_text())
                for path in (run / "eval").glob(f"{protocol}_*.json")
                if json.loads(path.read_text())["role"] == "encoder"
            ]
            found[arm].append(result["accuracy"])
    if not (folder / "even" / "ids.txt").exists():
        return found
    labels = opened.index["label"]
    chosen = np.loadtxt(folder / "even" / "ids.txt", dtype=np.int64)
    found["classes"] = [np.bincount(labels[ids], minlength=NUM_CLASSES).tolist() for ids in (np.arange(count), chosen)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("copies", "tail"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS, help="of tail")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    if asked.part == "copies":
        tail = long_tail(images_of(asked.data / "cifar10-images.tar.gz", "train"), np.random.default_rng(0))
        found: Any = copies("long-tailed CIFAR-10, 32 px", tail, asked.work)
        found += copies("photographs (caltech10)", images_of(asked.data / "caltech10-images.tar"), asked.work)
    else:
        shards = prepare_tail(asked.data, asked.work)
        found = {str(seed): arms(*shards, asked.work, seed, asked.arms) for seed in asked.seeds}
    path = RESULTS / f"{NAME}.json"
    kept = json.loads(path.read_text())["parts"] if path.exists() else {"copies": [], "tail": {}}
    if asked.part == "copies":
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
    for arm in ("all of it", "a third by lot"):
        both = [
            (each["a balanced third"], each[arm]) for each in seeds.values() if {"a balanced third", arm} <= set(each)
        ]
        if both:
            knn, linear = (interval([one[i] - other[i] for one, other in both]) for i in (0, 1))
            what = f"a balanced third against {arm}, pairs of one seed ({len(both)})"
            rows.append(["long-tailed CIFAR-10", what, "", f"kNN {knn}, linear probe {linear} points", ""])
    return rows


if __name__ == "__main__":
    main()
