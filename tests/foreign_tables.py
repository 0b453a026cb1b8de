"""Pictures, and tables of them, for the tests of this folder."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from eyespot.data_pipeline.shards.members.items import Source, read_item
from eyespot.data_pipeline.shards.outside.fetching import in_reach
from eyespot.data_pipeline.shards.sources import open_source


def jpeg(number: int, side: int = 8) -> bytes:
    """A gray JPEG that differs from those of other numbers."""
    stream = io.BytesIO()
    Image.new("L", (side, side), number % 256).save(stream, "JPEG")
    return stream.getvalue() + b"\0" * (number // 256)


def struct(images: Sequence[bytes | None], paths: Sequence[str | None] | None = None) -> pyarrow.Array:
    """As Hugging Face's datasets stores images."""
    paths = paths or [None] * len(images)
    return pyarrow.array(
        [{"bytes": image, "path": path} for image, path in zip(images, paths, strict=True)],
        pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
    )


def parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def arrow(path: Path, table: pyarrow.Table, compression: str | None = None) -> Path:
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema, options=options) as stream:
        stream.write_table(table, max_chunksize=3)
    return path


def opened(path: Path, spool: Path, **columns: str) -> Source:
    spool.mkdir(exist_ok=True)
    return open_source(str(path), spool, columns=columns or None)


def listed(source: Source) -> dict[str, list[tuple[bytes, str | None, bytes | None]]]:
    """Image, class and captions of each item, by split."""
    spool = Path(tempfile.mkdtemp())
    return {
        split: [
            (
                read_item(item),
                source.classes[item.label] if item.label >= 0 else None,
                dict(item.members)["txt"].read() if item.members else None,
            )
            for item in in_reach(items, spool, source.fetch)[:]
        ]
        for split, items in source.splits.items()
    }


def skipped(source: Source) -> dict[str, int]:
    return {one.reason: one.count for one in source.skipped.listed()}
