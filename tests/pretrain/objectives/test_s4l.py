"""S4L against slow, obvious references in float64, image by image and copy by copy."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from step_passes import take_passes

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.s4l import S4L
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer

SIZE, LABELS = 24, [2, -1, -1, 0, 1, -1]
UNEVEN = [2, 0, 1, -1, -1, -1]
"""All labelled images in one half of the batch."""


def make_s4l(task: str, **changes) -> S4L:
    """In evaluation mode: batch norm's statistics would be a micro-batch's."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"num_classes": 3, "num_copies": 3, "out_dim": 5, "weight": 0.7, **changes}
    encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=SIZE))
    return S4L.Config(task=task, **settings).build(encoder, SIZE).double().eval()


def make_batch(objective: S4L, labels: list[int]) -> Batch:
    generator, ids = torch.Generator().manual_seed(1), torch.arange(len(labels))
    shape = (len(ids), 3, SIZE, SIZE)
    views = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in objective.views().views]
    return Batch(views=views, ids=ids, epochs=ids, labels=torch.tensor(labels), seed=0)


def cross_entropy(logits, target):
    return -torch.log(logits.exp()[target] / logits.exp().sum())


def slow_rotation(objective: S4L, batch: Batch):
    of_labels, of_turns = [], []
    for image, label in zip(batch.views[0], batch.labels.tolist(), strict=True):
        for turns in range(4):
            features = objective.encoder(torch.rot90(image, turns, (1, 2))[None])[0]
            of_turns.append(cross_entropy(objective.head(features), turns))
            if label >= 0:
                of_labels.append(cross_entropy(objective.classifier(features), label))
    return torch.stack(of_labels).mean() + 0.7 * torch.stack(of_turns).mean()


def slow_exemplar(objective: S4L, batch: Batch):
    of_labels, points = [], []
    for view in batch.views:
        for number, (image, label) in enumerate(zip(view, batch.labels.tolist(), strict=True)):
            features = objective.encoder(image[None])[0]
            embedding = objective.head(features)
            points.append((number, embedding / embedding.norm()))
            if label >= 0:
                of_labels.append(cross_entropy(objective.classifier(features), label))
    triplets = []
    for place, (number, anchor) in enumerate(points):
        alike = [(anchor - z).norm() for other, (n, z) in enumerate(points) if n == number and other != place]
        unlike = [(anchor - z).norm() for n, z in points if n != number]
        triplets.append(torch.log(1 + torch.exp(max(alike) - min(unlike))))
    return torch.stack(of_labels).mean() + 0.7 * torch.stack(triplets).mean()


@pytest.mark.parametrize(("task", "slow"), [("rotation", slow_rotation), ("exemplar", slow_exemplar)])
def test_loss_and_gradients_equal_the_slow_reference(task, slow):
    objective = make_s4l(task)
    batch = make_batch(objective, LABELS)
    fast, expected = objective(batch)["loss"], slow(objective, batch)
    assert fast.item() == pytest.approx(expected.item(), rel=1e-12)
    parameters = list(objective.parameters())
    ours, theirs = (torch.autograd.grad(loss, parameters) for loss in (fast, expected))
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def trained(task: str, order: list[list[int]]) -> tuple[float, list[torch.Tensor]]:
    """The loss and the weights after a step on micro-batches of these rows."""
    objective = make_s4l(task)
    whole = make_batch(objective, UNEVEN)
    engine = make_engine(
        "ddp",
        objective,
        World(rank=0, size=1, device=torch.device("cpu")),
        lambda module: make_optimizer(module, OptimConfig(name="sgd")),
        Settings(accumulate=len(order), clip=None, precision="fp32"),
    )
    parts = [
        replace(whole, views=[view[rows] for view in whole.views], ids=whole.ids[rows], labels=whole.labels[rows])
        for rows in order
    ]
    loss = take_passes(engine, [(part, 0) for part in parts])[0]["loss"]
    engine.step(0.1)
    return float(loss), [parameter.detach().clone() for parameter in objective.parameters()]


@pytest.mark.parametrize("task", ["rotation", "exemplar"])
def test_it_does_not_matter_which_micro_batch_holds_the_labels(task):
    loss, weights = trained(task, [[0, 1, 2, 3, 4, 5]])
    for order in ([[0, 1, 2], [3, 4, 5]], [[0, 3], [1, 4], [2, 5]]):
        other, same = trained(task, order)
        assert other == pytest.approx(loss, rel=1e-12)
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in zip(weights, same, strict=True))


def test_a_batch_without_labels_teaches_the_task_alone():
    objective = make_s4l("rotation")
    found = objective(make_batch(objective, [-1] * 6))
    assert found["loss"].item() == pytest.approx(0.7 * found["task"].item(), rel=1e-12)
    assert found["supervised"] == found["labeled"] == found["accuracy"] == 0
    (gradient,) = torch.autograd.grad(found["loss"], objective.classifier.weight)
    assert (gradient == 0).all()


def test_the_picture_is_of_turns():
    objective = make_s4l("rotation")
    batch = make_batch(objective, LABELS)
    turned, _, upright = objective.picture(batch)
    assert torch.equal(upright, batch.views[0].float()) and torch.equal(turned[1], torch.rot90(upright[1], 1, (1, 2)))
    other = make_s4l("exemplar")
    assert other.picture(make_batch(other, LABELS)) is None


def test_wrong_numbers_name_their_field():
    for field, value in (("num_classes", 1), ("weight", -1.0), ("num_copies", 1)):
        with pytest.raises(UserError, match=rf"objective\.{field} {value}"):
            S4L.Config(**{field: value})
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        S4L.Config(task="exemplar").check_batch(1)
    S4L.Config().check_batch(1)
