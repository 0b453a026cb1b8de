"""What is read of a run folder, and that nothing outside is."""

import os

import pytest
from watched_runs import begin_run

from eyespot.cluster.web import run_files
from eyespot.cluster.web.run_files import NUM_LINES, RunFiles


@pytest.fixture
def run_dir(tmp_path):
    run = tmp_path / "run"
    for name in ("logs", "pictures", "eval"):
        (run / name).mkdir(parents=True)
    (tmp_path / "secret.png").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "rank-0.log").write_text("secret\n")
    return run


def test_the_end_of_a_log(run_dir):
    (run_dir / "logs" / "rank-10.log").write_text("x\n")
    text = "".join(f"2026-01-01 00:00:00,000 INFO step {step}\n" for step in range(9000))
    warning = "2026-01-01 00:00:00,000 WARNING \x1b[31m<b>\n"
    (run_dir / "logs" / "rank-2.log").write_text(f"{text}{warning}{warning}half a li")
    files = RunFiles(run_dir)
    log = files.log(2)
    assert files.ranks() == [2, 10] and len(log.lines) == NUM_LINES
    assert log.lines[-3].endswith("step 8999") and "\x1b" not in log.lines[-1]
    assert files.warnings(log) == ["2026-01-01 00:00:00,000 WARNING \\x1b[31m<b>"]


def test_a_log_of_one_endless_line(run_dir):
    (run_dir / "logs" / "rank-0.log").write_text("x" * 10**6)
    assert RunFiles(run_dir).log(0).lines == []


def test_pictures_by_their_names_alone(run_dir):
    for name in ("step-1.png", "step-2.webp", "notes.txt", ".hidden.png", "page.svg"):
        (run_dir / "pictures" / name).write_text(name)
    files = RunFiles(run_dir)
    assert files.pictures() == ["step-2.webp", "step-1.png"]
    assert files.picture("step-1.png") == ("image/png", b"step-1.png")
    (run_dir / "pictures" / "link.png").symlink_to("../../secret.png")
    for name in (
        "link.png",
        "../../secret.png",
        "..",
        "",
        "/etc/passwd",
        "a\0.png",
        "page.svg",
        "notes.txt",
        "none.png",
    ):
        with pytest.raises(OSError):
            files.picture(name)


def test_links_out_of_the_folder_are_not_followed(run_dir, tmp_path):
    (run_dir / "logs").rmdir()
    (run_dir / "logs").symlink_to(tmp_path / "outside")
    assert RunFiles(run_dir).ranks() == [] and RunFiles(run_dir).log(0).lines == []
    (run_dir / "pictures").rmdir()
    (run_dir / "pictures").symlink_to(tmp_path)
    assert RunFiles(run_dir).pictures() == []
    with pytest.raises(OSError):
        RunFiles(run_dir).picture("secret.png")


def test_records_and_results_behind_links_are_not_read(run_dir, tmp_path):
    begin_run(tmp_path / "private" / "cluster")
    (run_dir / "cluster").symlink_to(tmp_path / "private" / "cluster")
    story = RunFiles(run_dir).story("name")
    assert story.record.run == {} and story.record.recipe == ""
    (run_dir / "run.json").symlink_to(tmp_path / "private" / "cluster" / "run.json")
    assert RunFiles(run_dir).story("name").record.recipe == ""


def test_a_damaged_record_and_results_are_left_out(run_dir):
    (run_dir / "run.json").write_text("[" * 10_000)
    (run_dir / "eval" / "a.json").write_text('{"key": 1}')
    story = RunFiles(run_dir).story("name")
    assert story.results == [] and story.record.run == {} and story.data_name == "SHARDS"


def test_of_results_that_are_too_many_the_newest_are_read(run_dir, monkeypatch):
    read = []
    monkeypatch.setattr(run_files, "MOST_RESULT_BYTES", 250)
    monkeypatch.setattr(run_files, "read_result", lambda path, inside: read.append(path.name))
    for number in range(5):
        (run_dir / "eval" / f"{number}.json").write_text(" " * 100)
        os.utime(run_dir / "eval" / f"{number}.json", (1000 - number, 1000 - number))
    (run_dir / "eval" / "link.json").symlink_to("../run.json")
    assert RunFiles(run_dir).story("name").results == [] and read == ["0.json", "1.json"]


def test_its_state_changes_with_its_results(run_dir):
    before = RunFiles(run_dir).state()
    assert before == RunFiles(run_dir).state()
    (run_dir / "eval" / "a.json").write_text("{}")
    assert before != RunFiles(run_dir).state()
