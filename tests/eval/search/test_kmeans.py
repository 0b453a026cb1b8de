"""k-means: against faiss and a slow Lloyd; on any number of ranks, and after an interruption, the same to the bit."""

import faiss
import numpy as np
import pytest
import torch

from eyespot.eval.search import kmeans as module
from eyespot.eval.search.kmeans import KMeans, assigned, keep, kept_clusters, kmeans, nearest_centroids, plus_plus
from eyespot.eval.search.row_file import RowFile, Rows
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def clouds(count: int, centres: int, dim: int, seed: int = 0) -> np.ndarray:
    """Rows of length 1 around some directions."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(centres, dim))[rng.integers(0, centres, count)] * 2 + rng.normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, clouds(9000, 60, 24))
    return path


def test_as_good_as_faiss(rows):
    unit = np.load(rows)
    found = kmeans(Rows(RowFile(rows)), 100, seed=0, world=ALONE)
    theirs = faiss.Kmeans(24, 100, niter=25, spherical=True, seed=1, max_points_per_centroid=10**6)
    theirs.train(unit)
    reference = (unit @ theirs.centroids.T).max(1).mean()
    ours = (unit @ found.centroids.T).max(1).mean()
    assert ours > 0.97 * reference and found.objective == pytest.approx(ours, abs=0.01)
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-6)


def test_one_iteration_is_lloyds(rows):
    unit = np.load(rows).astype(np.float64)
    first = kmeans(Rows(RowFile(rows)), 50, seed=3, world=ALONE, iterations=4)
    second = kmeans(Rows(RowFile(rows)), 50, seed=3, world=ALONE, iterations=5)
    labels = (unit @ first.centroids.T).argmax(1)
    for cluster in range(50):
        mean = unit[labels == cluster].sum(0)
        np.testing.assert_allclose(second.centroids[cluster], mean / np.linalg.norm(mean), atol=2e-6)


def found_on(world, path, state=None):
    view = Rows(RowFile(path))
    found = kmeans(view, 30, seed=1, world=world, iterations=6, state=state)
    labels, cosines = assigned(view, found.centroids, world)
    return found.centroids.tobytes(), found.objective, labels.tobytes(), cosines.tobytes()


def test_any_number_of_ranks_gives_the_same_bits(rows, on_ranks):
    alone = found_on(ALONE, rows)
    for size in (2, 3):
        assert on_ranks(found_on, size, rows) == [alone] * size


def test_an_interrupted_one_goes_on(rows, tmp_path, monkeypatch):
    state, whole = tmp_path / "state.npz", found_on(ALONE, rows)
    passes, one_pass = [], module._one_pass

    def third_fails(*arguments):
        passes.append(1)
        if len(passes) == 3:
            raise KeyboardInterrupt
        return one_pass(*arguments)

    monkeypatch.setattr(module, "_one_pass", third_fails)
    with pytest.raises(KeyboardInterrupt):
        found_on(ALONE, rows, state)
    assert found_on(ALONE, rows, state) == whole and len(passes) == 3 + 4  # two of six were kept
    assert found_on(ALONE, rows, state) == whole and len(passes) == 7
    state.write_bytes(state.read_bytes()[:900])
    assert found_on(ALONE, rows, state) == whole and len(passes) == 13


def test_another_question_is_not_answered_by_what_was_kept(tmp_path):
    found = KMeans(centroids=np.ones((2, 3), np.float32), objective=0.5, iterations=3)
    keep(tmp_path / "a", "key", found, True)
    kept, ended = kept_clusters(tmp_path / "a", "key")
    assert ended and kept.centroids.tolist() == found.centroids.tolist() and kept.iterations == 3
    assert kept_clusters(tmp_path / "a", "other") is None and kept_clusters(tmp_path / "b", "key") is None


def test_it_learns_from_a_sample_of_many(tmp_path):
    np.save(tmp_path / "rows.npy", clouds(3000, 4, 8))
    found = kmeans(Rows(RowFile(tmp_path / "rows.npy")), 4, seed=0, world=ALONE)
    unit = np.load(tmp_path / "rows.npy")
    assert found.objective == pytest.approx((unit @ found.centroids.T).max(1).mean(), abs=0.02)
    assert found.objective != pytest.approx((unit @ found.centroids.T).max(1).mean(), abs=1e-7)


def test_the_nearest_two_are_those_of_a_sort(rows):
    centroids = clouds(20, 20, 24, seed=4)
    labels, cosines = nearest_centroids(Rows(RowFile(rows)), centroids, 2, ALONE)
    products = np.load(rows) @ centroids.T
    np.testing.assert_array_equal(labels, np.argsort(-products, axis=1)[:, :2])
    np.testing.assert_allclose(cosines, -np.sort(-products, axis=1)[:, :2], atol=1e-6)


def test_centroids_are_taken_in_pieces(rows, monkeypatch):
    view, centroids = (
        Rows(RowFile(rows)),
        np.repeat(clouds(10, 10, 24, seed=4), 2, axis=0),
    )  # of equals the first counts
    whole = assigned(view, centroids, ALONE)
    monkeypatch.setattr(module, "CENTROIDS_AT_ONCE", 3)
    pieces = assigned(view, centroids, ALONE)
    np.testing.assert_allclose(pieces[1], whole[1], atol=1e-6)
    assert (np.diff(np.stack([pieces[0], whole[0]]) // 2, axis=0) == 0).mean() > 0.999


def test_empty_clusters_take_half_of_the_largest():
    sums, counts = torch.zeros(4, 3, dtype=torch.int64), torch.tensor([0, 9, 0, 2])
    sums[1, 0], sums[3, 1] = 2**33, 2**31
    found = module._renewed(sums, counts, np.ones((4, 3), np.float32))
    assert (found[[0, 1, 2]] @ [1, 0, 0] > 0.99).all() and found[3].tolist() == [0, 1, 0]
    assert len({row.tobytes() for row in found}) == 4


def test_plus_plus_draws_by_squared_distance():
    """Of points at 0 (many), 90 and 60 degrees the second is one of the far ones, as 1 - cos says how often."""
    points = torch.tensor([[1.0, 0.0]] * 50 + [[0.0, 1.0], [0.5, 0.75**0.5]])
    drawn = [plus_plus(points, 2, np.random.default_rng([7, n])) for n in range(400)]
    far = [chosen[1].tolist() for chosen in drawn if chosen[0].tolist() == [1.0, 0.0]]
    assert [1.0, 0.0] not in far
    assert sum(point == [0.0, 1.0] for point in far) / len(far) == pytest.approx(1 / 1.5, abs=0.08)


@pytest.mark.parametrize("different", [1, 3])
def test_fewer_different_rows_than_clusters(tmp_path, different):
    np.save(tmp_path / "rows.npy", np.repeat(np.eye(4, dtype=np.float32)[:different], 10, axis=0))
    found = kmeans(Rows(RowFile(tmp_path / "rows.npy")), 6, seed=0, world=ALONE)
    assert found.centroids.shape == (6, 4) and found.objective == pytest.approx(1, abs=1e-5)
