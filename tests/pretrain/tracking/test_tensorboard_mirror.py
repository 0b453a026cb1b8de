"""Event files, read back by TensorBoard itself and held against metrics.jsonl, whatever has happened to the run."""

import json
import math
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.tracking.metric_groups import grouped
from eyespot.pretrain.tracking.mirrors import sync
from eyespot.pretrain.tracking.tracker import Tracker

WRITER = """
import sys, time
from pathlib import Path
from eyespot.pretrain.tracking.tracker import Tracker
tracker = Tracker(
    Path(sys.argv[1]), run_key="k", name="n", params={}, tags={}, uri="none", tensorboard=True
)
for step in range(int(sys.argv[2]), 10**6):
    tracker.log(step, {"loss": 1 / (step + 1), "samples_seen": step * 8})
    time.sleep(0.001)
"""


def open_tracker(run_dir: Path) -> Tracker:
    return Tracker(run_dir, run_key="k", name="n", params={}, tags={}, uri="none", tensorboard=True)


def shown(run_dir: Path) -> dict[str, list[tuple[int, float, float]]]:
    """What TensorBoard makes of the folder: (step, wall time, value) by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    return {tag: [(e.step, e.wall_time, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def wanted(run_dir: Path) -> dict[str, list[tuple[int, float, float]]]:
    """The same straight from metrics.jsonl, rounded to 32 bits."""
    rows: dict[str, list[tuple[int, float, float]]] = {}
    for text in (run_dir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        for name, value in line.items():
            value = float(value) if value in ("NaN", "Infinity", "-Infinity") else value
            if name not in ("step", "time") and not isinstance(value, str):
                rows.setdefault(grouped(name), []).append((line["step"], line["time"], float(np.float32(value))))
    return rows


def same(one: object, other: object) -> bool:
    return repr(one) == repr(other)  # NaN is NaN


def log(run_dir: Path, steps: range) -> None:
    tracker = open_tracker(run_dir)
    for step in steps:
        tracker.log(
            step, {"loss": math.nan if step == 4 else 1 / (step + 3), "digest": "ab", "lr": 0.1, "up": math.inf}
        )
    tracker.close("FINISHED")


def test_each_number_once_however_the_file_was_cut(tmp_path: Path):
    """Torn anywhere: in the middle of a record, behind the first one, wholly gone, of another run."""
    run_dir = tmp_path / "run"
    log(run_dir, range(20))
    assert same(shown(run_dir), wanted(run_dir))
    (path,) = (run_dir / "tensorboard").iterdir()
    whole, dice = path.read_bytes(), random.Random(0)
    for cut in [*(dice.randrange(len(whole)) for _ in range(20)), 0, len(whole)]:
        path.write_bytes(whole[:cut])
        sync(run_dir, "none", tensorboard=True)
        assert same(shown(run_dir), wanted(run_dir)), f"cut at {cut}"
    assert path.read_bytes()[24:] == whole[24:] and sync(run_dir, "none", tensorboard=True) == 0
    (run_dir / "metrics.jsonl").write_text('{"step": 1, "time": 2.0, "loss": 0.5}\n')
    sync(run_dir, "none", tensorboard=True)
    assert shown(run_dir) == {"train/loss": [(1, 2.0, 0.5)]}


def test_a_resume_goes_on_in_the_same_file(tmp_path: Path):
    log(tmp_path / "run", range(10))
    log(tmp_path / "run", range(5, 15))
    assert same(shown(tmp_path / "run"), wanted(tmp_path / "run"))
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


def test_pictures_come_once(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log(tmp_path / "run", range(3))
    (tmp_path / "run" / "pictures").mkdir()
    for name in ("step-00000002.png", "other.png"):
        Image.new("RGB", (9, 5)).save(tmp_path / "run" / "pictures" / name)
    for _ in range(2):
        sync(tmp_path / "run", "none", tensorboard=True)
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(e.step, e.width, e.height) for e in read.Images("pictures")] == [(2, 9, 5)]


def test_a_full_disk_costs_the_run_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The folder is a file: nothing can be written there until somebody makes room."""
    caplog.set_level("INFO", "eyespot")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "tensorboard").touch()
    tracker = open_tracker(run_dir)
    tracker.log(0, {"loss": 1.0})
    until = time.monotonic() + 60
    while "TensorBoard at" not in caplog.text:
        assert time.monotonic() < until
        time.sleep(0.05)
    (run_dir / "tensorboard").unlink()
    tracker.close("FINISHED", wait_seconds=60.0)
    assert "has everything again, after" in caplog.text and same(shown(run_dir), wanted(run_dir))


@pytest.mark.thorough
def test_kill_9_and_resume(tmp_path: Path):
    for start in (0, 500, 1000):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "run"), str(start)])
        until = time.monotonic() + 120
        while not (tmp_path / "run" / "tensorboard").is_dir() or not shown(tmp_path / "run"):
            assert time.monotonic() < until
            time.sleep(0.2)
        time.sleep(2.5)
        process.kill()
        process.wait()
    sync(tmp_path / "run", "none", tensorboard=True)
    assert same(shown(tmp_path / "run"), wanted(tmp_path / "run"))


def test_files_of_others_stay_as_they_are(tmp_path: Path):
    run_dir, precious = tmp_path / "run", tmp_path / "precious"
    precious.write_bytes(b"no event file")
    (run_dir / "tensorboard").mkdir(parents=True)
    strange = run_dir / "tensorboard" / "events.out.tfevents.1.host"
    strange.write_bytes(b"other")
    (run_dir / "tensorboard" / "events.out.tfevents.1.host.eyespot").symlink_to(precious)
    log(run_dir, range(3))
    assert (strange.read_bytes(), precious.read_bytes()) == (b"other", b"no event file")
    assert len(list((run_dir / "tensorboard").iterdir())) == 3


def test_a_file_in_the_folders_place_is_named(tmp_path: Path):
    log(tmp_path, range(3))
    for path in (tmp_path / "tensorboard").iterdir():
        path.unlink()
    (tmp_path / "tensorboard").rmdir()
    (tmp_path / "tensorboard").touch()
    with pytest.raises(UserError, match="is no folder; remove or rename it"):
        sync(tmp_path, "none", tensorboard=True)
