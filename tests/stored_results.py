"""Result files and run folders as eyespot eval leaves them, with given answers, for tests that compare results."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.eval.results.result import Result, packed
from eyespot.eval.results.significance import wilson
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import to_values


def result_of(key: str, right: np.ndarray, **changes: Any) -> Result:
    """A result whose test samples were right or wrong as given."""
    count, total = int(right.sum()), len(right)
    fields: dict[str, Any] = dict(
        key=key, protocol="linear", metric="linear/mean", name=key, role="encoder", origin={"step": 100},
        data="digits", shards="digits", split="its own test split", num_train=1438, num_test=total, num_classes=10,
        num_correct=count, accuracy=count / total, interval=wilson(count, total), settings={}, validation=0.5,
        metrics={}, correct=packed(right), seed=0, seconds=1.0, train_sha256="train", test_sha256="test",
    )  # fmt: skip
    return Result(**{**fields, **changes})


def write(path: Path, result: Result) -> Path:
    """Stores a result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result)))
    return path


def write_run(folder: Path, right: np.ndarray, *, seed: int = 0, lr: float = 1e-3, **changes: Any) -> Path:
    """A run folder that was judged."""
    run = make_run("mae_tiny")
    run.seed, run.optim.lr, run.run_dir = seed, lr, folder
    write(folder / "eval" / "linear_digits_step-00000100.json", result_of(folder.name, right, **changes))
    record = {"recipe": "mae_tiny", "run": to_values(run), "manifest_sha256": "data"}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def write_baselines(folder: Path, right: np.ndarray) -> None:
    """Random weights and raw pixels beside a run's results, the same ones beside every run."""
    for role, name in [("random", "random weights (seed 0)"), ("pixels", "raw pixels")]:
        write(folder / "eval" / f"linear_digits_{role}.json", result_of(role, right, role=role, name=name, origin={}))


def answers(share: float, total: int = 400, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Right where a test sample is easy enough; the same samples are hard for everybody, up to ``noise``."""
    difficulty = np.random.default_rng(0).random(total) + np.random.default_rng(seed + 1).normal(0, noise, total)
    return difficulty < share
