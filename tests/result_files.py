"""Results of an evaluation that nobody ran, as files of a run folder."""

import json
from dataclasses import asdict
from pathlib import Path

from eyespot.eval.results.result import Result


def some_result(**changes) -> Result:
    values = {
        "key": "a1",
        "protocol": "knn",
        "metric": "knn/k20_T0.07_cls_l2",
        "name": "mae_tiny, step 12",
        "role": "encoder",
        "origin": {"run": "runs/first", "checkpoint": "step-00000012", "step": 12, "encoder": "test_vit"},
        "data": "digits",
        "shards": "data/digits",
        "test_sha256": "cd" * 32,
        "split": "train and test",
        "num_train": 90,
        "num_test": 10,
        "num_classes": 10,
        "num_correct": 9,
        "accuracy": 0.9,
        "interval": (0.6, 0.98),
        "settings": {"features": "cls", "k": 20.0},
        "validation": 0.85,
        "metrics": {"knn/k20_T0.07_cls_l2": 0.9},
        "correct": "ff80",
        "seed": 0,
        "seconds": 1.5,
        "argv": ["eyespot", "eval"],
        "created": "2026-01-02T03:04:05+00:00",
    }
    return Result(**{**values, **changes})


def write(run_dir: Path, name: str, result: Result) -> None:
    (run_dir / "eval").mkdir(parents=True, exist_ok=True)
    (run_dir / "eval" / name).write_text(json.dumps(asdict(result)))
