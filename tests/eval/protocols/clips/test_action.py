"""The probes and the neighbours of action are those of the protocols that they are taken from, and look at tokens."""

from dataclasses import replace

import torch

from eyespot.eval.protocols import knn, linear
from eyespot.eval.protocols.clips import action, attentive
from eyespot.eval.protocols.task import Task

FRAMES = 3


def task_of_noise() -> Task:
    labels = torch.arange(120) % 3
    centres = torch.randn(3, 1, 5)
    rows = {kind: (centres[labels] + 2.5 * torch.randn(120, FRAMES, 5)).flatten(1) for kind in ("cls", "mean")}
    rows["patches2"] = torch.randn(120, FRAMES * 2 * 5)
    train, test = ({kind: found[part] for kind, found in rows.items()} for part in (slice(0, 90), slice(90, 120)))
    return Task(train=train, train_labels=labels[:90], test=test, test_labels=labels[90:], num_classes=3, seed=0)


def means(rows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {kind: (rows[kind][:, :5] + rows[kind][:, 5:10] + rows[kind][:, 10:]) / 3 for kind in ("cls", "mean")}


def test_a_linear_probe_with_neighbours_and_attention_beside_it(monkeypatch):
    monkeypatch.setattr(attentive, "LEAST_STEPS", 20)
    task = task_of_noise()
    of_means = replace(task, train=means(task.train), test=means(task.test))
    found = action.candidates(task, frames=FRAMES)
    probes, votes = linear.candidates(of_means), knn.candidates(of_means)
    assert [candidate.metric for candidate in found] == ["action/cls", "action/mean"]
    for candidate, probe in zip(found, probes, strict=True):
        kind = probe.settings["features"]
        assert (candidate.predictions == probe.predictions).mean() > 0.9 and candidate.settings["features"] == kind
        assert candidate.settings["frames"] == "3"
        best = max((vote for vote in votes if vote.settings["features"] == kind), key=lambda vote: vote.validation)
        assert candidate.scores["knn"].value == (best.predictions == task.test_labels.numpy()).mean()
    reported = max(found, key=lambda candidate: candidate.validation)
    assert sum("attentive" in candidate.scores for candidate in found) == 1
    for name, kind, count in (
        ("attentive", reported.settings["features"], FRAMES),
        ("attentive, patches", "patches2", 2 * FRAMES),
    ):
        answers, rate = attentive.answers(task, kind, count)
        assert reported.scores[name].value == (answers == task.test_labels).double().mean()
        assert reported.settings[name.replace("attentive", "rate")] == rate
