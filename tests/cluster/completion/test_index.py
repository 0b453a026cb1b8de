"""The index is read without torch, and is known to be old when the code is another."""

import os
import time

import pytest

from eyespot.cluster.completion import index as module
from eyespot.cluster.completion.index import Index, file_of_index, read_index, refresh_behind
from eyespot.cluster.completion.index import recipe_names as named_in_texts
from eyespot.pretrain.recipe_lookup import recipe_names


def test_names_of_recipes_out_of_their_texts():
    assert named_in_texts() == sorted(recipe_names())


def test_another_state_of_the_code_makes_it_old(index, monkeypatch, tmp_path):
    assert index.is_fresh
    for part in ("cluster", "data_pipeline", "eval", "pretrain"):
        (tmp_path / part).mkdir()
    here = file_of_index()
    monkeypatch.setattr(module, "file_of_index", lambda: here)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    old = read_index()
    assert not old.is_fresh and old.recipes == index.recipes


def test_there_may_be_none_or_a_damaged_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert read_index() == Index()
    file_of_index().parent.mkdir()
    kinds = ('{"key": 1, "commands": 5}', '{"key": 1, "run": {"--a": [1]}}', '{"key": 1, "protocols": null}')
    for damaged in ("", "[]", "{}", '{"key": 1, "what": 2}', "[" * 200_000, *kinds):
        file_of_index().write_text(damaged)
        assert read_index() == Index()
    file_of_index().unlink()
    os.mkfifo(file_of_index())
    assert read_index() == Index()


PROGRAM = "import sys\nwith open({file!r}, 'a') as file:\n    file.write(' '.join(sys.argv[1:]) + '\\n')\n"


def wait_for(done, seconds):
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """The current folder, which holds modules named like ours and Python's; the file says which of them have run."""
    folder, ran = tmp_path / "stranger", tmp_path / "ran"
    (folder / "eyespot").mkdir(parents=True)
    for name in ("eyespot/__init__.py", "eyespot/__main__.py", "json.py", "socket.py"):
        (folder / name).write_text(PROGRAM.format(file=str(ran)))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return ran


def test_it_is_made_behind_a_tab_once_in_a_while(stranger, tmp_path, monkeypatch):
    """By a small program in place of ours; nothing of the folder in which TAB is pressed runs."""
    calls = tmp_path / "calls"
    (tmp_path / "program" / "eyespot").mkdir(parents=True)
    (tmp_path / "program" / "eyespot" / "__init__.py").touch()
    (tmp_path / "program" / "eyespot" / "__main__.py").write_text(PROGRAM.format(file=str(calls)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "program"))
    refresh_behind()
    refresh_behind()
    wait_for(calls.is_file, 60)
    (note,) = (tmp_path / "cache" / "eyespot").iterdir()
    os.utime(note, (0, 0))
    refresh_behind()
    wait_for(lambda: calls.read_text() == 2 * "completion --refresh\n", 60)
    monkeypatch.setenv("XDG_CACHE_HOME", str(note / "no folder"))
    refresh_behind()
    assert not stranger.exists() and calls.read_text().count("\n") == 2


@pytest.mark.thorough
def test_what_is_made_behind_a_tab_is_the_index(stranger, index, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    refresh_behind()
    wait_for(lambda: read_index().is_fresh, 300)
    assert read_index() == index and not stranger.exists()
