"""How fast are views with RandAugment and Random Erasing made? Ours against PIL, on the same cores, in one run.

    python benchmarks/rand_augment.py --data ../shared/data --rounds 3 --seconds 2

Images per wall second and per CPU-second, the median over interleaved rounds. Views: random resized crop (bicubic,
scale 0.08..1), flip, RandAugment of magnitude 9, normalise, Random Erasing of every fourth view. timm's policy is ours:
each of two operations is done with probability 1/2, with bicubic resampling; its magnitude is always 9 here, since near
10 it asks PIL for a posterize to 0 bits, which recent versions refuse. torchvision's does both, at magnitude 9 of 30,
and takes the nearest pixel: more operations, cheaper ones. The last rows are RandAugment by itself, view by view, on
one thread.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
import webdataset
from loader import HEADER, OURS, Task, decode_pil, read_label, rows, run_all
from results import write_results
from sklearn.datasets import load_sample_images
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from eyespot.data_pipeline.augment.pipeline import alter, view_alteration
from eyespot.data_pipeline.augment.views import IMAGENET_MEAN, IMAGENET_STD, RandomView, ViewSpec
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

TIMM, TORCHVISION = "WebDataset + PIL, timm's RandAugment", "WebDataset + PIL, torchvision's RandAugment"
BICUBIC = v2.InterpolationMode.BICUBIC
NUM_ALONE = 200


def view(size: int) -> RandomView:
    return RandomView(size=size, scale=(0.08, 1.0), rand_augment=9.0, erase=0.25)


def eyespot_batches(task: Task, shards: Path) -> Iterator[Any]:
    views = ViewSpec(views=(view(task.size),))
    return make_loader(
        LoaderSpec(shards=ShardFolder(shards), views=views, batch_size=task.batch_size, num_threads=task.cores)
    )


def timm_rand_augment() -> Any:
    return rand_augment_transform("rand-m9-inc1", {"interpolation": 3, "img_mean": (124, 116, 104)})


def transform(task: Task, *, by_timm: bool) -> v2.Compose:
    erasing = RandomErasing(0.25, mode="pixel", device="cpu") if by_timm else v2.RandomErasing(0.25, value="random")
    return v2.Compose(
        [
            decode_pil,
            v2.RandomResizedCrop(task.size, (0.08, 1.0), interpolation=BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            timm_rand_augment() if by_timm else v2.RandAugment(2, 9),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            erasing,
        ]
    )


def web_batches(task: Task, shards: Path, *, by_timm: bool) -> Iterator[Any]:
    tars = [str(path) for path in sorted(shards.glob("*.tar"))]
    data = (
        webdataset.WebDataset(tars, shardshuffle=len(tars), resampled=True)
        .shuffle(1000)
        .to_tuple("jpg", "cls")
        .map_tuple(transform(task, by_timm=by_timm), read_label)
    )
    return iter(DataLoader(data, task.batch_size, num_workers=task.cores))


def contenders(task: Task, folder: Path, shards: Path) -> dict[str, Callable[[], Iterator[Any]]]:
    """Ours last: workers fork before its threads start."""
    return {
        TIMM: partial(web_batches, task, shards, by_timm=True),
        TORCHVISION: partial(web_batches, task, shards, by_timm=False),
        OURS: partial(eyespot_batches, task, shards),
    }


@torch.inference_mode()
def alone(size: int) -> dict[str, float]:
    """Views per CPU-second of RandAugment by itself."""
    torch.set_num_threads(1)
    photograph = torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1)
    pixels = v2.functional.resize(photograph, [size, size], antialias=True)
    image, levels = v2.functional.to_pil_image(pixels), pixels[None].float().contiguous()
    ids = np.arange(NUM_ALONE)
    alteration = view_alteration(RandomView(size=size, rand_augment=9.0), "view0", 0, 0 * ids, ids)
    assert alteration is not None

    def ours() -> None:
        for row in range(NUM_ALONE):
            alter(levels.clone(), alteration.rows(slice(row, row + 1)))

    def in_pil(change: Any) -> None:
        for _ in range(NUM_ALONE):
            change(image)

    works = {TIMM: partial(in_pil, timm_rand_augment()), TORCHVISION: partial(in_pil, v2.RandAugment(2, 9)), OURS: ours}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(5):
        for name, work in works.items():
            begin = time.thread_time()
            work()
            seconds[name].append(time.thread_time() - begin)
    return {name: NUM_ALONE / statistics.median(each) for name, each in seconds.items()}


def main() -> None:
    results = run_all(__doc__, contenders)
    speeds = alone(224)
    last = [
        [
            "RandAugment alone at 224 px",
            name.removeprefix("WebDataset + "),
            "",
            f"{speed:.0f}",
            f"{speeds[OURS] / speed:.2f}x",
        ]
        for name, speed in speeds.items()
    ]
    write_results(
        "rand_augment",
        title="Images per second with RandAugment and Random Erasing; median over interleaved rounds",
        header=HEADER,
        rows=[*rows(results), *last],
        details={
            "versions": {module.__name__: module.__version__ for module in (torchvision, timm, webdataset)},
            "results": results,
            "alone": speeds,
        },
    )


if __name__ == "__main__":
    main()
