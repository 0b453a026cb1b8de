import json
import subprocess
import sys

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.report.run_data import MAX_STORIES, read_stories
from eyespot.pretrain.tracking.metrics_file import encode


def some_run(run_dir, recipe, lines=()):
    run_dir.mkdir(parents=True)
    (run_dir / "run.json").write_text(json.dumps({"recipe": recipe}))
    (run_dir / "metrics.jsonl").write_bytes(b"".join(encode(line) for line in lines))
    return run_dir


def labels(*run_dirs):
    return [story.label for story in read_stories(run_dirs)]


def test_a_run_is_called_by_what_tells_it_from_the_others(tmp_path):
    mae, simclr = some_run(tmp_path / "a" / "x", "mae"), some_run(tmp_path / "a" / "y", "simclr")
    again, twin = some_run(tmp_path / "a" / "z", "mae"), some_run(tmp_path / "b" / "x", "mae")
    assert labels(mae, simclr) == ["mae", "simclr"]
    assert labels(mae, again) == ["x", "z"]
    assert labels(mae, twin) == [str(mae), str(twin)]


def test_settings_of_another_kind_count_as_unknown(tmp_path):
    """A stranger's: the page says what is known without them."""
    run_dir = some_run(tmp_path / "run", "mae")
    values = {"steps": "3", "data": {"shards": ["a"]}, "encoder": [1]}
    (run_dir / "run.json").write_text(json.dumps({"recipe": "mae", "run": values}))
    (story,) = read_stories([run_dir])
    assert story.setting("steps", default=0) == 0 and story.setting("encoder", "name", default="encoder") == "encoder"
    assert story.data_name == "" and story.shards == "SHARDS"


def test_wrong_runs_are_named(tmp_path):
    runs = [some_run(tmp_path / str(n), "mae") for n in range(MAX_STORIES + 1)]
    with pytest.raises(UserError, match="none is named"):
        read_stories([])
    with pytest.raises(UserError, match="too many for one page"):
        read_stories(runs)
    with pytest.raises(UserError, match="named twice"):
        read_stories([runs[0], tmp_path / "1" / ".." / "0"])
    with pytest.raises(UserError, match="not a run folder"):
        read_stories([runs[0], runs[1] / "run.json"])


def test_training_time_leaves_pauses_out(tmp_path):
    lines = [{"step": n, "time": 1e6 * n, "samples_seen": 100 * n, "images_per_second": 50.0 * n} for n in (1, 2)]
    (story,) = read_stories([some_run(tmp_path / "x", "mae", lines)])
    assert story.seconds() == pytest.approx(100 / 50 + 100 / 100)


def test_a_page_without_images_needs_no_torch(tmp_path):
    """It takes seconds to import, and more memory than a million lines."""
    empty = some_run(tmp_path / "empty", "mae", [{"step": 1, "loss": 0.5}])
    moved = some_run(tmp_path / "moved", "mae", [{"step": 1, "loss": 0.5}])
    (moved / "run.json").write_text(json.dumps({"recipe": "mae", "run": {"data": {"shards": str(tmp_path / "gone")}}}))
    (moved / "checkpoints" / "step-00000001").mkdir(parents=True)
    (moved / "checkpoints" / "step-00000001" / "meta.json").write_text("{}")
    for run_dir, reason in ((empty, "the run has no complete checkpoint yet"), (moved, f"{tmp_path / 'gone'}")):
        code = (
            "import sys; from eyespot.cluster.cli import main; code = main(); sys.exit(code or 'torch' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code, "report", str(run_dir)], check=True, stdout=subprocess.DEVNULL)
        assert "No pictures: " in (page := (run_dir / "report.html").read_text()) and reason in page
