"""The runs of a sweep: which there are, what they are called, and what cannot be swept."""

import json
from pathlib import Path

import pytest

from eyespot.cluster.launch.sweep import earlier_rows, members, single, write_sweep
from eyespot.data_pipeline.errors import UserError

WORDS = ["pretrain", "mae_tiny", "--run-dir", "runs/rates", "--data.shards", "data/digits"]


def test_a_product_in_folders_that_say_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = members(WORDS, ["optim.lr=1e-4,3e-4", "seed=0,1,2"])
    assert [(member.run.optim.lr, member.run.seed) for member in runs] == [
        *((1e-4, 0), (1e-4, 1), (1e-4, 2)),
        *((3e-4, 0), (3e-4, 1), (3e-4, 2)),
    ]
    assert runs[1].run.run_dir == tmp_path / "runs" / "rates" / "optim.lr=1e-4,seed=1"
    assert runs[1].values == {"optim.lr": "1e-4", "seed": "1"}
    assert {member.run.data.shards for member in runs} == {str(tmp_path / "data" / "digits")}
    (tmp_path / "runs" / "rates").mkdir(parents=True)
    write_sweep(tmp_path / "runs" / "rates", WORDS, runs, [f"7_{index}" for index in range(6)])
    record = json.loads((tmp_path / "runs" / "rates" / "sweep.json").read_text())
    assert record["runs"][1] == {
        "name": "optim.lr=1e-4,seed=1",
        "run_dir": str(runs[1].run.run_dir),
        "job": "7_1",
        "values": {"optim.lr": "1e-4", "seed": "1"},
    }
    write_sweep(tmp_path / "runs" / "rates", WORDS, runs[1:2], ["8"])
    record = json.loads((tmp_path / "runs" / "rates" / "sweep.json").read_text())
    assert [run["job"] for run in record["runs"]] == ["7_0", "8", "7_2", "7_3", "7_4", "7_5"]


def test_switches_lists_and_paths_are_swept_too():
    on, off = members(WORDS, ["compile=true,false"])
    assert (on.run.compile, off.run.compile) == (True, False)
    narrow, wide = members(WORDS, ["objective.crop_scale=0.2 1.0,0.8 1.0"])
    assert (narrow.run.objective.crop_scale, wide.run.objective.crop_scale) == ((0.2, 1.0), (0.8, 1.0))
    assert narrow.run.run_dir.name == "objective.crop_scale=0.2_1.0"
    one, _ = members(WORDS, ["data.shards=data/a,data/b"])
    assert (one.run.data.shards, one.run.run_dir.name) == (str(Path("data/a").absolute()), "data.shards=data_a")


def test_without_a_sweep_there_is_one_run_with_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (member,) = members([*WORDS, "--resume", "old/checkpoints/step-00000002"], [])
    assert member.run.run_dir == tmp_path / "runs" / "rates"
    assert member.run.resume == str(tmp_path / "old" / "checkpoints" / "step-00000002")


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (["optim.lr"], "sweep 'optim.lr': write it as field=value,value"),
        (["optim.lr=1,"], "sweep 'optim.lr=1,': write it as"),
        (["seed=1,1"], "sweep seed=1: stands there twice"),
        (["seed=1", "seed=2"], "names a field twice"),
        (["run-dir=a,b"], "sweep run_dir: cannot be swept"),
        (["optim.ls=1"], "--optim.ls"),
        (["seed=many"], "--seed"),
    ],
)
def test_what_cannot_be_swept_is_one_line(sweep, message):
    with pytest.raises(UserError) as caught:
        members(WORDS, sweep)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [[], ["eval", "linear"], ["pretrain"], ["pretrain", "--steps", "3"]])
def test_what_can_be_launched(words):
    with pytest.raises(UserError, match="pretrain RECIPE"):
        single(words)


def test_more_runs_than_anybody_sweeps_are_refused_before_any_is_resolved():
    many = ",".join(map(str, range(1000)))
    with pytest.raises(UserError, match="sweep: 1,000,000 runs, and one sweep has at most 10,000"):
        members(["pretrain", "mae_tiny"], [f"seed={many}", f"steps={many}"])


@pytest.mark.parametrize("text", ["", "[]", '{"runs": [5]}', '{"runs": [{"job": 1}]}', "[" * 100_000])
def test_a_damaged_list_of_runs_is_refused(tmp_path, text):
    assert earlier_rows(tmp_path) == {}
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(UserError, match=r"sweep\.json: .*move it away"):
        earlier_rows(tmp_path)


def test_a_config_file_lies_below_the_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text('recipe = "mae_tiny"\nrun_dir = "runs/rates"\n[optim]\nlr = 1.0\nclip = 2.0\n')
    runs = members(["pretrain", "--config", "run.toml"], ["optim.lr=1e-4,3e-4"])
    assert [(member.recipe, member.run.optim.lr, member.run.optim.clip) for member in runs] == [
        ("mae_tiny", 1e-4, 2.0),
        ("mae_tiny", 3e-4, 2.0),
    ]
    assert runs[0].run.run_dir == tmp_path / "runs" / "rates" / "optim.lr=1e-4"
    with pytest.raises(UserError, match="--print-config: writes settings and starts nothing"):
        single(["pretrain", "--config", "run.toml", "--print-config"])
