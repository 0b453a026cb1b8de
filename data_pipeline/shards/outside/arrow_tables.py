"""Reads one Parquet or Arrow file as images, labels and captions. Runs in a process of its own (apart.py).

Arrow's own readers trust what they read: each batch is validated before a value of it is looked at. Extension types are
not made; what is packed in them counts as something else.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pyarrow.types as types

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.outside.columns import Chosen, Column, choose, class_names, folder_label
from eyespot.data_pipeline.shards.outside.fetching import Rows, Wanted
from eyespot.data_pipeline.shards.outside.listings import keep, kept
from eyespot.data_pipeline.shards.outside.rows import Found, Job, NotReadable, Spool
from eyespot.data_pipeline.terminal import one_line

BATCH = 64  # rows that are decoded at once
STATUS, KEY = "status", "key"
"""Columns that img2dataset writes: how the download of an image ended, and the name that it was given."""
LARGEST_METADATA = 2**24
LONGEST_KEY = 200
_FILE_MAGIC = b"ARROW1"


def read_table(job: Job, alive: Callable[[], None]) -> Found:
    """All rows of a file, or what another task knows of them."""
    if job.listing and (known := kept(job, alive)) is not None:
        return known
    found = _read(job, alive)
    if job.listing and not found.problem:
        keep(job, found)
    return found


def _read(job: Job, alive: Callable[[], None]) -> Found:
    found = Found()
    spool = Spool(job, found)
    try:
        with _Table(job.path) as table:
            columns = described(table.schema)
            names, asked, folder = (
                {column.name for column in columns},
                job.columns,
                folder_label(job.shown, job.columns),
            )
            if folder is not None and asked.get("label") not in names and "label" in asked:
                asked = {**asked, "label": ""}
            chosen = choose(job.shown, columns, asked)
            found.classes = chosen.label.classes if chosen.label else ()
            extra = [name for name in (STATUS, KEY) if {STATUS, KEY} <= names]
            row = 0
            for batch in table.batches([*_names(chosen), *extra]):
                alive()
                _add(batch, row, chosen, table, spool, bool(extra), folder)
                row += batch.num_rows
    except (UserError, NotReadable) as error:
        found.problem = str(error)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        found.problem = f"cut or damaged ({one_line(str(error))[:200]})"
    finally:
        spool.close()
    return found


def fetch_rows(job: Wanted, alive: Callable[[], None]) -> str:
    """Writes some images of a file one behind another; returns why they cannot be had."""
    changed = "was changed while it was packed"
    try:
        with _Table(job.path) as table, Path(job.spool).open("wb", buffering=1 << 20) as file:
            done = 0
            for image, size in zip(table.images(job.column, job.rows), job.sizes.tolist(), strict=False):
                alive()
                if image is None or len(image) != size:
                    return changed
                file.write(image)
                done += 1
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError, NotReadable) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        return f"cut or damaged ({one_line(str(error))[:200]})"
    return "" if done == len(job.rows) else changed


def read_statuses(job: Job, alive: Callable[[], None]) -> dict[str, int] | None:
    """How many images of an img2dataset table ended in each way but success; None: it is no such table."""
    counts = Counter[str]()
    try:
        with _Table(job.path) as table:
            if not {STATUS, KEY} <= set(table.schema.names):
                return None
            for batch in table.batches([STATUS]):
                alive()
                counts.update(str(status)[:60] for status in batch.column(0).to_pylist() if status != "success")
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None
    return dict(counts)


class _Table:
    """A Parquet or Arrow file that is read batch by batch."""

    def __init__(self, path: str) -> None:
        pyarrow.set_cpu_count(1)
        self.path = path
        with Path(path).open("rb") as file:
            magic = file.read(6)
        if not magic:
            raise NotReadable("is empty")
        if magic[:4] == b"FEA1":
            raise NotReadable("is of Feather's first version, which Arrow gives up; save it as Parquet")
        self.base: Any = None
        """The file's own bytes in memory, where its columns may lie as they are."""
        if magic[:4] == b"PAR1":
            self._parquet: Any = pyarrow.parquet.ParquetFile(
                path, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True
            )
            self.schema: Any = self._parquet.schema_arrow
            return
        self._parquet = None
        mapped: Any = pyarrow.memory_map(path)
        self.base = mapped.read_buffer()
        mapped.seek(0)
        options: Any = pyarrow.ipc.IpcReadOptions(use_threads=False)
        opened = pyarrow.ipc.open_file if magic == _FILE_MAGIC else pyarrow.ipc.open_stream
        self._reader: Any = opened(mapped, options=options)
        self.schema = self._reader.schema

    def batches(self, names: list[str]) -> Iterator[Any]:
        """Some columns, some rows at a time, validated."""
        if self._parquet is not None:
            yield from self._parquet.iter_batches(batch_size=BATCH, columns=names, use_threads=False)
            return
        reader = self._reader
        whole = (
            (reader.get_batch(number) for number in range(reader.num_record_batches))
            if isinstance(reader, pyarrow.ipc.RecordBatchFileReader)
            else iter(reader)
        )
        for batch in whole:
            batch.validate(full=True)
            batch = batch.select(names)
            for start in range(0, batch.num_rows, BATCH):
                yield batch.slice(start, BATCH)

    def images(self, name: str, rows: np.ndarray) -> Iterator[Any]:
        """The bytes in some rows, ascending, of one column; None = null. Of Parquet only their row groups are read."""
        if self._parquet is None:
            yield from _picked(self.batches([name]), rows)
            return
        first = 0
        for group in range(self._parquet.num_row_groups):
            count = self._parquet.metadata.row_group(group).num_rows
            own = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + count)] - first
            if len(own):
                yield from _picked(self._parquet.iter_batches(BATCH, [group], [name], use_threads=False), own)
            first += count

    def __enter__(self) -> "_Table":
        return self

    def __exit__(self, *_: object) -> None:
        if self._parquet is not None:
            self._parquet.close()


