"""k-means in pieces finds what scikit-learn's finds, on any number of ranks."""

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from eyespot.eval.protocols import clustering
from eyespot.eval.protocols.many_rows.streamed_clustering import candidates, streamed_clusters
from eyespot.eval.protocols.many_rows.streamed_task import StreamedTask
from eyespot.eval.search.row_file import RowFile, Rows
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(1)
    labels = rng.integers(0, 6, 3000)
    np.save(folder / "cls.npy", (rng.normal(size=(6, 8))[labels] + 0.5 * rng.normal(size=(3000, 8))).astype("<f4"))
    np.save(folder / "labels.npy", labels)
    return folder


def found_on(world, folder):
    return streamed_clusters(Rows(RowFile(folder / "cls.npy")), 6, 0, world).tolist()


def test_as_good_as_scikit_learns(files, on_ranks):
    labels, alone = np.load(files / "labels.npy"), found_on(ALONE, files)
    theirs = clustering.clusters(torch.from_numpy(np.load(files / "cls.npy")), 6, seed=0)
    ours, reference = (normalized_mutual_info_score(labels, each) for each in (alone, theirs))
    assert ours > reference - 0.03 and reference > 0.5
    assert on_ranks(found_on, 2, files) == [alone] * 2


def test_candidates(files):
    labels, file = np.load(files / "labels.npy"), RowFile(files / "cls.npy")
    rows = {"cls": Rows(file, np.arange(2000))}, {"cls": Rows(file, np.arange(2000, 3000))}
    known = {"num_classes": 6, "seed": 0, "world": ALONE}
    task = StreamedTask(train=rows[0], train_labels=labels[:2000], test=rows[1], test_labels=labels[2000:], **known)
    (found,) = candidates(task)
    assert found.metric == "clustering/spherical_kmeans_cls_l2" and set(found.scores) == {"NMI", "ARI"}
    assert (found.predictions == labels[2000:]).mean() > 0.6 and found.validation > 0.4
