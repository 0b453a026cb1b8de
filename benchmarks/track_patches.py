"""How good are the tracks of ``eyespot shards tracks``: against people's masks of DAVIS-2016, and a patch that stays.

    python benchmarks/track_patches.py --data DATA

DATA holds davis16-val-240p.tar (see motion_masks.py). Each video is cut into stretches of 30 frames, as the command
cuts it, and the patch that moves most is followed through each. Of the last frame of a stretch:

    object in it     the share of the object's pixels that the patch holds
    meets object     whether the patch and the box around the object share a pixel
    truth            the IoU of the patch with the first one moved by the truth: as far as the middle of the object

Beside it the same of the first patch where it was, and of one in the middle of the frame. A video's figure is the mean
of its stretches, and the interval is over videos (bootstrap, 95 %). Stretches in which nothing moves by itself have no
track, as in the command, and are counted.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from motion_masks import interval, read
from results import write_results

from eyespot.data_pipeline.shards.image_check import BadImage
from eyespot.data_pipeline.shards.video.moving_regions import gray
from eyespot.data_pipeline.shards.video.track_patches import FRAMES, PATCH, follow

Corner = tuple[float, float]
"""Of a patch, the left upper one, in shares of width and height."""


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = os.environ.get("EYESPOT_TEST_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(given), help="folder that holds davis16-val-240p.tar")
    archive = parser.parse_args().data / "davis16-val-240p.tar"
    if not archive.is_file():
        raise SystemExit(f"no {archive}: say where it lies with --data, or in EYESPOT_TEST_DATA")
    found: dict[str, list[dict[str, float]]] = {}
    still, seconds = 0, 0.0
    for name, video in sorted(read(archive).items()):
        for start in range(0, len(video) - FRAMES + 1, FRAMES):
            frames, masks = zip(*video[start : start + FRAMES], strict=True)
            started = time.process_time()
            try:
                corners = follow([gray(frame) for frame in frames])
            except BadImage:
                still += 1
                continue
            seconds += time.process_time() - started
            found.setdefault(name, []).append(measured(corners[0], corners[-1], masks[0], masks[-1]))
            print(
                f"{name:<22} " + "  ".join(f"{key} {value:.2f}" for key, value in found[name][-1].items()), flush=True
            )
    count = sum(map(len, found.values()))
    names = list(next(iter(found.values()))[0])
    table = np.array([[np.mean([one[name] for one in tracks]) for name in names] for tracks in found.values()])
    columns = dict(zip(names, table.T, strict=True))
    for what in ("object in it", "truth"):
        columns[f"{what}: followed, more than unmoved"] = columns[f"{what}: followed"] - columns[f"{what}: unmoved"]
    intervals = {name: interval(values) for name, values in columns.items()}
    write_results(
        "track_patches",
        title=f"Patches followed over {FRAMES} frames of DAVIS-2016, {count} tracks of {len(found)} videos",
        header=("of the last frame", "mean", "95 % of bootstrap over videos"),
        rows=[(name, f"{mean:.3f}", f"{low:.3f} to {high:.3f}") for name, (mean, low, high) in intervals.items()],
        details={
            "tracks": count,
            "stretches in which nothing moves": still,
            "cpu_seconds_per_track": round(seconds / max(1, count), 2),
            "videos": {
                name: [round(value, 3) for value in row] for name, row in zip(found, table.tolist(), strict=True)
            },
            "columns": names,
        },
    )


def measured(first: Corner, last: Corner, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """The figures of one track; the masks (H, W) bool are those of its first and its last frame."""
    height, width = after.shape
    side = max(1, round(PATCH * min(height, width)))
    middle = (width - side) / 2 / width, (height - side) / 2 / height
    patches = {"followed": last, "unmoved": first, "in the middle": middle}
    shown = {name: square(corner, side, after.shape) for name, corner in patches.items()}
    found = {"object in it, first frame": share(before, square(first, side, before.shape))}
    found |= {f"object in it: {name}": share(after, patch) for name, patch in shown.items()}
    rows, columns = (np.flatnonzero(after.any(axis)) for axis in (1, 0))
    box = np.zeros_like(after)
    if after.any():
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    found |= {f"meets object: {name}": float((patch & box).any()) for name, patch in shown.items()}
    moved = [b - a for a, b in zip(centre(before), centre(after), strict=True)]
    true = square((first[0] + moved[0] / width, first[1] + moved[1] / height), side, after.shape)
    return found | {
        f"truth: {name}": float((patch & true).sum() / (patch | true).sum())
        for name, patch in shown.items()
        if name != "in the middle"
    }


def square(corner: Corner, side: int, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: the patch whose left upper corner that is, inside of the frame."""
    height, width = shape
    left, top = (
        min(max(round(share * whole), 0), whole - side) for share, whole in zip(corner, (width, height), strict=True)
    )
    patch = np.zeros(shape, bool)
    patch[top : top + side, left : left + side] = True
    return patch


def share(mask: np.ndarray, patch: np.ndarray) -> float:
    """Of the object's pixels, those that the patch holds."""
    return float((mask & patch).sum() / max(1, mask.sum()))


def centre(mask: np.ndarray) -> Corner:
    """Where the middle of an object is, right and down, pixels."""
    rows, columns = np.nonzero(mask)
    return (float(columns.mean()), float(rows.mean())) if len(rows) else (0.0, 0.0)


if __name__ == "__main__":
    main()
