import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.protocols.task import Task, stratified_split


def test_stratified_split_takes_its_share_of_every_class():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    kept, held = stratified_split(labels, 0.1, seed=0)
    assert np.bincount(labels[held]).tolist() == [10, 5, 1]
    assert sorted([*kept, *held]) == list(range(160))


def test_stratified_split_depends_on_the_seed_alone():
    labels = np.arange(200) % 4
    first, again, other = (stratified_split(labels, 0.2, seed)[1].tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_a_class_never_loses_its_last_sample():
    kept, held = stratified_split(np.array([0, 1, 1]), 0.9, seed=0)
    assert 0 in kept and len(held) == 1


def test_without_anything_to_learn_from_nothing_is_held_out():
    features, none = {"cls": torch.zeros(0, 2)}, torch.zeros(0, dtype=torch.int64)
    test = {"cls": torch.zeros(3, 2)}
    unknown = torch.full((3,), -1)
    task = Task(train=features, train_labels=none, test=test, test_labels=unknown, num_classes=0, seed=0)
    assert len(task.fit) == len(task.held) == 0


def test_too_few_samples_to_hold_any_out():
    labels = torch.tensor([0, 1, 2])
    features = {"cls": torch.zeros(3, 2)}
    with pytest.raises(UserError, match="too few"):
        Task(train=features, train_labels=labels, test=features, test_labels=labels, num_classes=3, seed=0)
