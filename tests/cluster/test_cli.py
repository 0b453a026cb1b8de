"""The console command as a person meets it: help, exit codes, one line for what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eyespot.cluster.cli import COMMANDS, main
from eyespot.data_pipeline.exit_codes import ExitCode

EYESPOT = str(Path(sys.executable).parent / "eyespot")


def refuse(capsys, *words: str) -> str:
    """The one line that the command answers, with exit code 2."""
    assert main(list(words)) == 2
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert len(lines) == 1, output.err
    assert "Traceback" not in output.out
    return lines[0]


def test_every_command_is_a_file_and_every_file_a_command():
    files = Path(__file__).parents[2].joinpath("cluster", "commands").glob("*.py")
    assert {path.stem for path in files} == {"__init__", *COMMANDS} - {"completion"}, "it has a folder of its own"


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert name in text


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_its_help(command):
    done = subprocess.run([EYESPOT, command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"eyespot {command}" in done.stdout


def test_version_is_the_packages():
    done = subprocess.run([EYESPOT, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("eyespot 0.")


LONG = "x" * 300
"""Of a path; 255 bytes is what file systems take."""
NAMED_TOO_LONG = [
    *([command, LONG] for command in ("doctor", "status", "report")),
    *(["shards", command, LONG] for command in ("verify", "info", "index")),
    ["shards", "pack", LONG, "DST"],
    ["eval", "knn", "RUN", LONG],
    ["pretrain", "mae_tiny", "--data.shards", LONG, "--run-dir", "RUN"],
    ["pretrain", "mae_tiny", "--data.shards", "SHARDS", "--run-dir", LONG],
]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["fly"], "command 'fly'"),
        (["x" * 5000], "x ... x"),
        (["pretrain", "x" * 5000], " ... "),
        (["plan", "mae_tiny", "--spare-share", "2"], "spare_share 2.0: must be"),
        (["pretrain", "mae_tinny"], "perhaps you meant mae_tiny"),
        (["pretrain", "--steps", "3"], "recipe: missing before --steps"),
        (["pretrain", "mae_tiny", "--stepps", "3"], "--stepps"),
        (["pretrain", "mae_tiny", "--steps", "many"], "--steps"),
        (["pretrain", "mae_tiny", "--steps", "0"], "steps 0: must be 1 or more"),
        (["pretrain", "mae_tiny", "--optim.lr", "-1"], "optim.lr -1.0: must be above 0"),
        (["pretrain", "mae_tiny", "--objective.mask-ratio", "2"], "objective.mask_ratio 2.0"),
        (["pretrain", "mae_tiny", "--precision", "fp8"], "--precision"),
        (["pretrain", "--from", "absent"], "no"),
        *((words, "File name too long") for words in NAMED_TOO_LONG),
    ],
)
def test_wrong_words_are_one_line(words, answer, capsys):
    assert answer in refuse(capsys, *words)


def test_missing_and_empty_shards_are_one_line(capsys, tmp_path):
    run = ["--run-dir", str(tmp_path / "run")]
    assert "data.shards: not given" in refuse(capsys, "pretrain", "mae_tiny", *run)
    words = ["pretrain", "mae_tiny", *run, "--data.shards"]
    assert "no such folder" in refuse(capsys, *words, str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    assert "no manifest.json inside" in refuse(capsys, *words, str(tmp_path / "empty"))


def test_a_corrupt_checkpoint_is_one_line(capsys, tmp_path, digits):
    words = ["pretrain", "mae_tiny", "--data.shards", str(digits), "--run-dir", str(tmp_path / "run"), "--no-track"]
    words += ["--data.batch-size", "16", "--steps", "4", "--picture-every", "0", "--resume", "auto"]
    assert main([*words, "--stop-after", "2"]) == 0
    path = next((tmp_path / "run" / "checkpoints" / "step-00000002").glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    capsys.readouterr()
    assert main(words) == 2
    assert "is damaged (sha256 differs)" in capsys.readouterr().err.splitlines()[-1]


def test_repeating_a_run_from_its_record(tmp_path, digits):
    words = ["pretrain", "mae_tiny", "--data.shards", str(digits), "--run-dir", str(tmp_path / "one"), "--no-track"]
    words += [
        "--data.batch-size",
        "16",
        "--steps",
        "3",
        "--picture-every",
        "0",
        "--log-every",
        "1",
        "--optim.lr",
        "0.01",
    ]
    assert main(words) == 0
    assert main(["pretrain", "--from", str(tmp_path / "one"), "--run-dir", str(tmp_path / "two")]) == 0
    losses = [
        [
            line.split('"loss": ')[1].split(",")[0]
            for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in ("one", "two")
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("words", ["--help", "recipes", "shards nonsense"])
def test_whoever_closes_the_pipe_gets_no_traceback(words: str):
    """The reader is gone before the first line; what is said of wrong input goes into the same pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    wrong = "nonsense" in words
    errors = writer if wrong else subprocess.PIPE
    done = subprocess.run([EYESPOT, *words.split()], stdout=writer, stderr=errors, check=False)
    os.close(writer)
    assert done.returncode == ExitCode.UNREAD and not done.stderr, done.stderr


def test_a_pipe_that_is_read_by_head_to_its_first_line():
    shell = f"{EYESPOT} --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.stdout == "usage: eyespot COMMAND ...\n" and not done.stderr
    assert done.returncode in (ExitCode.DONE, ExitCode.UNREAD), "it may all have been written before head went away"


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_without_an_output_it_ends_as_with_one(closed: str):
    done = subprocess.run(["bash", "-c", f"{EYESPOT} --help {closed}"], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.DONE and not done.stderr


@pytest.mark.parametrize("words", ["--help", "recipes"])
def test_an_output_onto_a_full_disk_ends_in_a_line(words: str):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([EYESPOT, words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr == "eyespot: the output cannot be written: its disk is full; make room there\n"


def test_a_pipe_to_somebody_else_that_breaks_is_no_end_of_our_output(monkeypatch: pytest.MonkeyPatch, capfd):
    def broken(argv: list[str]) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("eyespot.cluster.commands.recipes.main", broken)
    with pytest.raises(BrokenPipeError):
        main(["recipes"])