def _picked(batches: Iterator[Any], rows: np.ndarray) -> Iterator[Any]:
    """The images in some rows of batches of one column."""
    first = done = 0
    for batch in batches:
        stop = int(np.searchsorted(rows, first + batch.num_rows))
        if stop > done:
            images = list(_bytes(_images(batch.column(0))[0], None))
            yield from (images[row][0] for row in (rows[done:stop] - first).tolist())
        first, done = first + batch.num_rows, stop
        if done == len(rows):
            return


def described(schema: Any) -> list[Column]:
    """What is known of the columns of a schema, with what Hugging Face's datasets noted of them."""
    noted = (schema.metadata or {}).get(b"huggingface", b"")
    features: Any = {}
    if noted and len(noted) <= LARGEST_METADATA:
        try:
            features = foreign_json.parse(noted, dict, "huggingface")["info"]["features"]
        except (UserError, KeyError, TypeError):
            features = {}
    features = features if isinstance(features, dict) else {}
    twice = {name for name, count in Counter(schema.names).items() if count > 1}
    if twice:
        raise NotReadable(f"has several columns called {one_line(sorted(twice)[0])[:80]!r}")
    return [_described(field, features.get(field.name)) for field in schema]


def _described(field: Any, feature: Any) -> Column:
    kind = feature.get("_type") if isinstance(feature, dict) else ""
    holds = _kind(field.type)
    classes = class_names(feature) if kind == "ClassLabel" and holds == "number" else ()
    return Column(field.name, holds, kind if isinstance(kind, str) else "", classes)


def _kind(of: Any) -> str:
    if types.is_dictionary(of):
        of = of.value_type
    if _holds_bytes(of):
        return "image"
    if types.is_struct(of):
        names = [of.field(number).name for number in range(of.num_fields)]
        inner = [of.field(names.index("bytes")).type] if names.count("bytes") == 1 else []
        return "image" if any(map(_holds_bytes, inner)) else "other"
    if types.is_string(of) or types.is_large_string(of) or types.is_string_view(of):
        return "text"
    if types.is_integer(of) or types.is_boolean(of) or types.is_floating(of):
        return "number"
    if types.is_list(of) or types.is_large_list(of):
        return "texts" if types.is_string(of.value_type) or types.is_large_string(of.value_type) else "other"
    return "other"


