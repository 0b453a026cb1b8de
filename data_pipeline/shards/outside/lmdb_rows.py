"""Finds the images of an LMDB: each value is the bytes of one image file. Runs in a process of its own (apart.py).

A value lies in one piece in the database's file, which is mapped: where, its address says.

The label of ``KEY`` is the text under ``label-KEY``, that of ``image-000000001`` under ``label-000000001``. Values that
are pickles are refused, not opened: a pickle is a program.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.samples import LONGEST_LABEL
from eyespot.data_pipeline.shards.outside.rows import Found, Job, NotReadable, Spool
from eyespot.data_pipeline.terminal import one_line

LABEL, IMAGE = b"label-", b"image-"
_NOTES = (b"__len__", b"__keys__", b"length", b"keys", b"num-samples", b"num_samples")
"""Keys under which tools keep numbers and lists, which are not needed."""
_OFTEN = 64
_PICKLE = b"\x80"  # what those of protocol 2 and above begin with; a version follows


def read_lmdb(job: Job, alive: Callable[[], None]) -> Found:
    """All images of an environment, a folder with data.mdb or a file."""
    import lmdb

    found = Found()
    data = Path(job.path)
    spool = Spool(job, found)
    folder = data.name == "data.mdb"
    try:
        environment = lmdb.open(
            str(data.parent if folder else data), subdir=folder, readonly=True, lock=False, readahead=False, max_dbs=0
        )
        with environment, environment.begin(buffers=True) as transaction:
            mapped = _mapped(data)
            for number, (key, value) in enumerate(transaction.cursor()):
                if number % _OFTEN == 0:
                    alive()
                _add(bytes(key), value, transaction, spool, job.path, mapped)
    except NotReadable as error:
        found.problem = str(error)
    except (lmdb.Error, ValueError) as error:
        found.problem = f"no LMDB, or a cut or damaged one ({one_line(str(error))[:200]})"
    finally:
        spool.close()
    return found


def _add(key: bytes, value: Any, transaction: Any, spool: Spool, path: str, mapped: range) -> None:
    name = _name(key)
    if key in _NOTES:
        spool.skip("a note of whoever wrote the LMDB", name)
    elif key.startswith(LABEL):
        if all(transaction.get(other + key[len(LABEL) :]) is None for other in (b"", IMAGE)):
            spool.skip("a label without an image", name)
    elif bytes(value[:1]) == _PICKLE and len(value) > 1 and 2 <= value[1] <= 5:
        raise NotReadable(
            f"holds pickles (under the key {one_line(name)[:80]!r}), which are programs and are not opened; write the"
            " bytes of the image files as values, and labels as text under label-KEY, with the tool that made it"
        )
    else:
        label = transaction.get(LABEL + (key[len(IMAGE) :] if key.startswith(IMAGE) else key))
        text = None if label is None else bytes(label[: LONGEST_LABEL + 1]).decode("utf-8-sig", "backslashreplace")
        address = np.frombuffer(value, np.uint8).__array_interface__["data"][0] if len(value) else 0
        image = Place(path, address - mapped.start, len(value)) if address in mapped else value
        spool.add(name, image, label=text if text is None else text.strip())


def _mapped(data: Path) -> range:
    """The addresses that a file is mapped to from its first byte on; empty = that is not known."""
    wanted, found = data.resolve(), range(0)
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        words = line.split(maxsplit=5)
        if len(words) == 6 and int(words[2], 16) == 0 and Path(words[5]) == wanted:
            begin, end = (int(address, 16) for address in words[0].split("-"))
            found = range(begin, min(end, begin + data.stat().st_size))
    return found


def _name(key: bytes) -> str:
    """A key as text; one that is no readable text, such as a number of four bytes, in hexadecimal digits."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return key.hex()
    return text if text.isprintable() else key.hex()
