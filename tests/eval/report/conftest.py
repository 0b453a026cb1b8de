"""A run on the digits, made without training, and its encoder with what the page shows it."""

from pathlib import Path

import pytest
import torch
from released_runs import small_run, write_run

from eyespot.eval.report.encoder_sections import Look, look_at
from eyespot.eval.report.run_data import read_stories


@pytest.fixture(scope="session")
def digits_run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To read, not to change."""
    folder = tmp_path_factory.mktemp("looked-at") / "run"
    run = small_run(folder)
    run.data.shards = str(digits)
    return write_run(folder, run=run)


@pytest.fixture
def look(digits_run: Path) -> Look:
    """What the parts of a page get of this run."""
    (story,) = read_stories([digits_run])
    found = look_at(story, lambda said: None, torch.device("cpu"))
    assert isinstance(found, Look), found
    return found
