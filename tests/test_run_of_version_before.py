"""A run folder that an older eyespot left (0.1.0, commit 397e212) is read, refused, repeated and gone on with as then.

``data/run_of_version_before``: four of eight steps on the built-in digits, by

    eyespot pretrain mae_tiny --data.shards data/digits --encoder.name small_vit --objective.decoder-dim 16
      --objective.decoder-depth 1 --data.batch-size 24 --steps 8 --save-every 4 --log-every 1 --picture-every 0
      --optim.lr 5e-3 --optim.warmup-steps 2 --no-track --device cpu --run-dir runs/first --stop-after 4
"""

import json
import shutil
from pathlib import Path

import pytest
import small_vit  # noqa: F401 - timm gets to know its name

from eyespot.cluster.start_run import requested
from eyespot.cluster.status.run_state import read_run_state
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.encoders.subject import subjects_of
from eyespot.eval.report.run_data import read_story
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.config import Run
from eyespot.pretrain.loop.run_folder import RunFolder
from eyespot.pretrain.run_json import load_run
from eyespot.pretrain.run_record import RunRecord
from eyespot.pretrain.tracking.metrics_file import read_metrics
from eyespot.pretrain.trainer import fit

LEFT = Path(__file__).parent / "data" / "run_of_version_before"
LOSSES = [1.4854055643081665, 1.4663574695587158, 1.4309600591659546, 1.429444432258606]
"""Of steps 5 to 8, where that version had not been stopped."""
DIGESTS = ["5a5018291b185c7f", "ef829cd607eafa45", "3d6154a8f3126c06", "48e74477f503ac4d"]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A copy to go on in."""
    return Path(shutil.copytree(LEFT, tmp_path / "run"))


def same_run(run_dir: Path, shards: Path) -> Run:
    """What its command asks for, said to this version."""
    (recipe, *flags) = RunRecord.read(RunRecord.path(run_dir)).argv[2:]
    places = ["--data.shards", str(shards), "--run-dir", str(run_dir), "--resume", "auto"]
    _, run = requested([recipe, *flags, *places])
    run.stop_after = None
    return run


def test_it_is_read(run_dir):
    record = RunRecord.read(RunRecord.path(run_dir))
    assert record.values() == json.loads((LEFT / "run.json").read_text()), "every field has a place"
    assert (record.recipe, record.eyespot, record.git_commit[:7]) == ("mae_tiny", "0.1.0", "397e212")
    recipe, run = load_run(run_dir)
    assert (recipe, run.encoder.name, run.data.shards, run.steps) == ("mae_tiny", "small_vit", "data/digits", 8)


def test_all_who_look_at_runs_understand_it(run_dir):
    story, run_state = read_story(run_dir), read_run_state(run_dir)
    assert (story.recipe, story.last("loss")) == ("mae_tiny", run_state.loss)
    assert (run_state.steps, run_state.step, run_state.checkpoint_step, run_state.end) == (8, 4, 4, "done")
    trained, twin, _ = subjects_of(str(run_dir), seed=0)
    assert (trained.name, twin.role) == ("mae_tiny, step 4", "random")
    assert trained.views.mean == pytest.approx([0.3061199] * 3)


def test_other_settings_are_refused_by_name(run_dir, digits):
    run = same_run(run_dir, digits)
    run.log_every, run.engine = 2, "fsdp"
    RunFolder(run, "mae_tiny", 0).close()
    run.optim.lr = 1e-3
    with pytest.raises(UserError, match=r"cannot go on with other settings: optim\.lr is 0\.001, was 0\.005;"):
        RunFolder(run, "mae_tiny", 0)
    run.resume = "never"
    with pytest.raises(UserError, match="holds a run already"):
        RunFolder(run, "mae_tiny", 0)


def test_it_goes_on(run_dir, digits):
    """From its checkpoint, optimiser state and place in the data; its record stays as it was."""
    assert fit(same_run(run_dir, digits), "mae_tiny") == "done"
    lines = list(read_metrics(run_dir))
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["loss"] for line in lines[4:]] == pytest.approx(LOSSES, rel=1e-5)
    assert [line["sample_digest"] for line in lines[4:]] == DIGESTS
    assert (run_dir / "run.json").read_bytes() == (LEFT / "run.json").read_bytes()
    assert checkpoint.read_meta(checkpoint.newest(run_dir)).run_key == RunRecord.read(run_dir / "run.json").run_key


def test_it_is_repeated(run_dir, tmp_path, digits):
    """From its record alone, into a folder of its own: as long as the whole run, unlike the one that was stopped."""
    words = ["--from", str(run_dir / "run.json"), "--run-dir", str(tmp_path / "again"), "--data.shards", str(digits)]
    recipe, run = requested(words)
    assert (run.resume, run.stop_after) == ("never", None)
    assert fit(run, recipe) == "done"
    before, after = list(read_metrics(run_dir)), list(read_metrics(tmp_path / "again"))
    assert [line["sample_digest"] for line in after[:4]] == [line["sample_digest"] for line in before]
    assert [line["loss"] for line in after] == pytest.approx([*(line["loss"] for line in before), *LOSSES], rel=1e-5)
