"""Bits per dimension of PixelCNN on images that it has never seen, beside those of a histogram and of PNG.

Takes the newest run of pixel_cnn in WORK/runs, as benchmarks/zoo.py leaves one or any other command (the table names
the one that was), and asks it, trained and as it began, about test images. A histogram of the levels of each colour,
of as many training images, is what one knows who sees no neighbours; PNG is what a file takes, header and all. The
means are over the very same images, with 95 % intervals. Gate: the trained network needs fewer bits than the histogram,
image by image, beyond doubt.

    python benchmarks/pixel_bits.py --work /tmp/zoo
"""

import argparse
import io
import math
import shlex
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from results import RESULTS, write_results

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.pretrain.checkpoints.folders import newest
from eyespot.pretrain.checkpoints.reader import read_module
from eyespot.pretrain.images.lab_color import normalized
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.networks.pixel_cnn.gated_pixel_cnn import LEVELS, GatedPixelCNN
from eyespot.pretrain.objectives.pixel_cnn import PixelCNN
from eyespot.pretrain.run_json import load_run
from eyespot.pretrain.run_record import RunRecord

NAME = "pixel_bits"
AT_ONCE = 50
PLAIN = RandomView(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)


def levels_of(shards: ShardFolder, size: int, count: int) -> torch.Tensor:
    """The first so many images, which lie in shards in no order: (N, 3, H, W) levels."""
    views = ViewSpec(views=(replace(PLAIN, size=size),), fixed=True)
    parts: list[torch.Tensor] = []
    with closing(make_pass(LoaderSpec(shards=shards, views=views, batch_size=AT_ONCE, seed=0), 0, 1)) as batches:
        for batch in batches:
            parts.append(GatedPixelCNN.levels(batch.views[0]))
            if len(parts) * AT_ONCE >= count:
                break
    return torch.cat(parts)[:count]


@torch.no_grad()
def of_network(objective: PixelCNN, levels: torch.Tensor) -> np.ndarray:
    """Of each image."""
    parts = [objective.surprise(normalized(part / (LEVELS - 1))).mean((1, 2, 3)) for part in levels.split(AT_ONCE)]
    return torch.cat(parts).double().numpy() / math.log(2)


def of_histogram(known: torch.Tensor, levels: torch.Tensor) -> np.ndarray:
    """Of each image: of how rare its levels are among the known images' of that colour, each counted once more."""
    bits = np.zeros(len(levels))
    for color in range(3):
        counts = known[:, color].flatten().bincount(minlength=LEVELS).double() + 1
        bits += (-(counts / counts.sum()).log2())[levels[:, color]].mean((1, 2)).numpy() / 3
    return bits


def of_png(levels: torch.Tensor) -> np.ndarray:
    """Of each image as a file of its own."""
    sizes = []
    for image in levels.byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", optimize=True)
        sizes.append(8 * len(file.getvalue()) / image.size)
    return np.array(sizes)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over images, and where it lies with 95 %."""
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def command_of(run_dir: Path, work: Path) -> str:
    """How the run was begun."""
    words = RunRecord.read(RunRecord.path(run_dir), needed=("argv",)).argv or []
    return shlex.join(["eyespot", *map(str, words[1:])]).replace(str(work), "WORK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of shards and runs, as zoo.py leaves it")
    parser.add_argument("--images", type=int, default=2000, help="of the test split, and of training for the histogram")
    options = parser.parse_args()
    run_dir = max((options.work / "runs").glob("pixel_cnn-[0-9]*"), key=lambda path: path.stat().st_mtime)
    _, run = load_run(run_dir)
    shards, size = options.work / "shards", run.encoder.image_size
    known, asked = (levels_of(ShardFolder.find(shards / split), size, options.images) for split in ("train", "test"))
    torch.manual_seed(run.seed)
    objective = fresh_objective(run).eval()
    assert isinstance(objective, PixelCNN)
    found = {"untrained": of_network(objective, asked)}
    checkpoint = newest(run_dir)
    assert checkpoint is not None
    objective.load_state_dict(read_module(checkpoint))
    found = {"PixelCNN": of_network(objective, asked), **found}
    found |= {"histogram of levels": of_histogram(known, asked), "PNG": of_png(asked)}
    saved = {name: interval(bits - found["PixelCNN"]) for name, bits in found.items()}
    rows = []
    for name, bits in found.items():
        shown = ["{:.3f} ({:.3f} to {:.3f})".format(*each) for each in (interval(bits), saved[name])]
        rows.append((name, shown[0], shown[1] if name != "PixelCNN" else ""))
    write_results(
        NAME,
        title=f"Bits per dimension of {len(asked):,} unseen JPEGs of CIFAR-10, {run.steps:,} steps; 95 % intervals",
        header=("told by", "bits", "more than PixelCNN, image by image"),
        rows=rows,
        details={
            "run": run_dir.name,
            "command": command_of(run_dir, options.work),
            "steps": run.steps,
            "bits": {name: interval(bits) for name, bits in found.items()},
            "more": saved,
        },
    )
    with (RESULTS / f"{NAME}.md").open("a") as file:
        file.write(f"\nThe run is of `{command_of(run_dir, options.work)}`.\n")
    sys.exit(0 if saved["histogram of levels"][1] > 0 else 1)


if __name__ == "__main__":
    main()
