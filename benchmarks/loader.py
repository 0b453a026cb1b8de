"""How fast are batches made? Ours against the usual paths, on the same cores, in one run.

    python benchmarks/loader.py --data ../shared/data

Images per wall second and per CPU-second (this process and its workers), the median over interleaved rounds.
MAE's view: random resized crop (bicubic, scale 0.2..1), flip, normalise.
"""

import argparse
import io
import itertools
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import nvidia.dali
import psutil
import torch
import torchvision
import webdataset
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from PIL import Image
from results import RESULTS, write_results
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from eyespot.data_pipeline.augment.views import IMAGENET_MEAN, IMAGENET_STD, RandomView, ViewSpec
from eyespot.data_pipeline.loading import dali_graphs
from eyespot.data_pipeline.loading.batch_maker import BatchMaker
from eyespot.data_pipeline.loading.loader import Loader, LoaderSpec, make_loader
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.order.sample_order import SampleOrder
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, IN_DALI, FOLDER, WEB, TENSOR, LIMIT = (
    "eyespot",
    "eyespot, resized by DALI",
    "ImageFolder + PIL",
    "WebDataset + PIL",
    "WebDataset + decode_jpeg, v2 on tensors",
    "DALI, decode only",
)


HEADER = ["data", "path", "images / s", "images / CPU-second", "eyespot is, per CPU-second"]


@dataclass(kw_only=True, slots=True)
class Task:
    """One data set and view."""

    name: str
    archive: str
    inside: str
    """Only members whose path starts so."""
    size: int
    batch_size: int
    seconds: float
    """Length of one measurement."""
    cores: int


def tasks(seconds: float, cores: int) -> list[Task]:
    options = dict(seconds=seconds, cores=cores)
    return [
        Task(name="caltech10 at 224 px", archive="caltech10-images.tar", inside="", size=224, batch_size=64, **options),
        Task(
            name="CIFAR-10 at 32 px",
            archive="cifar10-images.tar.gz",
            inside="test/",
            size=32,
            batch_size=512,
            **options,
        ),
    ]


def transform(size: int, *, tensors: bool) -> v2.Compose:
    crop = v2.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    steps = [crop, v2.RandomHorizontalFlip(), *([] if tensors else [v2.PILToTensor()])]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


def decode_pil(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def decode_tensor(data: bytes) -> torch.Tensor:
    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)


def read_label(data: bytes) -> int:
    return int(data)


def forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def eyespot_batches(task: Task, shards: Path) -> Iterator[Any]:
    views = ViewSpec(views=(RandomView(size=task.size),))
    return make_loader(
        LoaderSpec(shards=ShardFolder(shards), views=views, batch_size=task.batch_size, num_threads=task.cores)
    )


class ResizedByDali(BatchMaker):
    """What docs/decisions/0004 decided against: on the CPU, too, DALI resizes."""

    def _pipeline(self, number: int, shown: Any) -> Any:
        options = dict(batch_size=self._batch_size, num_threads=self._num_threads)
        return dali_graphs.view_pipeline(self._views, self._inputs, device_id=None, **options)

    def _inputs(self) -> list[Any]:
        self._running.append(job := next(self._jobs))
        return dali_graphs.view_inputs(self._views, job.parts[0].files, job.geometry)

    def _cpu_views(self, job: Any, outputs: Any) -> list[torch.Tensor]:
        return self._gpu_views(job, [torch.from_dlpack(output.as_tensor()) for output in outputs])[0]


def dali_batches(task: Task, shards: Path) -> Iterator[Any]:
    folder = ShardFolder(shards)
    order, size = SampleOrder(folder.manifest.num_samples, 0), task.batch_size
    maker = ResizedByDali(
        Reader(folder, substitute=True),
        (order.ids(position, size) for position in itertools.count(0, size)),
        ViewSpec(views=(RandomView(size=task.size),)),
        batch_size=size,
        seed=0,
        device=torch.device("cpu"),
        num_threads=task.cores,
        max_bad_fraction=0.01,
    )
    return Loader(maker, folder.manifest.num_samples, 0, size, {})


def folder_batches(task: Task, folder: Path) -> Iterator[Any]:
    data = ImageFolder(str(folder), transform(task.size, tensors=False))
    options = dict(shuffle=True, num_workers=task.cores, persistent_workers=True, drop_last=True)
    return forever(DataLoader(data, task.batch_size, **options))


def web_batches(task: Task, shards: Path, *, tensors: bool) -> Iterator[Any]:
    tars = [str(path) for path in sorted(shards.glob("*.tar"))]
    decode = decode_tensor if tensors else decode_pil
    data = (
        webdataset.WebDataset(tars, shardshuffle=len(tars), resampled=True)
        .shuffle(1000)
        .to_tuple("jpg", "cls")
        .map_tuple(v2.Compose([decode, transform(task.size, tensors=tensors)]), read_label)
    )
    return iter(DataLoader(data, task.batch_size, num_workers=task.cores))


