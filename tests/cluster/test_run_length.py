"""--steps and --epochs, and what follows when a recipe is shortened; a run that goes on keeps what it began with."""

from dataclasses import replace

import pytest

from eyespot.cluster.config_files.request import laid
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import recorded_values
from eyespot.pretrain.run_record import RunRecord


def parse_run(recipe, words, prog):
    return replace(laid("mae_tiny", recipe, [], words), prog=prog).with_flags()


def numbers(run):
    return run.steps, run.optim.warmup_steps, run.save_every, run.picture_every, run.monitor_every


@pytest.fixture
def recipe():
    run = make_run("mae_tiny")
    run.steps, run.optim.warmup_steps, run.save_every, run.picture_every, run.monitor_every = 1000, 100, 250, 0, 50
    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (1000, 100, 250, 0, 50)),
        (["--steps", "2000"], (2000, 100, 250, 0, 50)),
        (["--steps", "500"], (500, 50, 125, 0, 50)),
        (["--steps=100"], (100, 10, 25, 0, 10)),
        (["--steps", "3"], (3, 0, 1, 0, 1)),
        (["--steps", "100", "--optim.warmup-steps", "100"], (100, 100, 25, 0, 10)),
        (["--steps", "100", "--save_every=100", "--monitor-every", "0"], (100, 10, 100, 0, 0)),
    ],
)
def test_what_follows_a_shorter_run(recipe, words, expected, capsys):
    assert numbers(parse_run(recipe, words, "test")) == expected
    said = capsys.readouterr().err
    followed = expected[0] < 1000
    assert said.startswith(f"eyespot: {expected[0]} steps, not 1,000; hence ") == followed
    assert ("optim.warmup_steps 50 (was 100), save_every 125 (was 250)" in said) == (expected[0] == 500)


def test_few_steps_of_a_long_recipe_are_not_all_saved():
    run = parse_run(make_run("mae_vitb16_in1k"), ["--steps", "100"], "test")
    assert run.save_every == 10 and run.optim.warmup_steps <= 10


def test_epochs(recipe, digits, tmp_path):
    (tmp_path / "ids").write_text("\n".join(map(str, range(96))))
    words = ["--data.shards", str(digits), "--data.batch-size", "24", "--epochs", "2.5"]
    assert parse_run(recipe, [*words, "--data.ids", str(tmp_path / "ids")], "test").steps == 10
    with pytest.raises(UserError, match=r"^epochs 2\.5: --steps 7 says how long the run is"):
        parse_run(recipe, [*words, "--steps", "7"], "test")
    with pytest.raises(UserError, match=r"epochs: are of a number of images; add --data\.shards"):
        parse_run(recipe, ["--epochs", "2"], "test")
    for wrong in ("0", "-1", "nan", "inf", "x"):
        with pytest.raises(UserError, match="epochs"):
            parse_run(recipe, [*words[:-1], wrong], "test")


@pytest.mark.parametrize(
    "words",
    [
        ["--steps", "10", "--optim.warmup-steps", "11"],
        ["--optim.warmup-steps", "1001"],
        ["--steps=3", "--optim.warmup_steps=4"],
    ],
)
def test_a_warm_up_that_is_longer_than_the_run_is_refused(recipe, words):
    with pytest.raises(UserError, match=r"^optim\.warmup_steps \d+: .* is longer than the run of [\d,]+ steps"):
        parse_run(recipe, words, "test")


def test_a_recipe_that_is_so_is_warned_of(recipe, capsys):
    """Whatever recorded it may go on with it."""
    recipe.optim.warmup_steps = 2000
    assert parse_run(recipe, [], "test").optim.warmup_steps == 2000
    assert "warning: optim.warmup_steps 2000: the warm-up is longer" in capsys.readouterr().err


def test_a_run_that_goes_on_keeps_the_warm_up_that_it_began_with(recipe, tmp_path):
    """An older version left it as the recipe had it."""
    begun = make_run("mae_tiny")
    begun.steps, begun.optim.warmup_steps, begun.run_dir = 50, 100, tmp_path
    RunRecord(recipe="mae_tiny", run=recorded_values(begun)).write(tmp_path)
    words = ["--steps", "50", "--run-dir", str(tmp_path)]
    assert parse_run(recipe, words, "test").optim.warmup_steps == 5
    assert parse_run(recipe, [*words, "--resume", "auto"], "test").optim.warmup_steps == 100
    assert parse_run(recipe, [*words, "--resume", "auto", "--optim.warmup-steps", "3"], "test").optim.warmup_steps == 3
