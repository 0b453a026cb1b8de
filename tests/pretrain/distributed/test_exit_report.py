"""Last words through a pipe."""

import json
import os

import pytest

from eyespot.pretrain.distributed.exit_report import ATTEMPT, LAST_WORDS, leave_words


@pytest.fixture
def pipe(monkeypatch):
    listen, speak = os.pipe()
    monkeypatch.setenv(LAST_WORDS, str(speak))
    yield listen
    os.close(listen)
    os.close(speak)


def test_one_line_without_secrets(pipe, monkeypatch):
    monkeypatch.setenv("THEIR_TOKEN", "abcdefgh123")
    leave_words("another rank", "rank 3 died\nwith abcdefgh123", [3])
    assert json.loads(os.read(pipe, 9999)) == {"kind": "another rank", "text": "rank 3 died with ***", "ranks": [3]}


def test_a_long_story_arrives_whole(pipe):
    leave_words("crash", "ä" * 100_000)
    line = os.read(pipe, 99_999)
    assert len(line) < 8000
    assert set(json.loads(line)["text"]) == {"ä"}


@pytest.mark.parametrize("number", ["", "nonsense", "987"])
def test_nobody_listens(number, monkeypatch):
    monkeypatch.setenv(LAST_WORDS, number)
    leave_words("crash", "to nobody")


def test_the_names_are_a_contract():
    assert (ATTEMPT, LAST_WORDS) == ("EYESPOT_ATTEMPT", "EYESPOT_LAST_WORDS")
