"""How fast are SimCLR's two views made? Ours against the usual paths, on the same cores, in one run.

    python benchmarks/two_views.py --data ../shared/data

Images (of two views each) per wall second and per CPU-second, the median over interleaved rounds. Views: random
resized crop (bicubic, scale 0.08..1), flip, colour jitter, grayscale, at 224 px blur, normalise.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nvidia.dali
import torch
import torchvision
import webdataset
from loader import HEADER, OURS, TENSOR, WEB, Task, decode_pil, decode_tensor, plot, read_label, rows, run_all
from nvidia.dali import fn, pipeline_def, types
from PIL import Image, ImageFilter
from results import RESULTS, write_results
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from eyespot.data_pipeline.augment.views import IMAGENET_MEAN, IMAGENET_STD, RandomView, ViewSpec
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

ALL_DALI = "DALI, linear hue, fixed order"
SCALE = (0.08, 1.0)


def strengths(task: Task) -> tuple[float, float, float, float]:
    """SimCLR's: full on photographs, half on CIFAR-10."""
    return (0.8, 0.8, 0.8, 0.2) if task.size > 32 else (0.4, 0.4, 0.4, 0.1)


def blur_probability(task: Task) -> float:
    return 0.5 if task.size > 32 else 0.0


def eyespot_batches(task: Task, shards: Path) -> Iterator[Any]:
    view = RandomView(size=task.size, scale=SCALE, jitter=strengths(task), grayscale=0.2, blur=blur_probability(task))
    spec = ViewSpec(views=(view, view))
    return make_loader(
        LoaderSpec(shards=ShardFolder(shards), views=spec, batch_size=task.batch_size, num_threads=task.cores)
    )


class PilBlur:
    """As in MoCo v2's and v3's code: three box filters in C, which are several times faster than torchvision's blur."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(0.1, 2.0))))


def transform(task: Task, *, tensors: bool) -> v2.Compose:
    blur = v2.GaussianBlur(2 * (task.size // 20) + 1, (0.1, 2.0)) if tensors else PilBlur()
    return v2.Compose(
        [
            v2.RandomResizedCrop(task.size, SCALE, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*strengths(task))], 0.8),
            v2.RandomGrayscale(0.2),
            *([v2.RandomApply([blur], 0.5)] if blur_probability(task) else []),
            *([] if tensors else [v2.PILToTensor()]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


class TwoViews:
    """Two random views of one decoded image."""

    def __init__(self, task: Task, *, tensors: bool):
        self.decode, self.transform = decode_tensor if tensors else decode_pil, transform(task, tensors=tensors)

    def __call__(self, data: bytes) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.decode(data)
        return self.transform(image), self.transform(image)


def web_batches(task: Task, shards: Path, *, tensors: bool) -> Iterator[Any]:
    tars = [str(path) for path in sorted(shards.glob("*.tar"))]
    data = (
        webdataset.WebDataset(tars, shardshuffle=len(tars), resampled=True)
        .shuffle(1000)
        .to_tuple("jpg", "cls")
        .map_tuple(TwoViews(task, tensors=tensors), read_label)
    )
    return iter(DataLoader(data, task.batch_size, num_workers=task.cores))


def dali_batches(task: Task, shards: Path) -> Iterator[Any]:
    pipeline = dali_graph(task, shards, batch_size=task.batch_size, num_threads=task.cores, device_id=None, seed=0)
    while True:
        yield pipeline.run()


@pipeline_def(enable_conditionals=True)
def dali_graph(task: Task, shards: Path) -> tuple[Any, ...]:
    """As DALI's documentation builds it: brightness, contrast, saturation and a linear hue in one kernel."""
    files, _ = fn.readers.webdataset(
        paths=[str(path) for path in sorted(shards.glob("*.tar"))],
        index_paths=[str(path) for path in sorted(shards.glob("*.idx"))],
        ext=["jpg", "cls"],
        missing_component_behavior="error",
        random_shuffle=True,
    )
    image = fn.decoders.image(files, device="cpu", output_type=types.RGB)
    return dali_view(image, task), dali_view(image, task)


def dali_view(image: Any, task: Task) -> Any:
    options = dict(random_area=SCALE, interp_type=types.INTERP_CUBIC, antialias=True)
    view = fn.random_resized_crop(image, size=(task.size, task.size), **options)
    *factors, hue = strengths(task)
    brightness, contrast, saturation = (fn.random.uniform(range=(1 - each, 1 + each)) for each in factors)
    jittered, gray, blurred = (
        fn.random.coin_flip(probability=each, dtype=types.BOOL) for each in (0.8, 0.2, blur_probability(task))
    )
    degrees = fn.random.uniform(range=(-360 * hue, 360 * hue))
    sigma = fn.random.uniform(range=(0.1, 2.0))
    if jittered:
        view = fn.color_twist(view, brightness=brightness, contrast=contrast, saturation=saturation, hue=degrees)
    if gray:
        view = fn.saturation(view, saturation=0.0)
    if blurred:
        view = fn.gaussian_blur(view, sigma=sigma)
    mean, std = ([255 * value for value in each] for each in (IMAGENET_MEAN, IMAGENET_STD))
    return fn.crop_mirror_normalize(view, mean=mean, std=std, mirror=fn.random.coin_flip(), output_layout="CHW")


def contenders(task: Task, folder: Path, shards: Path) -> dict[str, Callable[[], Iterator[Any]]]:
    """Ours last: workers fork before its threads start."""
    return {
        WEB: partial(web_batches, task, shards, tensors=False),
        TENSOR: partial(web_batches, task, shards, tensors=True),
        ALL_DALI: partial(dali_batches, task, shards),
        OURS: partial(eyespot_batches, task, shards),
    }


def main() -> None:
    results = run_all(__doc__, contenders)
    versions = {module.__name__: module.__version__ for module in (torchvision, nvidia.dali, webdataset)}
    write_results(
        "two_views",
        title="Images per second, two views of SimCLR each; median over interleaved rounds",
        header=HEADER,
        rows=list(rows(results)),
        details={"versions": versions, "results": results},
    )
    plot(results, RESULTS / "two_views.png")


if __name__ == "__main__":
    main()
