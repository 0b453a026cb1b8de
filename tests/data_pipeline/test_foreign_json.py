import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.foreign_json import ForeignJsonError


@dataclass(kw_only=True, slots=True)
class Part:
    bytes: int


@dataclass(kw_only=True, slots=True)
class Card:
    name: str
    parts: list[Part]
    color: tuple[float, float, float] = (0.0, 0.0, 0.0)
    notes: dict[str, Any] = field(default_factory=dict)


def test_a_dataclass_with_what_it_holds_is_read(tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    file.write_text('{"name": "a", "parts": [{"bytes": 3}], "color": [0, 1, 0.5], "of a newer version": 1}')
    assert foreign_json.read(file, Card) == Card(name="a", parts=[Part(bytes=3)], color=(0.0, 1.0, 0.5))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": "a", "parts": [{"bytes": "3"}]}', "parts[0].bytes: expected int, got str"),
        ('{"name": "a", "parts": [{"bytes": true}]}', "parts[0].bytes: expected int, got bool"),
        ('{"name": "a", "parts": null}', "parts: expected array, got null"),
        ('{"name": "a", "parts": [], "color": [1, 2]}', "color: expected array of length 3, got 2"),
        ('{"parts": []}', "missing required field name"),
        ("[]", "expected object, got array"),
        ("", "not JSON"),
        ("[" * 100_000, "nested too deep"),
        ('{"notes": ' * 100_000, "nested too deep"),
        ("1" * 100_000, "not JSON"),
        ('"\\udcff', "not JSON"),
    ],
)
def test_what_is_not_of_the_declared_kind_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "card.json"
    file.write_text(text)
    with pytest.raises(UserError) as refused:
        foreign_json.read(file, Card)
    said = str(refused.value).splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"{file}: ")
    assert words in said[0].replace("object missing", "missing")


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_bytes(b'{"name": "\xff"}')
    with pytest.raises(ForeignJsonError, match="not JSON"):
        foreign_json.read(tmp_path / "card.json", Card)


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    with file.open("wb") as opened:
        opened.truncate(5 * 2**30)  # sparse
    with pytest.raises(ForeignJsonError, match="over 1,000 bytes") as refused:
        foreign_json.read(file, Card, largest=1000)
    assert refused.value.why.startswith("over")


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "card.json")
    with pytest.raises(ForeignJsonError, match="not a plain file"):
        foreign_json.read(tmp_path / "card.json", Card)


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a plain file"):
        foreign_json.read(tmp_path, Card)


def test_a_file_that_is_not_there_stays_an_error_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        foreign_json.read(tmp_path / "card.json", Card)