def _holds_bytes(of: Any) -> bool:
    return types.is_binary(of) or types.is_large_binary(of) or types.is_binary_view(of)


def _names(chosen: Chosen) -> list[str]:
    return [column.name for column in chosen if column is not None]


def _add(
    batch: Any, first: int, chosen: Chosen, table: _Table, spool: Spool, downloaded: bool, folder: str | None
) -> None:
    """Hands all rows of a batch on; ``folder`` is the label of all of them where no column is."""
    labels = _values(batch, chosen.label)
    captions = _values(batch, chosen.caption)
    statuses, keys = (batch.column(name).to_pylist() if downloaded else [] for name in (STATUS, KEY))
    rows = Rows.of(table.path, chosen.image.name)
    images, paths = _images(batch.column(chosen.image.name))
    for number, (image, place) in enumerate(_bytes(images, table.base)):
        name, path = f"{first + number:08d}", paths[number] if paths else None
        if downloaded and isinstance(keys[number], str | int):
            name = str(keys[number])[:LONGEST_KEY]
        elif path:
            name = f"{name}/{path[-LONGEST_KEY:].rpartition('/')[2]}"
        label = _whole(labels[number]) if labels else None
        classes = chosen.label.classes if chosen.label else ()
        if downloaded and statuses[number] != "success":
            spool.skip(f"img2dataset: {str(statuses[number])[:60]}", name)
        elif image is None and place is None:
            spool.skip("an image that lies elsewhere (a path without bytes)" if path else "no image (null)", name)
        elif classes and label is not None and int(label) >= len(classes):
            spool.skip(f"a label beyond the {len(classes)} classes", name)
        else:
            text = folder if chosen.label is None else "" if label is None else str(label)
            several = captions[number] if captions else None
            several = [several] if isinstance(several, str) else several
            lines = [line for line in several or () if isinstance(line, str)] if captions else None
            at = Place(rows, first + number, len(image or b"")) if place is None else Place(table.path, *place)
            spool.add(name, at, label=text, captions=lines)


def _whole(label: Any) -> Any:
    """Pandas makes floats of whole numbers where one is missing, and NaN of that one."""
    if not isinstance(label, float) or not label.is_integer():
        return None if label != label else label
    return int(label)


def _values(batch: Any, column: Column | None) -> list[Any]:
    return batch.column(column.name).to_pylist() if column else []


def _images(column: Any) -> tuple[Any, list[Any]]:
    """The bytes of each row, and, of a struct, the path that stands beside them."""
    if not types.is_struct(column.type):
        return column, []
    names = [column.type.field(number).name for number in range(column.type.num_fields)]
    fields = dict(zip(names, column.flatten(), strict=True))
    path = fields.get("path")
    return fields["bytes"], path.to_pylist() if path is not None and _kind(path.type) == "text" else []


def _bytes(array: Any, base: Any) -> Iterator[tuple[Any, tuple[int, int] | None]]:
    """Of each row the bytes, or offset and size of where they lie in the file; neither = null."""
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if types.is_binary_view(array.type):  # as Polars writes them
        array = array.cast(pyarrow.large_binary())
    if types.is_binary(array.type):
        width = np.int32
    elif types.is_large_binary(array.type):
        width = np.int64
    else:
        raise NotReadable(f"its images are of the type {one_line(str(array.type))[:80]}")
    array.validate(full=True)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    _, ends, data = array.buffers()
    count = len(array)
    bounds = np.frombuffer(ends, width)[array.offset : array.offset + count + 1].tolist() if count else []
    view = memoryview(data) if data is not None else memoryview(b"")
    at = data.address - base.address if data is not None and base is not None else -1
    inside = base is not None and 0 <= at < base.size
    for row in range(count):
        begin, end = bounds[row], bounds[row + 1]
        if not valid[row]:
            yield None, None
        elif inside:
            yield None, (at + begin, end - begin)
        else:
            yield view[begin:end], None
