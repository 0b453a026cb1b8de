"""Methods of videos on falling digits: each trained for a few minutes on two cores, then asked about unseen videos.

Packs the built-in clips once, trains each method's tiny recipe, and asks it its own question of the 200 test videos, of
digits that it never saw: four clips of each. The interval is over videos, 95 %. Gate: better than chance, beyond doubt,
and better than the same method before its first step.

    python benchmarks/video_gates.py --work /tmp/videos arrow_of_time tcn
"""

import argparse
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import RESULTS, write_results

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.results.significance import wilson
from eyespot.pretrain.checkpoints.folders import newest
from eyespot.pretrain.checkpoints.reader import read_module
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.loop.run_data import normalized_views
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.objectives.video_mae import VideoMAE
from eyespot.pretrain.recipe_lookup import make_run

NAME = "video_gates"
EYESPOT = str(Path(sys.executable).parent / "eyespot")
PASSES = 4
SAMPLES = 1
"""Of a batch: then what a method logs is of one video."""
QUESTIONS = {
    "frame_order": ("accuracy", 0.5),
    "odd_one_out": ("accuracy", 1 / 6),
    "arrow_of_time": ("accuracy", 0.5),
    "tcn": ("alignment_error", 1 / 3),
    "video_mae": ("loss", None),
}
"""What each logs of its question, and by chance; None = what a guess of every cube's mean would have."""
LOW = ("alignment_error", "loss")
"""The lower, the better."""


def answers(objective: Objective, views: ViewSpec, shards: ShardFolder, asked: str) -> np.ndarray:
    """Of each video, the mean over its clips."""
    found = np.zeros(shards.manifest.num_samples)
    spec = LoaderSpec(shards=shards, views=views, batch_size=SAMPLES, seed=1)
    loader = make_loader(spec)
    with torch.no_grad():
        for batch in islice(loader, PASSES * len(found)):
            found[batch.ids.numpy()] += float(objective(batch)[asked]) / PASSES
    loader.close()
    return found


def of_mean_guess(objective: VideoMAE, views: ViewSpec, shards: ShardFolder) -> float:
    """The loss of who says of all masked cubes their mean: what is flat in them costs nothing."""
    spec = LoaderSpec(shards=shards, views=views, batch_size=shards.manifest.num_samples, seed=1)
    loader = make_loader(spec)
    square = objective.targets(next(loader).views[0]).square().mean().item()
    loader.close()
    return square


def interval(values: np.ndarray, asked: str) -> tuple[float, float, float]:
    """Mean over videos, and where it lies with 95 %; of shares Wilson's, every video counting once."""
    if asked == "accuracy":
        return float(values.mean()), *wilson(round(values.sum()), len(values))
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def measure(method: str, work: Path, changes: list[str]) -> dict[str, Any]:
    """Trains and asks one method."""
    recipe, run_dir, digits = f"{method}_tiny", work / "runs" / method, work / "digits"
    words = ["pretrain", recipe, "--data.shards", str(digits), "--run-dir", str(run_dir), "--resume", "auto", *changes]
    print("eyespot", *words, flush=True)
    process = subprocess.Popen([EYESPOT, *words, "--no-track"])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    seconds = used.ru_utime + used.ru_stime
    spent = run_dir / "cpu_seconds.txt"  # stays known where only the question is asked again
    seconds += float(spent.read_text()) if spent.exists() else 0.0
    spent.write_text(f"{seconds:.1f}\n")
    asked, chance = QUESTIONS[method]
    run, test, found = make_run(recipe), ShardFolder.find(digits / "test"), {}
    torch.manual_seed(run.seed)
    objective = fresh_objective(run, torch.arange(1)).eval()
    views = normalized_views(objective.views(), run.data, ShardFolder.find(digits).manifest)
    chance = of_mean_guess(objective, views, test) if isinstance(objective, VideoMAE) else chance
    found["untrained"] = interval(answers(objective, views, test, asked), asked)
    checkpoint = newest(run_dir)
    assert checkpoint is not None
    objective.load_state_dict(read_module(checkpoint))
    found["trained"] = interval(answers(objective, views, test, asked), asked)
    return {"asked": asked, "chance": chance, "cpu_minutes": round(seconds / 60, 1), "changes": changes, **found}


def passed(row: dict[str, Any]) -> bool:
    """Whether it learned something, beyond doubt."""
    low = row["asked"] in LOW
    (_, least, most), before = row["trained"], row["untrained"][2 if not low else 1]
    return most < min(row["chance"], before) if low else least > max(row["chance"], before)


def shown(method: str, row: dict[str, Any]) -> tuple[str, ...]:
    """A row for people."""
    cells = [f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in (row["trained"], row["untrained"])]
    verdict = "passed" if passed(row) else "FAILED"
    return method, row["asked"], verdict, *cells, f"{row['chance']:.3f}", f"{row['cpu_minutes']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(QUESTIONS)}; all by default")
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs")
    parser.add_argument("--steps", help="of the training, in place of the recipe's")
    options = parser.parse_args()
    if unknown := set(options.methods) - set(QUESTIONS):
        parser.error(f"unknown methods: {', '.join(sorted(unknown))}")
    if not (options.work / "digits" / "test" / "manifest.json").exists():
        subprocess.run([EYESPOT, "shards", "pack", "falling-digits", str(options.work / "digits")], check=True)
    before = RESULTS / f"{NAME}.json"
    rows = json.loads(before.read_text())["methods"] if before.is_file() else {}
    for method in options.methods or QUESTIONS:
        rows[method] = measure(method, options.work, ["--steps", options.steps] if options.steps else [])
        there = {name: rows[name] for name in QUESTIONS if name in rows}
        write_results(
            NAME,
            title="Falling digits, a few minutes of training each: questions about 200 unseen videos, 95 % intervals",
            header=("method", "asked", "gate", "trained", "untrained", "chance", "CPU minutes"),
            rows=[shown(name, row) for name, row in there.items()],
            details={"methods": there},
        )
    sys.exit(0 if all(map(passed, rows.values())) else 1)


if __name__ == "__main__":
    main()
