"""A packed data set and a run folder as training leaves it, small enough for every test."""

from pathlib import Path

import pytest
from left_runs import leave_run, small_run


@pytest.fixture
def run_dir(digits, tmp_path) -> Path:
    """mae_tiny around timm's smallest ViT, with one checkpoint of untrained weights."""
    run = small_run("mae_tiny")
    run.data.shards, run.steps = str(digits), 12
    argv = ["eyespot", "pretrain", "mae_tiny", "--data.shards", str(digits)]
    return leave_run(run, "mae_tiny", tmp_path / "run", digits, argv)
