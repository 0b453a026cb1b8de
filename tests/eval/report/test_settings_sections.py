"""What was run and how to do it again: what differs between runs, once what they share, commands that a shell takes."""

import json
import shlex

import pytest
from released_runs import small_run, write_run

from eyespot.eval.report.run_data import read_stories
from eyespot.eval.report.settings_sections import files, header, reproduce, settings
from eyespot.pretrain.loop.run_end import LOG
from eyespot.pretrain.tracking.metrics_file import encode


@pytest.fixture
def two(tmp_path):
    runs = []
    for name, rate in (("slow", 0.001), ("fast", 0.25)):
        run = small_run(tmp_path / name)
        run.optim.lr = rate
        argv = ["eyespot", "pretrain", "mae_tiny", "--data.shards", "my photos"]
        runs.append(write_run(tmp_path / name, run=run, argv=argv, world_size=2))
    return runs


def test_only_what_differs_stands_side_by_side(two):
    section = settings(read_stories(two))
    differing = {row[0]: row[1:] for row in section.data["differing"].rows}
    assert differing["optim.lr"] == ["0.001", "0.25"]
    assert set(differing) <= {"optim.lr", "data.shards", "data.name"}  # the folders of the two runs
    shared = dict(section.data["shared"].rows)
    assert not any(said.startswith("lr ") for said in shared["optim"].split(", ")) and "min lr" in shared["optim"]
    assert section.data["many"]


def test_one_run_has_all_its_settings(two):
    section = settings(read_stories(two[:1]))
    shared = dict(section.data["shared"].rows)
    assert section.data["differing"].rows == [] and not section.data["many"]
    assert "lr 0.001" in shared["optim"] and shared["code"] == "c0ffee" and shared["processes"] == "2"


def test_commands_survive_a_shell(two):
    commands = reproduce(read_stories(two)).data["commands"]
    assert [line for line in commands if line.startswith("#")] == ["# slow", "# fast"]
    (train, _) = (shlex.split(line) for line in commands if " pretrain " in line)
    assert train == ["eyespot", "pretrain", "mae_tiny", "--data.shards", "my photos"]
    assert commands.count("git checkout c0ffee") == 2
    assert shlex.split(commands[-1]) == ["eyespot", "report", *map(str, two)]


def test_uncommitted_changes_are_said(two):
    record = json.loads((two[0] / "run.json").read_text())
    assert not reproduce(read_stories(two)).data["changed"]
    (two[0] / "run.json").write_text(json.dumps(record | {"git_diff_sha256": "e" * 64}))
    stories = read_stories(two)
    assert reproduce(stories).data["changed"]
    assert "c0ffee with uncommitted changes" in str(settings(stories).data["differing"].rows)


def test_how_far_it_is(two):
    line = {"step": 6, "time": 1.0, "loss": 0.5, "samples_seen": 12_345, "epoch": 1.5, "images_per_second": 100.0}
    (two[0] / "metrics.jsonl").write_bytes(encode(line))
    said = header(read_stories(two[:1]))
    assert said["state"] == "step 6 of 12: not complete yet."
    assert said["lead"].startswith("Training of test_vit at 16 × 16 pixels")
    (two[0] / "logs").mkdir(exist_ok=True)
    (two[0] / LOG).write_text("2026-01-01 00:00:00,000 ERROR stopped: by --stop-on-drift: x\n")
    stopped = header(read_stories(two[:1]))["state"]
    assert stopped == "step 6 of 12: not complete yet; its log ends: stopped: by --stop-on-drift: x."
    (two[0] / LOG).rename(two[0].parent / "log")
    (two[0] / LOG).symlink_to(two[0].parent / "log")
    assert header(read_stories(two[:1]))["state"] == "step 6 of 12: not complete yet.", "a link that leads out"
    assert dict(said["tiles"]) | {"images seen": "12,345", "loss now": "0.5"} == dict(said["tiles"])
    assert header(read_stories(two))["lead"] == "2 runs side by side."


def test_only_files_that_are_there_and_links_where_they_work(two, tmp_path):
    (beside,) = files(read_stories(two[:1]), two[0] / "report.html").data["folders"]
    assert beside["linked"] and [name for name, _ in beside["files"]] == [
        "run.json",
        "eval",
        "checkpoints/step-00000012",
    ]
    (elsewhere,) = files(read_stories(two[:1]), tmp_path / "report.html").data["folders"]
    assert not elsewhere["linked"]
