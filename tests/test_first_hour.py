"""What a person sees in the first hour, from pack to pull: lines that fit, no rubbish in a pipe, what comes next."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eyespot.cluster.cli import main

WIDEST = 120
HOUR = [
    "shards verify digits",
    "shards info digits",
    "shards show digits --recipe mae_tiny --samples 2",
    "pretrain mae_tiny --data.shards digits --run-dir runs/first --steps 2 --picture-every 0 --no-track",
    "eval knn runs/first digits",
    "eval compare runs/first --protocol knn",
    "status runs/first",
    "recipes mae",
]
LATER = [
    "shards pack photos packed",
    "pretrain mae_tiny --data.shards digits --run-dir runs/first --steps 2 --monitor-every 1",
    "eval linear runs/first digits",
    "eval unlabeled runs/first digits",
    "eval retrieval runs/first digits",
    "report runs/first",
    "release runs/first --license apache-2.0 --allow-dirty",
    "pull runs/first/release models/first",
    "sync runs/first",
    "plan mae_tiny",
    "recipes",
]
NO_NEXT = ("recipes", "sync")
"""Their last line is another one."""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch, digits, capfd) -> Callable[[str], list[str]]:
    """Runs a command in an empty folder, through a pipe, and returns the lines it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(digits, "digits")

    def run(command: str) -> list[str]:
        capfd.readouterr()
        code = main(command.split())
        done = capfd.readouterr()
        assert code == 0, done.err
        said = f"{done.out}{done.err}".replace(str(tmp_path), "/users/me")  # whose name may be of any length
        return said.splitlines()

    return run


def look_at(command: str, lines: list[str]) -> None:
    for line in lines:
        assert "\x1b" not in line and "\r" not in line, f"{command}: rubbish in a pipe: {line!r}"
        assert len(line) <= WIDEST, f"{command}: {len(line)} characters: {line}"
        assert not re.search(r"\b1 [a-z-]*(ranks|images|classes|steps|labels|runs|results|lines|GPUs)\b", line), line
    assert "Traceback" not in "\n".join(lines)
    if not command.startswith(NO_NEXT):
        assert re.match(r"(next: | {6})eyespot [a-z]+ ", lines[-1]), f"{command}: nothing comes after {lines[-1]!r}"


def test_the_first_hour(seen):
    for command in HOUR:
        look_at(command, seen(command))


@pytest.mark.thorough
def test_what_follows(seen, tmp_path):
    from PIL import Image

    for number in range(24):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (10 * number, 0, 0)).save(path)
    for command in LATER:
        look_at(command, seen(command))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "command",
    ["shards pack", "shards verify", "shards show", "eval", "eval compare", "report", "release", "pull", "sync"],
)
def test_help_texts_have_an_example_and_fit(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert ended.value.code == 0 and "For example" in said
    assert max(map(len, said.splitlines())) <= 80
