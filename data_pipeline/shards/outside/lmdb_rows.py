"""Reads an LMDB of images: each value is the bytes of one image file. Runs in a process of its own (apart.py).

The label of ``KEY`` is the text under ``label-KEY``, that of ``image-000000001`` under ``label-000000001``. Values that
are pickles are refused, not opened: a pickle is a program.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
            for number, (key, value) in enumerate(transaction.cursor()):
                if number % _OFTEN == 0:
                    alive()
                _add(bytes(key), value, transaction, spool)
    except NotReadable as error:
        found.problem = str(error)
    except (lmdb.Error, ValueError) as error:
        found.problem = f"no LMDB, or a cut or damaged one ({one_line(str(error))[:200]})"
    finally:
        spool.close()
    return found


def _add(key: bytes, value: Any, transaction: Any, spool: Spool) -> None:
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
        spool.add(name, value, label=text if text is None else text.strip())


def _name(key: bytes) -> str:
    """A key as text; one that is no readable text, such as a number of four bytes, in hexadecimal digits."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return key.hex()
    return text if text.isprintable() else key.hex()
