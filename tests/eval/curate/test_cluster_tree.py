"""Trees of clusters: the same on any number of ranks and after a kill; samples as even as the clusters allow."""

import itertools

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.curate import cluster_tree as module
from eyespot.eval.curate.cluster_tree import ClusterTree, balanced_sample, cluster_tree, even_counts, nearest_of_each
from eyespot.eval.search.row_file import RowFile, Rows
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_even_counts_are_the_evenest():
    """Of all ways to take so many, that with the least sum of squares: by trying all."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = rng.integers(0, 6, 4)
        for target in range(int(sizes.sum()) + 3):
            counts = even_counts(sizes, target, np.random.default_rng(1))
            assert counts.sum() == min(target, sizes.sum()) and (counts <= sizes).all()
            ways = itertools.product(*(range(size + 1) for size in sizes.tolist()))
            least = min(sum(n * n for n in way) for way in ways if sum(way) == counts.sum())
            assert (counts**2).sum() == least


def test_what_is_left_over_goes_by_lot():
    found = {tuple(even_counts(np.array([9, 9, 9]), 10, np.random.default_rng([2, n])).tolist()) for n in range(30)}
    assert found == {(4, 3, 3), (3, 4, 3), (3, 3, 4)}


def test_the_nearest_of_each():
    labels, cosines = np.array([1, 0, 1, 1, 0]), np.array([0.5, 0.9, 0.7, 0.7, 0.1], np.float32)
    assert nearest_of_each(labels, cosines, 2).tolist() == [1, 4, 2, 3]
    assert sorted(nearest_of_each(labels, cosines, 1).tolist()) == [1, 2]


def test_a_target_is_shared_from_the_top_down():
    """Two high clusters of 1 + 1 and 100 + 3 + 1 rows: 60 are 2 and 58, those as 54 + 3 + 1."""
    parents = [np.repeat(np.arange(5), [1, 1, 100, 3, 1]), np.array([0, 0, 1, 1, 1])]
    tree = ClusterTree(parents=parents, cosines=[], sizes=[5, 2], objectives=[])
    chosen = balanced_sample(tree, 60, seed=0)
    assert np.bincount(parents[0][chosen]).tolist() == [1, 1, 54, 3, 1] and (np.diff(chosen) > 0).all()
    assert balanced_sample(tree, 60, seed=0).tolist() == chosen.tolist()
    assert balanced_sample(tree, 60, seed=1).tolist() != chosen.tolist()
    assert len(balanced_sample(tree, 500, seed=0)) == 106
    assert tree.tops().tolist() == [0, 0] + [1] * 104


@pytest.fixture(scope="module")
def skewed(tmp_path_factory):
    """6,000 rows: nine tenths around one direction, the rest around nine others."""
    rng = np.random.default_rng(0)
    kinds = np.where(rng.random(6000) < 0.9, 0, rng.integers(1, 10, 6000))
    rows = rng.normal(size=(10, 12))[kinds] * 3 + rng.normal(size=(6000, 12))
    folder = tmp_path_factory.mktemp("rows")
    np.save(folder / "rows.npy", rows.astype(np.float32))
    return folder / "rows.npy", kinds


def tree_on(world, path, state, rounds=2):
    state.mkdir(exist_ok=True)
    rows = Rows(RowFile(path))
    tree = cluster_tree(rows, (150, 10), rounds=rounds, seed=0, world=world, state=state, key="a")
    return [each.tobytes() for each in (*tree.parents, *tree.cosines, balanced_sample(tree, 600, 0))]


def test_it_balances_what_is_there(skewed, tmp_path):
    path, kinds = skewed
    chosen = np.frombuffer(tree_on(ALONE, path, tmp_path)[-1], np.int64)
    shares = np.bincount(kinds[chosen], minlength=10) / len(chosen)
    assert shares[0] < 0.3 and shares.min() > 0.02  # of 0.9, and of a hundredth each


def test_ranks_and_interruptions_change_nothing(skewed, tmp_path, on_ranks, monkeypatch):
    path, _ = skewed
    alone = tree_on(ALONE, path, tmp_path / "a")
    assert on_ranks(tree_on, 2, path, tmp_path / "b") == [alone] * 2
    calls, real = [], module.kmeans

    def fourth_fails(*arguments, **known):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments, **known)

    monkeypatch.setattr(module, "kmeans", fourth_fails)
    with pytest.raises(KeyboardInterrupt):
        tree_on(ALONE, path, tmp_path / "c")
    assert tree_on(ALONE, path, tmp_path / "c") == alone and len(calls) == 4 + 3
    assert tree_on(ALONE, path, tmp_path / "c") == alone and len(calls) == 7
    assert tree_on(ALONE, path, tmp_path / "c", rounds=1) != alone


def test_of_equal_rows_a_sample_is_drawn_all_the_same(tmp_path):
    """One cluster has all of them, so that resampling leaves fewer rows than clusters."""
    np.save(tmp_path / "rows.npy", np.ones((30, 4), np.float32))
    rows = Rows(RowFile(tmp_path / "rows.npy"))
    tree = cluster_tree(rows, (8, 3), rounds=2, seed=0, world=ALONE, state=tmp_path, key="")
    assert len(tree.parents[1]) == 8 and len(balanced_sample(tree, 10, 0)) == 10


def test_a_state_that_cannot_be_written_is_one_line(tmp_path):
    np.save(tmp_path / "rows.npy", np.eye(6, dtype=np.float32))
    rows = Rows(RowFile(tmp_path / "rows.npy"))
    with pytest.raises(UserError, match=r"cannot be written .*free space"):
        cluster_tree(rows, (3,), rounds=0, seed=0, world=ALONE, state=tmp_path / "gone", key="")
