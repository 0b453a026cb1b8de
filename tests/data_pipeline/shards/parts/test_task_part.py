"""One task's share: which stretch it is, what it refuses, and that a killed task goes on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from packed_parts import content, pack_part, write_images

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.parts.merge import merge
from eyespot.data_pipeline.shards.parts.task_part import PARTS, sample_begins, shard_cuts, stretches


def slow_cuts(sizes: list[int], max_samples: int, max_bytes: int) -> list[int]:
    """As packing does it, sample by sample."""
    cuts, offset = [0], 0
    for number, size in enumerate(sizes):
        has_room = number - cuts[-1] < max_samples and offset + size + 10_240 <= max_bytes
        if number > 0 and not has_room:
            cuts.append(number)
            offset = 0
        offset += size
    return [*cuts, len(sizes)]


def test_cuts_of_all_samples_at_once_are_those_one_by_one():
    random = np.random.default_rng(0)
    for _ in range(200):
        sizes = random.integers(1, 60, random.integers(1, 60)) * 512
        max_samples, max_bytes = int(random.integers(1, 12)), 10_240 + int(random.integers(0, 300)) * 512
        assert shard_cuts(sizes, max_samples, max_bytes) == slow_cuts(sizes.tolist(), max_samples, max_bytes)
    assert shard_cuts(np.zeros(0), 5, 5) == [0]


def test_stretches_begin_with_shards_where_there_are_enough():
    assert stretches(list(range(0, 101, 10)), 100, 3) == [0, 33, 66, 100]  # 10 shards: too few for 3 tasks
    assert stretches(list(range(0, 101, 5)), 100, 3) == [0, 35, 65, 100]
    assert stretches([0, 2], 2, 4) == [0, 0, 1, 1, 2]
    assert stretches([0], 0, 2) == [0, 0, 0]


def test_where_samples_begin(digits: Path):
    tar = digits / "test" / "shard-000000.tar"
    begins = sample_begins(tar.with_suffix(".idx")).tolist()
    data = tar.read_bytes()
    assert begins[0] == 0 and not any(data[begins[-1] :])
    for number, begin in enumerate(begins[:-1]):
        assert data[begin : begin + 9] == f"{number:08d}.".encode()
    assert data[begins[-2] :].find(b"\0" * 1024) > 0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 30)


def refusal(*arguments: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        pack_part(*arguments, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_go_with_other_parts_is_refused_at_once(images: Path, tmp_path: Path):
    root = tmp_path / "deep" / "root"
    assert "samples of many frames are packed by one process" in refusal("falling-digits", root, 0, 2)
    assert not root.parent.exists()
    pack_part(images, root, 0, 2)
    before = content(root)
    assert "holds parts of 2 tasks" in refusal(images, root, 1, 3)
    assert "holds a part of another source or other options" in refusal(images, root, 1, 2, seed=1)
    assert "holds a part of another source or other options" in refusal(images, root, 0, 2, seed=1)
    assert content(root) == before
    with pytest.raises(UserError, match="holds other files"):
        pack(str(images), root, workers=1)
    pack(str(images), tmp_path / "whole", workers=1)
    assert "holds shards of another source or other options" in refusal(images, tmp_path / "whole", 0, 2, seed=1)
    assert not (tmp_path / "whole" / PARTS).exists()
    assert "holds other files" in refusal(images, images, 0, 2)


PROGRAM = """
import sys
from pathlib import Path
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.parts.task_part import Share
from eyespot.data_pipeline.shards.parts.task import Task
share = Share(Path(sys.argv[2]), Task(1, 2))
pack(sys.argv[1], share.folder, goal=share, workers=1, max_samples=4)
"""


def test_a_killed_task_goes_on(images: Path, tmp_path: Path):
    source = write_images(tmp_path / "source", 400)
    root, process = tmp_path / "root", None
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(source), str(root)])
    tars = root / PARTS / "0001-of-0002"
    while len(list(tars.glob("*.tar"))) < 3 and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(UserError, match=r"not finished"):
        merge(root)
    first = tars / "shard-000000.tar"
    written = first.stat().st_mtime_ns
    for number in (1, 0):
        pack_part(source, root, number, 2, max_samples=4)
    assert first.stat().st_mtime_ns == written  # what was finished was not packed again
    pack(str(source), tmp_path / "whole", workers=1, max_samples=4)
    merge(root)
    assert content(root) == content(tmp_path / "whole")
