"""How good are the masks of ``eyespot shards motion``: IoU with people's on DAVIS-2016, against a box in the middle.

    python benchmarks/motion_masks.py --data DATA

DATA holds davis16-val-240p.tar: frames/VIDEO/NNNNN.jpg and masks/VIDEO/NNNNN.png. Every frame counts; a video's figure
is the mean of its frames, and the interval is over videos (bootstrap, 95 %). Of "certain" pixels those that the mask
calls uncertain are left out on both sides. Also: how long a mask takes.
"""

import argparse
import io
import os
import tarfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image
from results import write_results

from eyespot.data_pipeline.shards.video.motion_masks import masks
from eyespot.data_pipeline.shards.video.moving_regions import MOVES, UNCERTAIN

RATE = 24.0
"""DAVIS' frames per second."""


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = os.environ.get("EYESPOT_TEST_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(given), help="folder that holds davis16-val-240p.tar")
    arguments = parser.parse_args()
    archive = arguments.data / "davis16-val-240p.tar"
    if not archive.is_file():
        raise SystemExit(f"no {archive}: say where it lies with --data, or in EYESPOT_TEST_DATA")
    videos = read(archive)
    figures, seconds, count = [], 0.0, 0
    for name in sorted(videos):
        frames, true = zip(*videos[name], strict=True)
        started = time.process_time()
        found = [np.asarray(Image.open(io.BytesIO(png))) for png in masks(frames, RATE)]
        seconds += time.process_time() - started
        count += len(found)
        figures.append(np.nanmean([scores(mask, shape) for mask, shape in zip(found, true, strict=True)], 0))
        print(f"{name:<22} " + "  ".join(f"{value:.3f}" for value in figures[-1]), flush=True)
    table = np.array(figures)
    columns = {"mask": table[:, 0], "mask, certain pixels": table[:, 1], "box in the middle": table[:, 2]}
    columns["mask, more than the box"] = table[:, 0] - table[:, 2]
    intervals = {name: interval(values) for name, values in columns.items()}
    write_results(
        "motion_masks",
        title="IoU of motion masks with DAVIS-2016's, 20 videos",
        header=("what", "IoU", "95 % of bootstrap over videos"),
        rows=[(name, f"{mean:.3f}", f"{low:.3f} to {high:.3f}") for name, (mean, low, high) in intervals.items()],
        details={
            "frames": count,
            "certain": round(float(table[:, 3].mean()), 3),
            "cpu_ms_per_mask": round(1000 * seconds / count, 1),
            "videos": {
                name: [round(value, 3) for value in row]
                for name, row in zip(sorted(videos), table.tolist(), strict=True)
            },
        },
    )


def read(archive: Path) -> dict[str, list[tuple[bytes, np.ndarray]]]:
    """Of each video its frames as files, and their true masks (H, W) bool, in the order of time."""
    files: dict[str, dict[str, bytes]] = defaultdict(dict)
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)) is not None:
                kind, video, name = Path(member.name).parts[-3:]
                files[video][f"{kind}/{Path(name).stem}"] = file.read()
    return {
        video: [
            (data, np.asarray(Image.open(io.BytesIO(found[name.replace("frames/", "masks/")]))) > 0)
            for name, data in sorted(found.items())
            if name.startswith("frames/")
        ]
        for video, found in files.items()
    }


def scores(mask: np.ndarray, true: np.ndarray) -> tuple[float, float, float, float]:
    """IoU of what the mask says moves, the same among its certain pixels, that of the box, and the certain share."""
    if mask.shape != true.shape:
        true = np.asarray(Image.fromarray(true).resize(mask.shape[::-1], Image.Resampling.NEAREST))
    certain = mask != UNCERTAIN
    height, width = true.shape
    box = np.zeros_like(true)
    box[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    moves = mask == MOVES
    return iou(moves, true), iou(moves[certain], true[certain]), iou(box, true), float(certain.mean())


def iou(found: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union; nothing where nothing is there."""
    either = int((found | true).sum())
    return float((found & true).sum() / either) if either else float("nan")


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over videos, and where 95 % of bootstrap's means lie."""
    draws = np.random.default_rng(0).integers(0, len(values), (10_000, len(values)))
    low, high = np.percentile(values[draws].mean(1), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


if __name__ == "__main__":
    main()
