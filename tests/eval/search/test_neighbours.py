"""Nearest rows and near pairs: exactly those of all products in float64; faiss agrees."""

import faiss
import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.search import neighbours
from eyespot.eval.search.neighbours import near_pairs, nearest_rows
from eyespot.eval.search.row_file import BLOCK, RowFile, Rows
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """5,000 directions, of which 300 come again with a little noise."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5000, 16))
    values = np.concatenate([values, values[:300] + 0.05 * rng.normal(size=(300, 16))])
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, values.astype(np.float32))
    return path


def unit(path):
    values = np.load(path).astype(np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def nearest_on(world, path):
    bank = Rows(RowFile(path))
    values, places = nearest_rows(bank.take(np.arange(0, 5300, 53), torch.device("cpu")), bank, 7, world)
    return values.tobytes(), places.tobytes()


def test_nearest_rows_are_faiss_and_a_sort(rows, on_ranks):
    bank, products = Rows(RowFile(rows)), unit(rows)[::53] @ unit(rows).T
    values, places = nearest_rows(bank.take(np.arange(0, 5300, 53), torch.device("cpu")), bank, 7, ALONE)
    np.testing.assert_array_equal(places, np.argsort(-products, axis=1, kind="stable")[:, :7])
    np.testing.assert_allclose(values, np.take_along_axis(products, places, 1), atol=1e-6)
    index = faiss.IndexFlatIP(16)
    index.add(unit(rows).astype(np.float32))
    np.testing.assert_array_equal(places, index.search(unit(rows)[::53].astype(np.float32), 7)[1])
    assert on_ranks(nearest_on, 2, rows) == [nearest_on(ALONE, rows)] * 2


def test_of_equals_the_first_rows_come(tmp_path):
    np.save(tmp_path / "a.npy", np.tile(np.eye(2, dtype=np.float32), (BLOCK, 1)))  # two blocks
    values, places = nearest_rows(torch.eye(2), Rows(RowFile(tmp_path / "a.npy")), 5, ALONE)
    assert places.tolist() == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]] and (values == 1).all()


def pairs_on(world, path, exact):
    neighbours.EXACT_PAIRS = 2e10 if exact else 0
    found = near_pairs(Rows(RowFile(path)), None, 0.97, seed=0, world=world)
    return found.left.tolist(), found.right.tolist(), found.score.tobytes(), found.exact


def test_pairs_are_all_pairs(rows, on_ranks):
    products = np.triu(unit(rows) @ unit(rows).T, 1)
    expected = list(zip(*np.nonzero(products >= 0.97), strict=True))
    left, right, _, exact = alone = pairs_on(ALONE, rows, True)
    assert list(zip(left, right, strict=True)) == expected and len(expected) > 250 and exact
    assert on_ranks(pairs_on, 2, rows, True) == [alone] * 2


def test_cells_find_nearly_all_of_them(rows, on_ranks):
    try:
        every, cells = pairs_on(ALONE, rows, True), pairs_on(ALONE, rows, False)
        assert not cells[3]
        every, found = (set(zip(each[0], each[1], strict=True)) for each in (every, cells))
        assert found <= every and len(found) >= 0.97 * len(every)
        assert on_ranks(pairs_on, 3, rows, False) == [cells] * 3
    finally:
        neighbours.EXACT_PAIRS = 2e10


@pytest.mark.parametrize("exact", [True, False])
def test_pairs_of_two_sides(rows, exact, monkeypatch):
    monkeypatch.setattr(neighbours, "EXACT_PAIRS", 2e10 if exact else 0)
    file = RowFile(rows)
    left, right = Rows(file, np.arange(5000)), Rows(file, np.arange(5000, 5300))
    found = near_pairs(left, right, 0.97, seed=0, world=ALONE)
    pairs = set(zip(found.left.tolist(), found.right.tolist(), strict=True))
    products = unit(rows)[:5000] @ unit(rows)[5000:].T
    expected = set(zip(*(each.tolist() for each in np.nonzero(products >= 0.97)), strict=True))
    assert pairs == expected if exact else pairs <= expected and len(pairs) > 0.97 * len(expected)


def test_a_threshold_that_most_pass(rows, monkeypatch):
    monkeypatch.setattr(neighbours, "MOST_PAIRS", 1000)
    with pytest.raises(UserError, match="over 1,000 pairs are that alike; raise it"):
        near_pairs(Rows(RowFile(rows)), None, 0.1, seed=0, world=ALONE)


def test_members_of_each_cell(monkeypatch):
    """Whose cells are looked up in groups, as if one by one; each rank has every second cell."""
    monkeypatch.setattr(neighbours, "CELLS_AT_ONCE", 3)
    labels = np.random.default_rng(0).permuted(np.tile(np.arange(17), (200, 1)), axis=1)[:, :2].astype(np.int32)
    for rank in (0, 1):
        found = list(neighbours._members(labels, 17, World(rank=rank, size=2, device=torch.device("cpu"))))
        expected = [np.flatnonzero((labels == cell).any(1)) for cell in range(rank, 17, 2)]
        assert [each.tolist() for each in found] == [each.tolist() for each in expected]