def decoded_batches(task: Task, shards: Path) -> Iterator[Any]:
    pipeline = Pipeline(batch_size=task.batch_size, num_threads=task.cores, device_id=None, prefetch_queue_depth=2)
    with pipeline:
        files, _ = fn.readers.webdataset(
            paths=[str(path) for path in sorted(shards.glob("*.tar"))],
            index_paths=[str(path) for path in sorted(shards.glob("*.idx"))],
            ext=["jpg", "cls"],
            missing_component_behavior="error",
            random_shuffle=True,
            name="reader",
        )
        pipeline.set_outputs(fn.decoders.image(files, device="cpu", output_type=types.RGB))
    while True:
        yield pipeline.run()


def cpu_seconds() -> float:
    """Of this process and its living workers."""
    process = psutil.Process()
    times = [member.cpu_times() for member in [process, *process.children(recursive=True)]]
    return sum(each.user + each.system for each in times)


def measure(batches: Iterator[Any], task: Task) -> dict[str, float]:
    for _ in range(8):  # empty what was made ahead while others were measured
        next(batches)
    cpu, wall, num_images = cpu_seconds(), time.perf_counter(), 0
    while time.perf_counter() - wall < task.seconds:
        next(batches)
        num_images += task.batch_size
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    time.sleep(1)  # let it fill its queues again
    return {"per_second": num_images / wall, "per_cpu_second": num_images / cpu}


def prepare(task: Task, data: Path, work: Path) -> tuple[Path, Path]:
    """The images as class folders, and the same images packed."""
    folder, shards = work / "folder", work / "shards"
    with tarfile.open(data / task.archive) as tar:
        members = [member for member in tar if member.isfile() and member.name.startswith(task.inside)]
        tar.extractall(folder, members, filter="data")
    folder = folder / task.inside
    pack(str(folder), shards, max_samples=1000)
    return folder, shards


def contenders(task: Task, folder: Path, shards: Path) -> dict[str, Callable[[], Iterator[Any]]]:
    """Ours last: workers fork before its threads start."""
    return {
        WEB: partial(web_batches, task, shards, tensors=False),
        FOLDER: partial(folder_batches, task, folder),
        TENSOR: partial(web_batches, task, shards, tensors=True),
        LIMIT: partial(decoded_batches, task, shards),
        IN_DALI: partial(dali_batches, task, shards),
        OURS: partial(eyespot_batches, task, shards),
    }


def run(
    task: Task,
    data: Path,
    num_rounds: int,
    contenders: Callable[[Task, Path, Path], dict[str, Callable[[], Iterator[Any]]]],
) -> dict[str, Any]:
    """Measures all contenders in turn."""
    with tempfile.TemporaryDirectory() as work:
        streams = {name: make() for name, make in contenders(task, *prepare(task, data, Path(work))).items()}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in streams}
        for number in range(num_rounds):
            for name, batches in streams.items():
                rounds[name].append(measure(batches, task))
                print(
                    f"{task.name}, round {number + 1}: {name}: {rounds[name][-1]['per_cpu_second']:.0f} per CPU-second"
                )
        for batches in streams.values():
            if isinstance(batches, Loader):
                batches.close()
        del streams, batches
    medians = {
        name: {unit: statistics.median(each[unit] for each in found) for unit in found[0]}
        for name, found in rounds.items()
    }
    return {"batch_size": task.batch_size, "size": task.size, "rounds": rounds, "medians": medians}


def rows(results: dict[str, Any]) -> Iterator[list[str]]:
    for name, result in results.items():
        ours = result["medians"][OURS]["per_cpu_second"]
        for path, median in result["medians"].items():
            speeds = [f"{median['per_second']:.0f}", f"{median['per_cpu_second']:.0f}"]
            yield [name, path, *speeds, f"{ours / median['per_cpu_second']:.2f}x"]


def plot(results: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, len(results), figsize=(6 * len(results), 3), layout="constrained")
    for axis, (name, result) in zip(axes, results.items(), strict=True):
        names = list(result["medians"])
        values = [result["medians"][each]["per_cpu_second"] for each in names]
        bars = axis.barh(names, values, color=["#d55e00" if each == OURS else "#999999" for each in names])
        axis.bar_label(bars, fmt="{:.0f}", padding=3)
        axis.set(title=name, xlabel="images per CPU-second", xlim=(0, max(values) * 1.18))
    figure.savefig(path, dpi=150)


def run_all(
    doc: str | None, contenders: Callable[[Task, Path, Path], dict[str, Callable[[], Iterator[Any]]]]
) -> dict[str, Any]:
    """Reads the command line and measures the contenders on every task."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the two archives")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.error(f"--data {arguments.data}: no such folder; it holds caltech10-images.tar, cifar10-images.tar.gz")
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    chosen = tasks(arguments.seconds, cores)
    return {task.name: run(task, arguments.data, arguments.rounds, contenders) for task in chosen}


def main() -> None:
    results = run_all(__doc__, contenders)
    versions = {module.__name__: module.__version__ for module in (torchvision, nvidia.dali, webdataset)}
    write_results(
        "loader",
        title="Images per second, MAE's view; median over interleaved rounds",
        header=HEADER,
        rows=list(rows(results)),
        details={"versions": versions, "results": results},
    )
    plot(results, RESULTS / "loader.png")


if __name__ == "__main__":
    main()
