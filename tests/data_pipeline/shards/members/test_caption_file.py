"""Captions of a whole source in one file."""

import json
from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.caption_file import add_captions, caption_options
from eyespot.data_pipeline.shards.members.items import Item, Source


def source(*names: str, **more) -> Source:
    return Source(name="set", splits={"train": [Item(name, -1, "", 0, 0, **more) for name in names]})


def texts(found: Source) -> list[bytes | None]:
    return [dict(item.members)["txt"].read() if item.members else None for item in found.splits["train"]]


ROWS = [
    ("a/1.jpg", "A “dog”,\nrunning. 🐕"),
    ("a/1.jpg", "a dog"),
    ("./a/3.jpg", " 猫 "),
    ("b/9.jpg", "x"),
    ("a/2.jpg", " "),
]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_captions_find_their_images(tmp_path: Path, kind: str):
    path = tmp_path / f"captions.{kind}"
    if kind == "csv":
        quoted = ['"{}","{}",7'.format(name, text.replace('"', '""')) for name, text in ROWS]
        path.write_text("\n".join(["\ufefffile,caption,score", *quoted]) + "\n", encoding="utf-8")
    else:
        lists = [{"file": name, "caption": text if number else [text]} for number, (name, text) in enumerate(ROWS)]
        path.write_text("\n".join(map(json.dumps, lists)) + "\n\n")
    found = source("a/1.jpg", "a/2.jpg", "a/3.jpg")
    add_captions(found, path, tmp_path)
    assert texts(found) == ["A “dog”, running. 🐕\na dog\n".encode(), None, "猫\n".encode()]
    assert {one.reason: one.examples for one in found.skipped.listed()} == {
        "captions of an image that is not there (--captions)": ["b/9.jpg"],
        "an empty caption (--captions)": ["a/2.jpg"],
    }
    assert caption_options(path)["captions"] == path.name


def test_bytes_that_are_no_text_stay_so_and_are_left_out_later(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"file,caption\n1.jpg,caf\xe9\n")
    found = source("1.jpg")
    add_captions(found, path, tmp_path)
    assert texts(found) == [b"caf\xe9\n"]
    (tmp_path / "a.jsonl").write_text('{"file": "1.jpg", "caption": "\\ud83d!"}')
    add_captions(found := source("1.jpg"), tmp_path / "a.jsonl", tmp_path)
    assert texts(found) == [b"\xed\xa0\xbd!\n"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"image,caption\n1.jpg,a\n", "must name the columns file and caption"),
        ("a.csv", b"file,caption\n1.jpg\n", "line 2 has no caption"),
        ("a.csv", b"file,caption\n2.jpg,a\n", "name no image of the source; there '2.jpg', here '1.jpg'"),
        ("a.csv", b"file,caption\n1.jpg," + b"x" * 200_000, "line 2 is no CSV"),
        ("a.jsonl", b'{"file": "1.jpg"}\n', "line 1 is not"),
        ("a.jsonl", b'{"file": "1.jpg", "caption": [3]}\n', "line 1 is not"),
        ("a.jsonl", b"\n" + b"[" * 10_000, "line 2 is no JSON"),
        ("a.tsv", b"", "neither a .csv nor a .jsonl file"),
        ("missing.csv", None, "no such file"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, name: str, content: bytes | None, said: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        caption_options(tmp_path / name)
        add_captions(source("1.jpg"), tmp_path / name, tmp_path)
    assert "\n" not in str(error.value)


def test_captions_in_two_places_are_refused(tmp_path: Path):
    (tmp_path / "a.csv").write_text("file,caption\n1.jpg,a\n")
    both = source("1.jpg", members=(("txt", Place("1.txt", 0, 3)),))
    with pytest.raises(UserError, match=r"1\.jpg has captions there and in a \.txt beside it; remove one"):
        add_captions(both, tmp_path / "a.csv", tmp_path)
