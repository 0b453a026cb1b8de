"""Where the rows of an .npy file begin, whoever wrote it."""

import io
import warnings

import numpy as np
import pytest

from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE
from eyespot.data_pipeline.shards.paged.npy_header import FEWEST, LARGEST_HEADER, header_bytes, npy_header


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_rows_begin_behind_the_header(version, count):
    stream = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        np.lib.format.write_array(stream, np.ones(count, INDEX_DTYPE), version=version)
    content = stream.getvalue()
    size = header_bytes(content[:FEWEST])
    assert npy_header(content[:size]) == ((count,), INDEX_DTYPE, size)
    assert np.frombuffer(content, INDEX_DTYPE, -1, size).tolist() == np.ones(count, INDEX_DTYPE).tolist()


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04" + b"x" * 20,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"\x93NUMPY\x01\x00\xff\xff" * 2,
    ],
)
def test_what_is_no_file_of_rows_is_refused(start):
    with pytest.raises(ValueError):
        npy_header(start[: header_bytes(start)])


def test_a_header_is_bounded():
    with pytest.raises(ValueError, match="a header of 4294967307 bytes"):
        header_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\xff")
    assert header_bytes(b"\x93NUMPY\x01\x00" + (LARGEST_HEADER - 10).to_bytes(2, "little") + b"{'") == LARGEST_HEADER


def test_rows_column_by_column_are_refused():
    stream = io.BytesIO()
    np.save(stream, np.asfortranarray(np.ones((3, 2))))
    with pytest.raises(ValueError, match="column by column"):
        npy_header(stream.getvalue())
