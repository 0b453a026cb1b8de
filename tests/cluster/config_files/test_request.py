"""Recipe, config files and flags, in this order; each error names who said what is wrong."""

import json

import pytest

from eyespot.cluster.config_files.request import asked
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain import trusted_recipes
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import to_values


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_of(words):
    return asked(words.split(), "eyespot pretrain").with_flags()


def numbers(run):
    return run.steps, run.optim.warmup_steps, run.save_every


def test_flags_win_over_the_later_file_over_the_earlier_over_the_recipe(folder):
    (folder / "a.toml").write_text('recipe = "simclr_tiny"\nseed = 1\n[optim]\nlr = 0.5\nweight_decay = 0.25\n')
    (folder / "b.toml").write_text('recipe = "mae_tiny"\n[optim]\nlr = 1\n[data]\nbatch-size = 32\n')
    found = asked(["--config", "a.toml", "--config=b.toml", "--seed", "3", "--data.batch-size=16"], "eyespot pretrain")
    run, expected = found.with_flags(), make_run("mae_tiny")
    expected.seed, expected.data.batch_size, expected.optim.lr, expected.optim.weight_decay = 3, 16, 1.0, 0.25
    assert found.recipe == "mae_tiny" and run == expected and isinstance(run.optim.lr, float)
    assert asked(["simclr_tiny", "--config", "b.toml"], "eyespot pretrain").recipe == "simclr_tiny"


def test_a_part_of_a_config_leaves_the_rest_as_the_recipe_has_it(folder):
    """Also settings that are written down only where they are set."""
    tcn = make_run("tcn_tiny")
    (folder / "a.toml").write_text("[objective.view]\nflip = 0.0\n")
    run = run_of("tcn_tiny --config a.toml")
    assert tcn.objective.view.clip is not None and run.objective.view.flip == 0.0
    assert run.objective.view.clip == tcn.objective.view.clip


def test_the_length_of_a_run(folder, digits):
    recipe = numbers(make_run("mae_tiny"))
    assert recipe == (1000, 100, 250)
    (folder / "a.toml").write_text("steps = 500\n")
    assert numbers(run_of("mae_tiny --config a.toml")) == (500, 50, 125)
    assert numbers(run_of("mae_tiny --config a.toml --steps 100")) == (100, 10, 25)
    assert numbers(run_of("mae_tiny --config a.toml --steps 800")) == (800, 80, 200)
    assert numbers(run_of("mae_tiny --config a.toml --steps 1000")) == recipe
    assert numbers(run_of("mae_tiny --config a.toml --steps 2000")) == (2000, 100, 250)
    (folder / "c.toml").write_text("steps = 500\nsave_every = 200\n")
    assert numbers(run_of("mae_tiny --config c.toml")) == (500, 50, 200)
    assert numbers(run_of("mae_tiny --config c.toml --steps 800")) == (800, 80, 200)
    assert numbers(run_of("mae_tiny --config c.toml --steps 100")) == (100, 10, 40)
    (folder / "d.toml").write_text("steps = 2000\n[optim]\nwarmup_steps = 400\n")
    assert numbers(run_of("mae_tiny --config d.toml --steps 1000")) == (1000, 200, 250)
    (folder / "b.toml").write_text("steps = 1000\nsave_every = 500\n[optim]\nwarmup_steps = 200\n")
    assert numbers(run_of("mae_tiny --config b.toml --steps 100")) == (100, 20, 50)
    assert numbers(run_of("mae_tiny --config b.toml --steps 100 --save-every 7")) == (100, 20, 7)
    (folder / "e.toml").write_text(f'epochs = 2\n[data]\nshards = "{digits}"\nbatch_size = 64\n')
    epochs = run_of("mae_tiny --config e.toml").steps
    assert epochs > 9
    assert run_of("mae_tiny --config e.toml --steps 9").steps == 9
    data = f"--data.shards {digits} --data.batch-size 64"
    assert numbers(run_of(f"mae_tiny --config a.toml {data} --epochs 40"))[1:] == (90, 225)
    assert run_of("mae_tiny --config e.toml --data.batch-size 32").steps == pytest.approx(2 * epochs, abs=1)
    assert run_of("mae_tiny --config e.toml --config a.toml").steps == 500
    assert run_of("mae_tiny --config a.toml --config e.toml").steps == epochs


