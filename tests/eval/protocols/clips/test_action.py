"""The probe and the neighbours of action are those of the protocols that they are taken from."""

import torch

from eyespot.eval.protocols import knn, linear
from eyespot.eval.protocols.clips import action
from eyespot.eval.protocols.task import Task


def task_of_noise() -> Task:
    labels = torch.arange(120) % 3
    centres = torch.randn(3, 5)
    rows = {kind: centres[labels] + 1.5 * torch.randn(120, 5) for kind in ("cls", "mean")}
    train, test = ({kind: found[part] for kind, found in rows.items()} for part in (slice(0, 90), slice(90, 120)))
    return Task(train=train, train_labels=labels[:90], test=test, test_labels=labels[90:], num_classes=3, seed=0)


def test_a_linear_probe_with_the_neighbours_beside_it():
    task = task_of_noise()
    found, probes, votes = action.candidates(task, frames=7), linear.candidates(task), knn.candidates(task)
    assert [candidate.metric for candidate in found] == ["action/cls", "action/mean"]
    for candidate, probe in zip(found, probes, strict=True):
        assert (candidate.predictions == probe.predictions).all() and candidate.validation == probe.validation
        assert candidate.settings == {**probe.settings, "frames": "7"}
        own = [vote for vote in votes if vote.settings["features"] == candidate.settings["features"]]
        best = max(own, key=lambda vote: vote.validation)
        assert candidate.scores["knn"].value == (best.predictions == task.test_labels.numpy()).mean()
