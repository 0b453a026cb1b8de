"""benchmarks/billion_rows.py: how a run on a billion samples begins."""

import subprocess
import sys

import numpy as np
import pytest
from billion_rows import make_folder, measured

from eyespot.data_pipeline.shards.paged.paged_index import PagedIndex
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

MOST_SECONDS, MOST_MB = 5, 500


def test_a_folder_of_links_is_one_of_format_2(tmp_path):
    """Of two pieces, whose last piece is shorter than the others."""
    make_folder(tmp_path, 2_000_000, pieces=True)
    shards = ShardFolder(tmp_path)
    shards.check()
    assert isinstance(shards.table, PagedIndex) and len(shards.manifest.shards) == 200
    draw = np.random.default_rng(0).integers(0, 2_000_000, 50)
    for row in shards.rows(np.append(draw, 1_999_999)):
        with shards.tar_path(int(row["tar"])).open("rb") as file:
            file.seek(int(row["offset"]))
            assert file.read(4) == b"\x89PNG"


@pytest.mark.thorough
def test_a_run_on_a_billion_samples_begins_in_seconds_and_little_memory(tmp_path):
    make_folder(tmp_path, 10**9, pieces=True)
    for first in (True, False):
        found = measured(tmp_path, first=first)
        assert found["total"] < MOST_SECONDS and found["grown_mb"] < MOST_MB, found
    command = [sys.executable, "-m", "eyespot", "pretrain", "simclr_tiny", "--data.shards", str(tmp_path)]
    run = [*command, "--run-dir", str(tmp_path / "run"), "--stop-after", "1"]
    subprocess.run(run, check=True, stderr=subprocess.DEVNULL, cwd=tmp_path)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 1
