"""From words to a Run and from a Run to an exit code, without the console command around it."""

import json
import logging

import pytest

from eyespot.cluster.start_run import requested, train
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.exit_report import LAST_WORDS
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import to_values


@pytest.fixture(autouse=True)
def own_log(monkeypatch):
    monkeypatch.setattr(logging.getLogger("eyespot"), "handlers", [])


@pytest.fixture
def run(digits, tmp_path):
    run = make_run("mae_tiny")
    run.data.shards, run.run_dir, run.device, run.track = str(digits), tmp_path / "run", "cpu", False
    run.encoder.name, run.encoder.patch_size = "test_vit", 4
    run.data.batch_size, run.steps, run.log_every, run.picture_every = 16, 3, 1, 0
    run.optim.warmup_steps = 0
    return run


def test_words_become_a_run():
    recipe, run = requested(["mae_tiny", "--steps", "7", "--optim.lr", "0.5"])
    expected = make_run("mae_tiny")
    expected.steps, expected.optim.lr = 7, 0.5
    expected.optim.warmup_steps = round(expected.optim.warmup_steps * 7 / make_run("mae_tiny").steps)
    expected.save_every = expected.picture_every = 2  # in proportion: run_length
    assert (recipe, run) == ("mae_tiny", expected)


def test_a_record_is_repeated_from_its_beginning(tmp_path):
    before = make_run("simclr_tiny")
    before.resume, before.stop_after, before.steps = "auto", 5, 9
    (tmp_path / "run.json").write_text(json.dumps({"recipe": "simclr_tiny", "run": to_values(before)}))
    recipe, run = requested(["--from", str(tmp_path), "--data.batch-size", "8"])
    assert recipe == "simclr_tiny" and run.steps == 9 and run.data.batch_size == 8
    assert (run.resume, run.stop_after) == ("never", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from"], "--from: needs the run.json"),
        (["--steps", "3"], "recipe: missing before --steps"),
        (["mae_tinny"], "perhaps you meant mae_tiny"),
        (["mae_tiny", "--stepps", "3"], "--stepps"),
    ],
)
def test_wrong_words(words, message):
    with pytest.raises(UserError, match=message):
        requested(words)


def test_done_and_then(run):
    seen = []
    assert train("mae_tiny", run, lambda world: seen.append(world.size)) == 0
    assert seen == [1]


def test_a_loss_that_is_not_finite_is_said_and_fails(run, capsys, tmp_path, monkeypatch):
    run.optim.lr, run.optim.clip, run.steps = 1e30, None, 20
    with (tmp_path / "words").open("w+") as pipe:
        monkeypatch.setenv(LAST_WORDS, str(pipe.fileno()))
        assert train("mae_tiny", run) == 1
        pipe.seek(0)
        words = json.loads(pipe.readline())
    assert words["kind"] == "training" and "finite" in words["text"]
    assert f"see {run.run_dir / 'logs'}" in capsys.readouterr().err


def test_a_start_after_a_failure_goes_on(run, monkeypatch):
    """torchrun starts the same words again: "never" must not refuse the folder that they have made."""
    run.stop_after = 2
    train("mae_tiny", run)
    run.resume, run.stop_after = "never", None
    with pytest.raises(UserError, match="holds a run already"):
        train("mae_tiny", run)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert train("mae_tiny", run) == 0
    steps = [json.loads(line)["step"] for line in (run.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
