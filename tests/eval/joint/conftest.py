"""Named digits, and a run of CLIP as training leaves it after its first steps."""

from pathlib import Path

import pytest
from captioned import pack_named_digits
from left_runs import leave_run, small_run


@pytest.fixture(scope="session")
def named_digits(tmp_path_factory) -> Path:
    return pack_named_digits(tmp_path_factory.mktemp("named"), count=150)


@pytest.fixture(scope="session")
def clip_run(named_digits, tmp_path_factory) -> Path:
    run = small_run("clip_tiny")
    run.data.shards = str(named_digits)
    return leave_run(run, "clip_tiny", tmp_path_factory.mktemp("clip") / "run", named_digits)