def test_a_recorded_run_may_be_the_ground(folder):
    before = make_run("mae_tiny")
    before.seed, before.resume, before.stop_after = 5, "auto", 7
    (folder / "run.json").write_text(json.dumps({"recipe": "mae_tiny", "run": to_values(before)}))
    (folder / "a.toml").write_text('recipe = "mae_tiny"\n[optim]\nlr = 0.5\n')
    run = run_of("--from run.json --config a.toml --log-every 3")
    assert (run.seed, run.optim.lr, run.log_every, run.resume, run.stop_after) == (5, 0.5, 3, "never", None)
    (folder / "a.toml").write_text('recipe = "simclr_tiny"\n')
    with pytest.raises(UserError, match=r"^a\.toml:1: recipe 'simclr_tiny': the run of --from is of mae_tiny"):
        run_of("--from run.json --config a.toml")
    with pytest.raises(UserError, match=r"^recipe mae_tiny: --from run\.json says it already"):
        run_of("mae_tiny --from run.json")
    with pytest.raises(UserError, match=r"^--from run\.json and run\.json: name one run"):
        run_of("--from run.json --from=run.json")


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (
            "seed = 1\nstepz = 5",
            "",
            r"^a\.toml:2: stepz: there is no such setting in mae_tiny; perhaps you meant steps",
        ),
        ("[data]\n\nshard = 'x'", "", r"^a\.toml:3: data\.shard: .*perhaps you meant data\.shards"),
        ("lr = 1", "", r"^a\.toml:1: lr: .*perhaps you meant optim\.lr"),
        ("[dat]\nshards='x'", "", r"^a\.toml:1: dat: .*perhaps you meant data"),
        ("[optim]\nlr = 'much'", "", r"^a\.toml:2: optim\.lr 'much': expected float, got str"),
        ("steps = '3'", "", r"^a\.toml:1: steps '3': expected int, got str"),
        ("steps = true", "", r"^a\.toml:1: steps True: expected int, got bool"),
        ("steps = 1.5", "", r"^a\.toml:1: steps 1\.5: expected int, got float"),
        ("steps = 2020-01-01", "", r"^a\.toml:1: steps .*expected int"),
        ("steps = 'None'", "", r"^a\.toml:1: steps 'None': expected int"),
        ("engine = 'dpp'", "", r"^a\.toml:1: engine 'dpp': choose one of ddp, fsdp, deepspeed"),
        ("[optim]\nlr = nan", "", r"^a\.toml:2: optim\.lr nan: is not a number"),
        ("\nsteps = 0", "", r"^a\.toml:2: steps 0: must be 1 or more"),
        ("[data]\nbatch_size = 0", "", r"^a\.toml:2: data\.batch_size 0: must be 1 or more"),
        ("[objective]\nmask_ratio = 2", "", r"^a\.toml:2: objective\.mask_ratio 2"),
        ("data = 3", "", r"^a\.toml:1: data 3: expected an object with its fields"),
        ("[data]\nmean = [0.1]", "", r"^a\.toml: data\.std None: data\.mean and data\.std go together"),
        ("[data]\nmean = [0.1, 0.1, 0.1]", "", r"^a\.toml: data\.std None: data\.mean and data\.std go together"),
        ("steps = 10\n[optim]\nwarmup_steps = 11", "", r"^a\.toml:3: optim\.warmup_steps 11: the warm-up is longer"),
        ("steps = 10", "--optim.warmup-steps 11", r"^optim\.warmup_steps 11: the warm-up is longer"),
        ("steps = 10\n[optim]\nlr = 1", "--optim.lr x", r"^Error parsing --optim\.lr"),
        ("steps = 10", "--stepz 3", r"--stepz.*perhaps you meant --steps"),
        ("seed = 1", "--data.batch-size 0", r"^data\.batch_size 0: must be 1 or more"),
        ("[data]\nbatch_size = 7", "--data.batch-size 0", r"^data\.batch_size 0: must be 1 or more"),
        ("epochs = 2", "", r"^a\.toml:1: epochs: are of a number of images; add --data\.shards"),
        ("epochs = 0", "", r"^a\.toml:1: epochs 0\.0: must be above 0"),
        ("epochs = 'two'", "", r"^a\.toml:1: epochs 'two': expected a number"),
        ("seed = 1\nsteps = 2\nepochs = 2", "", r"^a\.toml:2: steps and epochs both say"),
        ("[objective.view.clip]\nstrid = 2", "", r"^a\.toml:2: objective\.view\.clip\.strid: there is no such setting"),
        ("[objective.view]\npartner = true", "", r"^a\.toml:2: objective\.view\.partner: .*the method sets it"),
    ],
)
def test_what_is_wrong_names_file_line_field_value_and_fix(folder, text, words, message):
    (folder / "a.toml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        run_of(f"{'simclr_tiny' if 'view' in text else 'mae_tiny'} --config a.toml {words}")
    assert "\n" not in str(caught.value)


def test_of_two_files_the_one_that_said_it_is_named(folder):
    (folder / "a.toml").write_text("[optim]\nlr = -1\n")
    (folder / "b.toml").write_text("seed = 1\n")
    with pytest.raises(UserError, match=r"^a\.toml:2: optim\.lr -1"):
        run_of("mae_tiny --config a.toml --config b.toml")


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("seed = 1", "--config a.toml", r"^recipe: a\.toml names none; write recipe = "),
        ("recipe = 5", "--config a.toml", r"^a\.toml:1: recipe 5: write it as text"),
        (
            "\nrecipe = 'mae_tinny'",
            "--config a.toml",
            r"^a\.toml:2: recipe 'mae_tinny': unknown; perhaps you meant mae_t",
        ),
        ("recipe = 'os:getcwd'", "--config a.toml", r"^a\.toml:1: names the recipe 'os:getcwd', code that is not eyes"),
        ("", "mae_tiny --config", r"^--config: needs a TOML file"),
        ("", "mae_tiny --config --steps 3", r"^--config: needs a TOML file"),
        ("", "--from", r"^--from: needs the run\.json"),
        ("", "--steps 3", r"^recipe: missing before --steps; write: eyespot pretrain RECIPE"),
    ],
)
def test_which_recipe(folder, text, words, message):
    (folder / "a.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        run_of(words)


def test_a_file_names_code_of_others_only_where_it_is_trusted(folder, monkeypatch):
    (folder / "recipes_of_a_file.py").write_text(
        "from eyespot.pretrain.recipe_lookup import make_run\n\ndef mine():\n    return make_run('mae_tiny')\n"
    )
    (folder / "a.toml").write_text("recipe = 'recipes_of_a_file:mine'\nseed = 4\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(trusted_recipes, "_trusted", set())
    with pytest.raises(UserError, match="--trust-recipe recipes_of_a_file"):
        run_of("--config a.toml")
    assert run_of("recipes_of_a_file:mine --config a.toml").seed == 4
    found = asked(["--config", "a.toml"], "eyespot pretrain")
    assert found.recipe == "recipes_of_a_file:mine" and found.with_flags().recipe == found.recipe
