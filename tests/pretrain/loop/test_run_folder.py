"""Who may write to a run folder, and how long a restarted run waits for the last one's processes."""

import errno
import fcntl
import logging
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tokenizers

from eyespot.data_pipeline.augment.views import TextView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.tokenizer import tokenizer_digests
from eyespot.data_pipeline.shards.manifest import ImageStats, Manifest
from eyespot.pretrain.loop.run_folder import LogFile, RunFolder, _page_tags
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import recorded_values
from eyespot.pretrain.run_record import RunRecord
from eyespot.pretrain.tracking.mlflow_pages import NOTE_TAG

HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write("process 5 on elsewhere")
file.flush()
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("EYESPOT_ATTEMPT", raising=False)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    return tmp_path / "run"


def hold(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """Another process that has the folder for so long."""
    folder.mkdir()
    words = [sys.executable, "-c", HOLDER, str(folder / ".lock"), str(seconds)]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def open_folder(folder: Path, timeout_seconds: float) -> RunFolder:
    run = make_run("mae_tiny")
    run.run_dir, run.rank_timeout_seconds = folder, timeout_seconds
    return RunFolder(run, "mae_tiny", 0)


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("/usr/bin/eyespot", True),
        ("/x/site-packages/eyespot/__main__.py", True),
        ("/x/eyespot/cluster/cli.py", True),
        ("/x/ipykernel_launcher.py", False),
        ("/x/mine/cli.py", False),
        ("/x/mine/__main__.py", False),
    ],
)
def test_the_description_names_a_command_only_where_one_began_the_run(program, told):
    words = ["pretrain", "mae_tiny"] if told else ["-f", "kernel-1.json"]
    text = _page_tags(make_run("mae_tiny"), "mae_tiny", RunRecord(argv=[program, *words]))[NOTE_TAG]
    assert ("\n\n```\neyespot pretrain mae_tiny\n```\n\n" in text) is told
    assert "kernel" not in text and "```\n" * 2 not in text and "| next |" in text


def test_the_description_takes_no_text_of_a_notebook(monkeypatch):
    run = make_run("mae_tiny")
    monkeypatch.setattr(sys.modules["__main__"], "__doc__", "Automatically created module")
    monkeypatch.setattr(type(run.objective), "__module__", "__main__")
    text = _page_tags(run, "mine", RunRecord(argv=["/x/train.py"]))[NOTE_TAG]
    assert text.startswith("**mine**\n\n| next |")


def test_a_first_start_refuses_at_once(folder):
    holder = hold(folder, 60)
    began = time.monotonic()
    with pytest.raises(UserError, match="in use by process 5 on elsewhere; wait for it"):
        open_folder(folder, 600.0)
    assert time.monotonic() - began < 25
    holder.kill()
    holder.wait()


def test_a_restarted_run_waits_for_the_end_of_the_last_start(folder, monkeypatch, caplog):
    monkeypatch.setenv("EYESPOT_ATTEMPT", "2")
    holder = hold(folder, 1.5)
    opened = open_folder(folder, 60.0)
    assert holder.wait(1.0) == 0
    (line,) = [record.message for record in caplog.records]
    assert line == f"run_dir {folder}: in use by process 5 on elsewhere; waiting up to 48 s for its end"
    with (folder / ".lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    opened.close()


def test_it_does_not_wait_for_ever(folder, monkeypatch):
    monkeypatch.setenv("EYESPOT_ATTEMPT", "2")
    holder = hold(folder, 60)
    began = time.monotonic()
    with pytest.raises(UserError, match="in use by"):
        open_folder(folder, 1.0)
    assert 0.8 <= time.monotonic() - began < 25
    holder.kill()
    holder.wait()


def test_a_run_goes_on_with_its_tokenizer_wherever_that_lies(folder, tmp_path):
    names = [tmp_path / "here.json", tmp_path / "there.json", tmp_path / "another.json"]
    for name, words in zip(names, ({"a": 0}, {"a": 0}, {"b": 0}), strict=True):
        tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=next(iter(words)))).save(str(name))
    runs = [make_run("clip_tiny") for _ in names]
    for run, name in zip(runs, names, strict=True):
        run.run_dir, run.resume = folder, "auto"
        run.objective.text = TextView(tokenizer=str(name), context=16)
    folder.mkdir()
    digests = tokenizer_digests(ViewSpec(views=(runs[0].objective.text,)))
    RunRecord(recipe="clip_tiny", run=recorded_values(runs[0]), run_key="a", tokenizers=digests).write(folder)
    for run in runs[:2]:
        RunFolder(run, "clip_tiny", 0).close()
    with pytest.raises(UserError, match=rf"objective\.text\.tokenizer '{names[2]}': is not the one that the run began"):
        RunFolder(runs[2], "clip_tiny", 0)


def tracked(folder: Path) -> RunFolder:
    """An open run folder that has its metrics."""
    opened = open_folder(folder, 60.0)
    run = make_run("mae_tiny")
    run.run_dir, run.track = folder, False
    stats = ImageStats(mean=(0.5,) * 3, std=(0.5,) * 3, height=(8,) * 3, width=(8,) * 3)
    manifest = Manifest(
        name="a", num_samples=1, num_labeled=0, classes=[], shards=[], image_stats=stats, index_sha256=""
    )
    opened.open_tracker(run, "mae_tiny", manifest, 1)
    return opened


@pytest.mark.parametrize(
    ("take", "words"),
    [
        (lambda folder: shutil.rmtree(folder), "run_dir .*: was deleted or moved away"),
        (lambda folder: folder.rename(folder.with_name("elsewhere")), "was deleted or moved away"),
        (lambda folder: (folder.rename(folder.with_name("elsewhere")), folder.mkdir()), "was deleted or moved away"),
        (lambda folder: (folder / "metrics.jsonl").unlink(), "metrics.jsonl: was deleted or replaced"),
        (lambda folder: (folder / "new").rename(folder / "metrics.jsonl"), "metrics.jsonl: was deleted or replaced"),
    ],
)
def test_what_is_taken_away_is_noticed(folder, take, words):
    opened = tracked(folder)
    (folder / "new").touch()
    assert opened.lost(0.0) is None
    take(folder)
    assert opened.lost(60.0) is None, "it does not look at each step"
    assert re.search(words, opened.lost(0.0))
    opened.close()


def test_a_folder_that_cannot_be_made_is_wrong_input_and_an_outage_is_not(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"/file/run: cannot be written \(Not a directory\); choose another"):
        open_folder(tmp_path / "file" / "run", 60.0)

    def fail(self, **options):
        raise OSError(errno.EIO, "Input/output error", str(self))

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(OSError, match="Input/output error"):
        open_folder(tmp_path / "run", 60.0)


@pytest.fixture
def log(tmp_path):
    logger = logging.Logger("of_this_test")
    handler = LogFile(tmp_path / "logs" / "rank-0.log")
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_a_file_that_was_deleted_is_made_anew(log, tmp_path):
    path = tmp_path / "logs" / "rank-0.log"
    log.warning("one")
    path.unlink()
    log.warning("two")
    assert path.read_text() == "two\n"


def test_a_folder_that_is_gone_is_said_once(log, tmp_path, capsys):
    shutil.rmtree(tmp_path / "logs")
    for _ in range(3):
        log.warning("one")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "rank-0.log: cannot be written ([Errno 2]" in said


def test_a_full_disk_is_said_once(capsys):
    logger = logging.Logger("of_this_test")
    handler = LogFile(Path("/dev/full"))
    logger.addHandler(handler)
    for _ in range(3):
        logger.warning("one")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "No space left" in said
