"""What compressed tables hold, kept for the other tasks of one pack.

How large the images of such a table are is known once all of them have been unpacked, and all tasks must know it, to
agree on where shards begin. So whichever task reads a table first writes down what it found, some bytes for each row,
and the others read that. Tasks begin with different tables, and none waits for another one.

    DST/.parts/listed/table-000003.arrow    names, rows, sizes, labels and captions; of which table: its size, time, ...
"""

import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.ipc

from eyespot.data_pipeline import atomic_files, foreign_json
from eyespot.data_pipeline.shards.manifest import Skipped
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.found_files import TEXT, FoundFile, parts_of
from eyespot.data_pipeline.shards.members.skipped import Tally
from eyespot.data_pipeline.shards.outside.fetching import Rows
from eyespot.data_pipeline.shards.outside.rows import Found, Job

FORMAT = "eyespot-listing/1"
_NOTE = b"eyespot"
_AT_ONCE = 4096
"""Rows."""
_SCHEMA = pyarrow.schema(
    [
        ("name", pyarrow.binary()),  # may be no UTF-8, as that of a file
        ("row", pyarrow.int64()),
        ("size", pyarrow.int64()),
        ("text", pyarrow.binary()),
        ("captions", pyarrow.binary()),
    ]
)


class Known(NamedTuple):
    """What is noted of a table, beside its rows."""

    of: str
    """Which one it is, at what time."""
    column: str
    """Of the images."""
    classes: list[str]
    skipped: list[Skipped]
    format: str = FORMAT


def keep(job: Job, found: Found) -> None:
    """Writes down what a table holds, unless some of it lies there as plain bytes: then looking is cheap."""
    columns = {file.place.path.column if isinstance(file.place.path, Rows) else None for file in found.files}
    if len(columns) != 1 or None in columns:
        return
    known = Known(_identity(job), str(columns.pop()), list(found.classes), found.skipped.listed())
    note = known._asdict() | {"skipped": [asdict(one) for one in known.skipped]}
    schema = _SCHEMA.with_metadata({_NOTE: json.dumps(note).encode()})
    target = Path(job.listing)
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_name(f"{target.name}.{socket.gethostname()}-{os.getpid()}.tmp")  # others may write it, too
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with temporary.open("wb") as file:
        with pyarrow.ipc.new_file(file, schema, options=options) as writer:
            for start in range(0, len(found.files), _AT_ONCE):
                writer.write_batch(_batch(found.files[start : start + _AT_ONCE], job.spool, schema))
        atomic_files.sync(file.fileno())
    atomic_files.commit(temporary, target)


def kept(job: Job, alive: Callable[[], None]) -> Found | None:
    """What another task wrote down of a table; None = nothing, or of another table, or it cannot be read."""
    try:
        with pyarrow.memory_map(job.listing) as mapped:
            reader = pyarrow.ipc.open_file(mapped)
            known = foreign_json.parse((reader.schema.metadata or {}).get(_NOTE, b""), dict, job.listing)
            if (known.get("format"), known.get("of")) != (FORMAT, _identity(job)):
                return None
            skipped = [Skipped(**one) for one in known["skipped"]]
            found = Found(classes=tuple(known["classes"]), skipped=Tally.of(skipped))
            with Path(job.spool).open("wb") as spool:
                for file in _files(reader, job, str(known["column"]), spool):
                    alive()
                    found.files.append(file)
            return found
    except (pyarrow.ArrowException, foreign_json.ForeignJsonError, OSError, ValueError, LookupError, TypeError):
        return None


def _identity(job: Job) -> str:
    status = os.stat(job.path)  # noqa: PTH116
    return json.dumps([job.shown, status.st_size, status.st_mtime_ns, sorted(job.columns.items())])


def _batch(files: list[FoundFile], spool: str, schema: Any) -> Any:
    captions: list[bytes | None] = [None] * len(files)
    if any(file.members for file in files):
        with Path(spool).open("rb") as written:
            for number, file in enumerate(files):
                if file.members:
                    _, (_, offset, size) = file.members[0]
                    captions[number] = os.pread(written.fileno(), size, offset)
    columns = [
        [file.name.encode("utf-8", "surrogatepass") for file in files],
        [file.place.offset for file in files],
        [file.place.size for file in files],
        [None if file.text is None else file.text.encode("utf-8", "surrogatepass") for file in files],
        captions,
    ]
    arrays = [pyarrow.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pyarrow.record_batch(arrays, schema=schema)


def _files(reader: Any, job: Job, column: str, spool: Any) -> Iterator[FoundFile]:
    """The rows; captions are written into the spool."""
    rows, end = Rows.of(job.path, column), 0
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        batch.validate(full=True)
        values = zip(*(batch.column(field.name).to_pylist() for field in _SCHEMA), strict=True)
        for raw, row, size, text, captions in values:
            name, beside = raw.decode("utf-8", "surrogatepass"), ()
            if captions is not None:
                beside = ((TEXT, Place(job.spool, end, spool.write(captions))),)
                end += len(captions)
            text = None if text is None else text.decode("utf-8", "surrogatepass")
            yield FoundFile(name, parts_of(name), Place(rows, row, size), text, members=beside)
