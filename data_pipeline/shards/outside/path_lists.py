"""Lists of images: rows of CSV or TSV, or lines of JSON, each with the path of a file, and its label and captions.

    file,label,caption                          {"file": "a/1.jpg", "label": "dog", "caption": "A dog runs."}
    a/1.jpg,dog,A dog runs.

Paths are absolute, or relative to the folder of the list. Nothing of a list is held but what is kept of each file.
"""

import csv
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.caption_file import LONGEST_ROW
from eyespot.data_pipeline.shards.members.captions import LARGEST_TEXT
from eyespot.data_pipeline.shards.members.class_names import SPLIT_FOLDERS
from eyespot.data_pipeline.shards.members.found_files import TEXT, FoundFile, FoundFiles, parts_of
from eyespot.data_pipeline.shards.members.samples import LONGEST_LABEL
from eyespot.data_pipeline.shards.members.skipped import Tally, printable
from eyespot.data_pipeline.shards.outside.columns import Chosen, Column, choose
from eyespot.data_pipeline.terminal import one_line

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
MOST_COLUMNS = 10_000
Row = Mapping[str, Any]


def read_list(path: Path, spool: Path, asked: Mapping[str, str], skipped: Tally) -> FoundFiles:
    """The files that a list names, with what it says of each.

    Raises:
        UserError: it is not what it is called, or names no column of paths.
    """
    where = f"source {path}"
    rows = _json_rows(path, where) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(path, where)
    folder, files, chosen = path.absolute().parent, FoundFiles(os.fspath(path.absolute().parent)), None
    target, end = spool / "captions-of-list.raw", 0
    with target.open("wb") as file:
        for number, row in rows:
            chosen = chosen or choose(where, [_column(name, row[name]) for name in row], asked, paths=True)
            found = _found(row, chosen, folder, f"{path.name}:{number}", skipped)
            if found is None:
                continue
            if text := _captions(row, chosen, f"{path.name}:{number}", skipped):
                file.write(text)
                found = found._replace(members=((TEXT, Place(str(target), end, len(text))),))
                end += len(text)
            files.append(found)
    if chosen is None:
        raise UserError(f"{where}: is empty; its first line names the columns, as in file,label")
    return files


def _found(row: Row, chosen: Chosen, folder: Path, where: str, skipped: Tally) -> FoundFile | None:
    """The file of a row; None = it is counted as skipped."""
    name = row.get(chosen.image.name)
    if not isinstance(name, str) or not name.strip():
        skipped.add("a row without a path", where)
        return None
    name = _whole(name.strip())
    if "://" in name:
        skipped.add("an address, not a path (fetch them first, for instance with img2dataset)", name)
        return None
    name = name.removeprefix("./")
    path = f"{folder}{os.sep}{name}" if not os.path.isabs(name) else name  # noqa: PTH117
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError, UnicodeError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        skipped.add("no such file" if missing else "a file that cannot be opened", name)
        return None
    if not stat.S_ISREG(status.st_mode):
        skipped.add("a folder, a device, a pipe or the like", name)
        return None
    label, split = (_text(row, column) for column in (chosen.label, chosen.split))
    if label is not None and len(label) > LONGEST_LABEL:
        skipped.add(f"a label of more than {LONGEST_LABEL:,} characters (the image is taken)", name)
        label = ""
    if split is not None and split.lower() not in SPLIT_FOLDERS:
        skipped.add("of a split that is neither train, val nor test", name)
        return None
    known = None if split is None else SPLIT_FOLDERS[split.lower()]
    return FoundFile(name, parts_of(name), Place(path, 0, status.st_size), label, split=known)


def _text(row: Row, column: Column | None) -> str | None:
    """Of one field; None = there is no such column."""
    if column is None:
        return None
    value = row.get(column.name)
    return printable(_whole(str(value))).strip() if isinstance(value, str | int) else ""


def _whole(text: str) -> str:
    """Halves of characters, which JSON can write, spelled out; bytes that are no UTF-8 stay what they are."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def _captions(row: Row, chosen: Chosen, where: str, skipped: Tally) -> bytes:
    if chosen.caption is None:
        return b""
    value = row.get(chosen.caption.name)
    texts = value if isinstance(value, list) else [value]
    lines = [line for text in texts if isinstance(text, str) and (line := " ".join(text.splitlines()).strip())]
    if not lines:
        skipped.add("an empty caption (the image is taken)", where)
    text = "".join(f"{line}\n" for line in lines)[: LARGEST_TEXT + 1]
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _column(name: str, value: Any) -> Column:
    kinds = {str: "text", int: "number", bool: "number", type(None): "text", list: "texts"}
    return Column(name, kinds.get(type(value), "other"))


def _csv_rows(path: Path, where: str) -> Iterator[tuple[int, Row]]:
    """Bytes that are no UTF-8 stay what they are, in paths as everywhere else."""
    tabs = path.suffix.lower() == ".tsv"
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(_lines(file, where), "excel-tab" if tabs else "excel")
        try:
            names = next(reader, [])
            if len(names) > MOST_COLUMNS or len(set(names)) != len(names):
                raise UserError(f"{where}: its first line must name the columns, each once, as in file,label")
            for values in reader:
                if not values:
                    continue
                if len(values) != len(names):
                    raise UserError(
                        f"{where}: line {reader.line_num} has {len(values)} fields where the first line names"
                        f" {len(names)} columns; quote what holds a {'tab' if tabs else 'comma'}"
                    )
                yield reader.line_num, dict(zip(names, values, strict=True))
        except csv.Error as error:
            raise UserError(f"{where}: line {reader.line_num + 1} is no CSV ({error})") from error


def _lines(file: Any, where: str) -> Iterator[str]:
    """The lines of a file, none of which fills the memory."""
    number = 0
    while line := file.readline(LONGEST_ROW):
        number += 1
        if len(line) >= LONGEST_ROW:
            raise UserError(f"{where}: line {number} has more than {LONGEST_ROW:,} characters; it is no list of paths")
        yield line


def _json_rows(path: Path, where: str) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(_lines(file, where), 1):
            if not line.strip():
                continue
            try:
                row: Any = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: line {number} is no JSON ({one_line(str(error))[:200]})") from error
            if not isinstance(row, dict) or len(row) > MOST_COLUMNS:
                raise UserError(f'{where}: line {number} is not {{"file": "a/1.jpg", "label": "dog"}}')
            yield number, row
