"""The index is read without torch, and is known to be old when the code is another."""

import os

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
    for damaged in ("", "[]", "{}", '{"key": 1, "what": 2}'):
        file_of_index().write_text(damaged)
        assert read_index() == Index()


def test_it_is_made_behind_a_tab_once_in_a_while(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    started = []
    monkeypatch.setattr(module.subprocess, "Popen", lambda words, **how: started.append(words))
    refresh_behind()
    refresh_behind()
    assert [words[-2:] for words in started] == [["completion", "--refresh"]]
    (note,) = (tmp_path / "eyespot").iterdir()
    os.utime(note, (0, 0))
    refresh_behind()
    assert len(started) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(note / "no folder"))
    refresh_behind()
    assert len(started) == 2
