"""How fast are features of a data set computed? ``features_of`` against the usual loop over torchvision's ImageFolder.

    python benchmarks/features.py --data ../shared/data

Both from image files to an array of features, everything counted that a user waits for: starting workers, reading,
decoding, resizing, the encoder, and on our side writing the cache. The same encoder with the same random weights, the
same view, batches of 128, as many threads as there are cores; the loop has as many workers. Median over rounds, in each
of which both sides take their turn; the ratio is that of images per CPU-second, which other processes disturb least.

The encoder costs both sides the same: the larger it is, the less the rest matters. So there are several, and none at
all, only the mean colour: what a GPU sees that is faster than the images come.
"""

import argparse
import os
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader import tasks as loader_tasks
from results import write_results
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from eyespot.data_pipeline.augment.views import CenterView, ViewSpec, center_view
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.feature_cache import BLOCK, features_of
from eyespot.eval.encoders.subject import OneKind, Subject
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder

OURS, LOOP = "eyespot, features_of", "ImageFolder, DataLoader, encoder(images)"
HEADER = ["data", "encoder", "path", "images / s", "images / CPU-second", "eyespot is, per CPU-second"]
NONE = "none"


@dataclass(kw_only=True, slots=True)
class Job:
    """One data set and encoder."""

    data: str
    """Name of the benchmark of the loader that has the same images."""
    encoder: str
    size: int
    """Of the view, pixels."""
    num_images: int


CALTECH, CIFAR = "caltech10 at 224 px", "CIFAR-10 at 32 px"
JOBS = (
    Job(data=CALTECH, encoder=NONE, size=224, num_images=1536),
    Job(data=CALTECH, encoder="test_vit", size=160, num_images=1024),
    Job(data=CALTECH, encoder="resnet10t", size=96, num_images=512),
    Job(data=CALTECH, encoder="vit_tiny_patch16_224", size=96, num_images=512),
    Job(data=CIFAR, encoder="resnet10t", size=32, num_images=3072),
)


class MeanColor(OneKind):
    """As little as an encoder can do."""

    kind = "mean"

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


def make_subject(job: Job) -> Subject:
    torch.manual_seed(0)
    config = EncoderConfig(name=job.encoder, image_size=job.size)
    encoder = MeanColor() if job.encoder == NONE else make_encoder(config).eval()
    views = ViewSpec(views=(center_view(job.size),))
    return Subject(name=job.encoder, tag="random", role="random", encoder=encoder, views=views)


def ours(subject: Subject, shards: Path, cache: Path) -> np.ndarray:
    shutil.rmtree(cache, ignore_errors=True)
    found = features_of(subject, ShardFolder(shards), cache, World(rank=0, size=1, device=torch.device("cpu")))
    return np.array(found["mean"])


def loop(subject: Subject, folder: Path, cores: int) -> np.ndarray:
    view = subject.views.views[0]
    assert isinstance(view, CenterView)
    steps = [
        v2.Resize(view.resize, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
        v2.CenterCrop(view.size),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(subject.views.mean, subject.views.std),
    ]
    batches = DataLoader(ImageFolder(str(folder), v2.Compose(steps)), BLOCK, num_workers=cores)
    encoder: Any = subject.encoder
    found = []
    with torch.inference_mode():
        for images, _ in batches:
            features = encoder.forward_features(images)
            prefix = getattr(encoder, "num_prefix_tokens", 0)
            pooled = features.mean((2, 3)) if features.ndim == 4 else features[:, prefix:].mean(1)
            found.append(pooled.numpy())
    return np.concatenate(found)


def measure(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, dict[str, float]]:
    """Workers have ended when a run ends, so their time is in that of the children."""
    before, start = sum(os.times()[:4]), time.perf_counter()
    features = run()
    wall, cpu = time.perf_counter() - start, sum(os.times()[:4]) - before
    return features, {"per_second": len(features) / wall, "per_cpu_second": len(features) / cpu}


def run(job: Job, data: Path, num_rounds: int, cores: int) -> dict[str, Any]:
    subject, plain = make_subject(job), make_subject(job)  # features_of lays out an encoder's weights as it likes
    with tempfile.TemporaryDirectory() as temporary:
        folder, shards = chosen(job, data, Path(temporary))
        paths = {LOOP: partial(loop, plain, folder, cores), OURS: partial(ours, subject, shards, shards / "cache")}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
        for number in range(num_rounds):
            found = {}
            for name, path in paths.items():
                found[name], speeds = measure(path)
                rounds[name].append(speeds)
                print(f"{job.data}, {job.encoder}, round {number + 1}: {name}: {speeds['per_second']:.0f} images / s")
            check(*found.values())
    medians = {
        name: {unit: statistics.median(each[unit] for each in speeds) for unit in speeds[0]}
        for name, speeds in rounds.items()
    }
    pairs = zip(rounds[OURS], rounds[LOOP], strict=True)
    ratio = statistics.median(a["per_cpu_second"] / b["per_cpu_second"] for a, b in pairs)
    return {"job": asdict(job), "rounds": rounds, "medians": medians, "ratio": ratio}


def chosen(job: Job, data: Path, work: Path) -> tuple[Path, Path]:
    """So many of the images, evenly from all classes, as a folder and as shards."""
    task = next(task for task in loader_tasks(seconds=0, cores=1) if task.name == job.data)
    folder, shards = work / "folder", work / "shards"
    with tarfile.open(data / task.archive) as tar:
        members = [member for member in tar if member.isfile() and member.name.startswith(task.inside)]
        members.sort(key=lambda member: member.name)
        kept = [members[number * len(members) // job.num_images] for number in range(job.num_images)]
        tar.extractall(folder, sorted(kept, key=lambda member: member.offset), filter="data")
    pack(str(folder / task.inside), shards, max_samples=1000)
    return folder / task.inside, shards


def check(left: np.ndarray, right: np.ndarray) -> None:
    """Both computed the same: in another order, and up to what two JPEG decoders and resizers differ in."""
    assert left.shape == right.shape
    np.testing.assert_allclose(left.mean(0), right.mean(0), atol=0.02 * np.abs(left).mean())


def rows(results: list[dict[str, Any]]) -> Iterator[list[str]]:
    for result in results:
        job = result["job"]
        data = f"{job['data'].split(' at ')[0]}, {job['size']} px"
        for name, speeds in result["medians"].items():
            ratio = f"{result['ratio']:.2f}x" if name == OURS else ""
            numbers = [f"{speeds[unit]:.0f}" for unit in ("per_second", "per_cpu_second")]
            yield [data, job["encoder"], name, *numbers, ratio]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the two archives")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.error(f"--data {arguments.data}: no such folder; it holds caltech10-images.tar, cifar10-images.tar.gz")
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    results = [run(job, arguments.data, arguments.rounds, cores) for job in JOBS]
    write_results(
        "features",
        title="Features of images per second, from files to an array; median over interleaved rounds",
        header=HEADER,
        rows=list(rows(results)),
        details={"results": results},
    )


if __name__ == "__main__":
    main()
