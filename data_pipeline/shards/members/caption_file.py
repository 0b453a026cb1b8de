"""Captions of a whole source in one file: rows of CSV, or lines of JSON, each of one image.

    file,caption                                       {"file": "a/1.jpg", "caption": "A dog runs."}
    a/1.jpg,A dog runs.                                {"file": "a/1.jpg", "caption": ["A dog.", "It runs."]}

They are written into one file of the spool folder, each sample's captions line by line, as a .txt beside its image has
them; whether they can be used is seen there, as of any other.
"""

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.items import Item, Source
from eyespot.data_pipeline.shards.members.skipped import Tally, printable

COLUMNS = ("file", "caption")
LONGEST_ROW = 2**20
"""Characters."""
EXTENSION = "txt"


def caption_options(path: Path) -> dict[str, str]:
    """What to note of such a file.

    Raises:
        UserError: there is none.
    """
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UserError(
            f"captions {path}: neither a .csv nor a .jsonl file; write one row for each image: file,caption"
        )
    if not path.is_file():
        raise UserError(f"captions {path}: no such file; it has one row for each image: file,caption")
    with path.open("rb") as file:
        return {"captions": printable(path.name), "captions_sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def add_captions(source: Source, path: Path, spool: Path) -> None:
    """Names their captions to the images of a source; those that name no image are counted.

    Raises:
        UserError: the file cannot be read as what it is called, names no image, or one that has captions already.
    """
    captions = _read(path, source.skipped)
    target, found = spool / "captions.raw", 0
    with target.open("wb") as file:

        def captioned(item: Item) -> Item:
            text = captions.pop(_name(item.name), None)
            if text is None:
                return item
            if any(extension == EXTENSION for extension, _ in item.members):
                raise UserError(f"captions {path}: {item.name} has captions there and in a .txt beside it; remove one")
            begin = file.tell()
            file.write(text)
            place = Place(str(target), begin, len(text))
            return item._replace(members=tuple(sorted((*item.members, (EXTENSION, place)))))

        for split, items in source.splits.items():
            source.splits[split] = [captioned(item) for item in items]
            found += sum(new is not old for new, old in zip(source.splits[split], items, strict=True))
    if not found:
        first = next((item.name for items in source.splits.values() for item in items), "none")
        asked = next(iter(captions), "none")
        raise UserError(f"captions {path}: name no image of the source; there {asked!r}, here {first!r}")
    for name in captions:
        source.skipped.add("captions of an image that is not there (--captions)", name)


def _read(path: Path, skipped: Tally) -> dict[str, bytes]:
    """The captions of each file, line by line."""
    captions: dict[str, bytes] = {}
    rows = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    for name, caption in rows(path):
        line = _bytes(" ".join(caption.splitlines())).strip()
        if not line:
            skipped.add("an empty caption (--captions)", name)
            continue
        captions[name] = captions.get(name, b"") + line + b"\n"
    return captions


def _csv_rows(path: Path) -> Iterator[tuple[str, str]]:
    """Bytes that are no UTF-8 stay what they are: their captions will be left out, and named."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        try:
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise UserError(f"captions {path}: its first line must name the columns file and caption")
            for row in reader:
                if row["caption"] is None:
                    raise UserError(f"captions {path}: line {reader.line_num} has no caption")
                yield _name(row["file"]), row["caption"]
        except csv.Error as error:
            raise UserError(f"captions {path}: line {reader.line_num + 1} is no CSV ({error})") from error


def _json_rows(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        number = 0
        while line := file.readline(LONGEST_ROW):
            number += 1
            if not line.strip():
                continue
            try:
                row: Any = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"captions {path}: line {number} is no JSON, or is too long ({error})") from error
            texts = row.get("caption") if isinstance(row, dict) else None
            texts = [texts] if isinstance(texts, str) else texts
            name = row.get("file") if isinstance(row, dict) else None
            if not isinstance(name, str) or not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
                raise UserError(f'captions {path}: line {number} is not {{"file": "a/1.jpg", "caption": "..."}}')
            yield from ((_name(name), text) for text in texts)


def _name(file: str) -> str:
    """As the source calls it."""
    return printable(file).removeprefix("./")


def _bytes(text: str) -> bytes:
    """UTF-8; of half characters, and bytes that were none, something that is no UTF-8 either."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # halves of characters that JSON wrote as escapes
        return text.encode("utf-8", "surrogatepass")
