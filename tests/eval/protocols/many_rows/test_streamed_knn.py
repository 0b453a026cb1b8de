"""To the bit what ``knn.py`` says with all features in memory, on any number of ranks."""

import numpy as np
import pytest
import torch

from eyespot.eval.protocols import knn
from eyespot.eval.protocols.many_rows import streamed_knn
from eyespot.eval.protocols.many_rows.streamed_task import StreamedTask
from eyespot.eval.protocols.task import Task
from eyespot.eval.search.row_file import RowFile, Rows
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
NUM_TRAIN, NUM_TEST = 18_000, 2500
"""More than a tile of the bank, and of the queries."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    labels = rng.integers(0, 5, NUM_TRAIN + NUM_TEST)
    rows = rng.normal(size=(5, 6))[labels] * 0.5 + rng.normal(size=(len(labels), 6))
    np.save(folder / "cls.npy", rows.astype(np.float32))
    np.save(folder / "labels.npy", labels)
    return folder


def streamed(world, folder):
    labels, file = np.load(folder / "labels.npy"), RowFile(folder / "cls.npy")
    rows = [Rows(file, np.arange(NUM_TRAIN)), Rows(file, np.arange(NUM_TRAIN, NUM_TRAIN + NUM_TEST))]
    task = StreamedTask(
        train={"cls": rows[0]},
        train_labels=labels[:NUM_TRAIN],
        test={"cls": rows[1]},
        test_labels=labels[NUM_TRAIN:],
        num_classes=5,
        seed=0,
        world=world,
    )
    found = streamed_knn.candidates(task)
    return [(each.metric, each.settings, each.validation, each.predictions.tolist()) for each in found]


def test_to_the_bit_as_in_memory(files, monkeypatch, on_ranks):
    rows, labels = torch.from_numpy(np.load(files / "cls.npy")), torch.from_numpy(np.load(files / "labels.npy"))
    task = Task(
        train={"cls": rows[:NUM_TRAIN]},
        train_labels=labels[:NUM_TRAIN],
        test={"cls": rows[NUM_TRAIN:]},
        test_labels=labels[NUM_TRAIN:],
        num_classes=5,
        seed=0,
    )
    found = knn.candidates(task)
    expected = [(each.metric, each.settings, each.validation, each.predictions.tolist()) for each in found]
    assert streamed(ALONE, files) == expected and 0.3 < expected[0][2] < 0.95
    assert on_ranks(streamed, 2, files) == [expected] * 2
    monkeypatch.setattr(streamed_knn, "AT_ONCE", knn.QUERY_TILE)
    assert streamed(ALONE, files) == expected


def test_distances_are_the_same_bits(files):
    """Not only the winners: a search in pieces multiplies the same shapes."""
    rows = torch.nn.functional.normalize(torch.from_numpy(np.load(files / "cls.npy")), dim=1)
    view = Rows(RowFile(files / "cls.npy"))
    assert view.take(np.arange(16_384), ALONE.device).equal(rows[:16_384])
    assert view.take(np.arange(16_384, 18_000), ALONE.device).equal(rows[16_384:18_000])
