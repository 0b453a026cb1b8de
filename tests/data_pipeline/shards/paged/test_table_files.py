"""A table is what the manifest says, or one line says what it is; parts are exact."""

import hashlib
import io

import numpy as np
import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import Patience
from eyespot.data_pipeline.shards.paged.table_files import TableFiles
from eyespot.data_pipeline.stores.open_store import open_store

ROWS = np.arange(12, dtype=np.int32).reshape(4, 3)


@pytest.fixture
def content(tmp_path) -> bytes:
    file = io.BytesIO()
    np.save(file, ROWS)
    (tmp_path / "rows.npy").write_bytes(file.getvalue())
    return file.getvalue()


def files(folder, *, hashes: bool = True) -> TableFiles:
    return TableFiles(folder, open_store(folder), Patience(0.0), hashes=hashes)


def test_rows(content, tmp_path):
    digest = hashlib.sha256(content).hexdigest()
    found = files(tmp_path).rows("rows.npy", np.dtype(np.int32), digest, (4, 3))
    assert np.array_equal(found, ROWS) and not found.flags.writeable
    with pytest.raises(UserError, match=r"\(4, 3\) rows of int32 where the manifest says 5 frames; make it anew"):
        files(tmp_path).rows("rows.npy", np.dtype(np.int32), digest, (5, 3), "frame")
    with pytest.raises(UserError, match="rows of int32 where the manifest says 4 samples"):
        files(tmp_path).rows("rows.npy", np.dtype(np.int64), digest, (4, 3))
    with pytest.raises(UserError, match="changed since it was written"):
        files(tmp_path).rows("rows.npy", np.dtype(np.int32), "0" * 64, (4, 3))
    assert files(tmp_path, hashes=False).rows("rows.npy", np.dtype(np.int32), "0" * 64, (4, 3)).shape == (4, 3)


@pytest.mark.parametrize("kept", [0, 20, -1])
def test_what_is_cut_is_one_line(content, kept, tmp_path):
    (tmp_path / "rows.npy").write_bytes(content[:kept])
    with pytest.raises(UserError, match=r"rows\.npy: unreadable \(.*\); make it anew: eyespot shards index"):
        files(tmp_path).rows("rows.npy", np.dtype(np.int32), "", (4, 3))


def test_parts_are_exact(content, tmp_path):
    assert files(tmp_path).part("rows.npy", 3, 9) == content[3:9]
    with pytest.raises(OSError):
        files(tmp_path).part("rows.npy", 3, len(content) + 1)
    with pytest.raises(FileNotFoundError):
        files(tmp_path).part("others.npy", 0, 1)
