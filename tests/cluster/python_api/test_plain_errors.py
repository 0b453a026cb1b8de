"""Errors of functions that a program calls."""

import pytest

from eyespot.cluster.python_api.plain_errors import plain_errors
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.shards.paged.file_sizes import MissingShards


@pytest.mark.parametrize(
    ("raised", "kind"),
    [(UserError, UserError), (Outage, Outage), (MissingShards, UserError)],
    ids=lambda kind: str(kind),
)
def test_what_a_stranger_called_a_file_reaches_no_terminal_raw(raised, kind, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret-of-mine")

    @plain_errors
    def fails(name: str) -> None:
        raise raised(f"file {name}: is not there")

    with pytest.raises(kind) as caught:
        fails("\x1b[31ma\nb secret-of-mine")
    assert str(caught.value) == "file \\x1b[31ma\\nb ***: is not there"
    assert "fails" in [entry.name for entry in caught.traceback], "where it came from stays in sight"


def test_a_path_that_is_too_long_is_the_users(tmp_path):
    with pytest.raises(UserError, match="File name too long; name another path"):
        plain_errors(lambda: (tmp_path / ("x" * 5000)).read_text())()
    with pytest.raises(FileNotFoundError):
        plain_errors(lambda: (tmp_path / "x").read_text())()


def test_all_else_is_as_it_was():
    @plain_errors
    def twice(value: int, *, more: int = 0) -> int:
        """Documented."""
        return 2 * value + more

    assert twice(2, more=1) == 5 and twice.__name__ == "twice" and twice.__doc__ == "Documented."


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("--image-size 5: lower it", "image_size 5: lower it"),
        ("data.shards: add --data.shards FOLDER", "data.shards: add data.shards FOLDER"),
        ("x; run: eyespot eval knn --seed 1; or --seed 2", "x; run: eyespot eval knn --seed 1; or seed 2"),
        ("add --trust-recipe mine", "add --trust-recipe mine"),
        ("a--b -- c", "a--b -- c"),
    ],
)
def test_flags_are_said_as_arguments(said, expected):
    def wrong():
        raise UserError(said)

    with pytest.raises(UserError) as caught:
        plain_errors(wrong)()
    assert str(caught.value) == expected
