"""run.json: written whole, read with suspicion and without torch, and named in one source file only."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import to_values
from eyespot.pretrain.run_record import FREE_FIELDS, RunRecord, difference

ROOT = Path(__file__).parents[2]
WHOLE = RunRecord(
    recipe="mae_tiny", argv=["eyespot"], run={"seed": 1}, run_key="a1", started="2026-01-01", host="node1",
    world_size=2, hardware={"cores": 2}, eyespot="0.1.0", versions={"python": "3.11"}, manifest_sha256="d",
    mixture=[{"name": "a", "weight": "7/10"}], lane_frame=16, tokenizers={"clip": "e"},
    start={"weights": "a.safetensors", "sha256": "ab", "loaded": "3 of 3 tensors loaded", "copies": 2},
    teacher={"model": "resnet50", "sha256": "cd"}, normalization={"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]},
    git_commit="c0ffee", git_diff_sha256="", own_code={"file": "mine.py"},
)  # fmt: skip


def test_it_comes_back_as_it_was_written(tmp_path):
    (tmp_path / "run.json").write_text("an older one")
    WHOLE.write(tmp_path)
    assert RunRecord.read(RunRecord.path(tmp_path)) == WHOLE
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"], "no temporary file stays"
    assert list(json.loads((tmp_path / "run.json").read_text())) == [
        field.name for field in dataclasses.fields(RunRecord)
    ]


def test_what_is_not_known_is_not_written(tmp_path):
    RunRecord(recipe="mae_tiny", run={}).write(tmp_path)
    assert (tmp_path / "run.json").read_text() == '{\n "recipe": "mae_tiny",\n "run": {}\n}\n'


def test_an_older_or_newer_versions_fields(tmp_path):
    """What it did not know yet is None; what only a newer one knows is left alone."""
    (tmp_path / "run.json").write_text('{"recipe": "mae_tiny", "run": {}, "host": null, "of_tomorrow": 1}')
    record = RunRecord.read(tmp_path / "run.json")
    assert record == RunRecord(recipe="mae_tiny", run={})
    assert (record.host, record.hardware, record.git_commit) == (None, None, None)


@pytest.mark.parametrize("needed", ["recipe", "run", "run_key"])
def test_a_field_that_is_needed(needed, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**WHOLE.values(), needed: None}))
    with pytest.raises(UserError, match=rf"^{path}: damaged \(no field {needed}\)$"):
        RunRecord.read(path, needed=("recipe", "run", "run_key"))
    assert RunRecord.read(path, needed=()).world_size == 2


def test_what_is_no_run_folder(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=rf"^run {folder}: no run\.json, so it is not a run folder$"):
            RunRecord.read(RunRecord.path(folder))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a run folder"):
        RunRecord.read(RunRecord.path(tmp_path / "file"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'"recipe"'])
def test_what_is_no_record_is_damaged(content, tmp_path):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json: damaged \("):
        RunRecord.read(tmp_path / "run.json", needed=())


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(RunRecord)])
def test_a_value_of_another_kind_is_not_let_in(name, tmp_path):
    other = (
        "text"
        if name
        in ("argv", "run", "world_size", "hardware", "versions", "mixture", "lane_frame", "normalization", "own_code")
        else ["list"]
    )
    (tmp_path / "run.json").write_text(json.dumps({**WHOLE.values(), name: other}))
    with pytest.raises(UserError, match=rf"run\.json: damaged \({name}: expected .*, got (str|array)\)$"):
        RunRecord.read(tmp_path / "run.json")


def test_what_is_in_its_place_and_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(UserError, match=r"run\.json: damaged \(not a plain file\)$"):
        RunRecord.read(tmp_path / "run.json")


def test_what_nobody_could_walk_through_is_not_let_in(tmp_path):
    """Python's parser takes thousands of levels that Python's functions then stumble over."""
    (tmp_path / "run.json").write_text('{"recipe": "mae_tiny", "run": {"data": ' + "[" * 900 + "]" * 900 + "}}")
    with pytest.raises(UserError, match=r"run\.json: damaged \(nested too deep\)$"):
        RunRecord.read(tmp_path / "run.json")


def test_mean_and_std(tmp_path):
    assert WHOLE.mean_and_std(tmp_path) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    three = [1, 2, 3]
    for odd in (None, {}, {"mean": three}, {"mean": three, "std": [1, 2]}, {"mean": three, "std": "abc"}):
        with pytest.raises(UserError, match=rf"^{tmp_path}/run\.json: no field normalization; train the run anew$"):
            dataclasses.replace(WHOLE, normalization=odd).mean_and_std(tmp_path)


def test_difference_names_all_fields_that_change_the_numbers():
    old, new = make_run("mae_tiny"), make_run("mae_tiny")
    new.save_every, new.data.accumulate = 7, 2
    assert difference(to_values(old), to_values(new)) is None
    new.optim.lr = 9.0
    assert difference(to_values(old), to_values(new)) == f"optim.lr is 9.0, was {old.optim.lr}"
    new.seed, new.data.batch_size = 3, 8
    assert difference(to_values(old), to_values(new)) == (
        f"data.batch_size is 8, was {old.data.batch_size}; optim.lr is 9.0, was {old.optim.lr}; seed is 3, was 0"
    )


def test_free_fields_exist():
    recipes = {"objective.text.": "clip_tiny", "objective.teacher.": "distill_tiny"}
    for path in FREE_FIELDS:
        value = make_run(next((recipe for start, recipe in recipes.items() if path.startswith(start)), "mae_tiny"))
        for name in path.split("."):
            assert name in {field.name for field in dataclasses.fields(value)}, path
            value = getattr(value, name)


@pytest.mark.parametrize("reader", ["pretrain.run_record", "cluster.status.survey", "eval.results.compare"])
def test_it_is_read_without_torch(reader):
    script = f"import sys, eyespot.{reader}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_no_other_source_file_opens_it():
    """By its name in quotes; sentences that speak of it are no paths."""
    for floor in ("data_pipeline", "pretrain", "eval", "cluster", "benchmarks"):
        for path in (ROOT / floor).rglob("*.py"):
            if path.parent.name == "hostile":  # they spoil it, as a stranger would
                continue
            words = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
            named = any(isinstance(word, str) and " " not in word and word.endswith("run.json") for word in words)
            assert named == (path.relative_to(ROOT) == Path("pretrain/run_record.py")), path
