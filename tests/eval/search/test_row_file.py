"""Rows read and written in pieces are the file's, and what is reserved survives a kill."""

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.search.row_file import BLOCK, RowFile, Rows, dealt, reserve
from eyespot.pretrain.distributed.process_group import World

CPU = torch.device("cpu")


@pytest.fixture
def matrix(tmp_path):
    rows = np.random.default_rng(0).normal(size=(BLOCK + 100, 5)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    return tmp_path / "rows.npy", rows


def test_reads_and_writes_what_numpy_does(matrix):
    path, rows = matrix
    file = RowFile(path, writes=True)
    assert (file.count, file.width, file.dtype) == (*rows.shape, np.float32)
    np.testing.assert_array_equal(file.read(3, 70), rows[3:70])
    ids = np.array([5, 6, 7, 2, 900, 901, 0])
    np.testing.assert_array_equal(file.take(ids), rows[ids])
    assert file.take(ids[:0]).shape == (0, 5)
    file.write(ids, -rows[ids])
    rows[ids] = -rows[ids]
    np.testing.assert_array_equal(np.load(path), rows)


def test_blocks_are_rows_of_length_one_and_ranks_share_them(matrix):
    path, rows = matrix
    chosen = np.random.default_rng(1).permutation(len(rows))[: BLOCK + 7]
    view = Rows(RowFile(path), chosen)
    unit = rows[chosen] / np.linalg.norm(rows[chosen], axis=1, keepdims=True)
    blocks = torch.cat([view.block(number, CPU) for number in range(view.num_blocks)])
    np.testing.assert_allclose(blocks, unit, atol=1e-6)
    part = view.some(np.array([9, 3]))
    assert part.block(0, CPU).equal(torch.nn.functional.normalize(torch.from_numpy(rows[chosen[[9, 3]]]), dim=1))
    for size in (1, 2, 5):
        shares = [dealt(7, World(rank=rank, size=size, device=CPU)) for rank in range(size)]
        assert [number for share in shares for number in share] == list(range(7))


def test_what_is_wrong_is_one_line(matrix):
    path, rows = matrix
    rows[8, 1] = np.nan
    np.save(path, rows)
    with pytest.raises(UserError, match="not all finite"):
        Rows(RowFile(path)).block(0, CPU)
    file = RowFile(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match="was cut while"):
        file.read(0, len(rows))
    with pytest.raises(UserError, match="shorter than it says"):
        RowFile(path)
    path.write_bytes(b"half")
    with pytest.raises(UserError, match="cannot be read as rows"):
        RowFile(path)
    np.save(path, np.zeros(3))
    with pytest.raises(UserError, match="no matrix"):
        RowFile(path)


def test_what_was_written_stays_and_what_does_not_fit_goes(tmp_path):
    columns = {"a": (np.dtype(np.float32), 3), "b": (np.dtype("<u8"), 2)}
    reserve(tmp_path / "x", columns, 9)
    RowFile(tmp_path / "x" / "a.npy", writes=True).write(np.array([4]), np.full((1, 3), 7))
    reserve(tmp_path / "x", columns, 9)
    assert np.load(tmp_path / "x" / "a.npy")[4].tolist() == [7, 7, 7]
    assert np.load(tmp_path / "x" / "b.npy").shape == (9, 2) and not np.load(tmp_path / "x" / "done.npy").any()
    (tmp_path / "x" / "done.npy").unlink()  # killed before it was all there
    reserve(tmp_path / "x", columns, 9)
    assert not np.load(tmp_path / "x" / "a.npy").any()
    reserve(tmp_path / "x", columns, 10)
    assert np.load(tmp_path / "x" / "a.npy").shape == (10, 3)
