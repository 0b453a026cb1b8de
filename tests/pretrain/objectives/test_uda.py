"""UDA against a slow, obvious reference in float64, image by image."""

import math
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
from eyespot.pretrain.objectives.uda import UDA
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer

SIZE, CLASSES, LABELS = 24, 3, [2, -1, -1, 0, 1, -1]
UNEVEN = [2, 0, 1, -1, -1, -1]
"""All labelled images in one half of the batch."""


def make_uda(**changes) -> UDA:
    """In evaluation mode: batch norm's statistics would be a micro-batch's. A sure classifier of some images."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"num_classes": CLASSES, "weight": 0.7, "threshold": 0.5, **changes}
    encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=SIZE))
    objective = UDA.Config(**settings).build(encoder, SIZE).double().eval()
    with torch.no_grad():
        objective.classifier.weight *= 20
    return objective


def make_batch(labels: list[int]) -> Batch:
    generator, ids = torch.Generator().manual_seed(1), torch.arange(len(labels))
    views = [torch.randn(len(ids), 3, SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(2)]
    return Batch(views=views, ids=ids, epochs=ids, labels=torch.tensor(labels), seed=0)


def logits_of(objective: UDA, image):
    return objective.classifier(objective.encoder(image[None]))[0]


def slow_loss(objective: UDA, batch: Batch, ceiling: float = 1.0):
    """And how many images are sure, and how many labels count."""
    supervised, consistency = [], []
    for weak, strong, label in zip(*batch.views, batch.labels.tolist(), strict=True):
        logits, others = logits_of(objective, weak), logits_of(objective, strong)
        p = logits.exp() / logits.exp().sum()
        if label >= 0 and p[label] <= ceiling:
            supervised.append(-p[label].log())
        if p.max() > 0.5:
            wanted = (logits / 0.4).exp().detach()
            wanted, given = wanted / wanted.sum(), others.exp() / others.exp().sum()
            consistency.append(sum(wanted[c] * (wanted[c] / given[c]).log() for c in range(CLASSES)))
    mean = sum(supervised) / max(1, len(supervised))
    return mean + 0.7 * sum(consistency) / len(batch), len(consistency), len(supervised)


@pytest.mark.parametrize("ceiling", [1.0, 0.36])
def test_loss_and_gradients_equal_the_slow_reference(ceiling):
    objective, batch = make_uda(annealing="linear"), make_batch(LABELS)
    objective.ceiling.fill_(ceiling)
    expected, num_sure, num_counted = slow_loss(objective, batch, ceiling)
    assert 0 < num_sure < len(batch)  # or the threshold would not be tested
    assert num_counted == 3 if ceiling == 1 else 0 < num_counted < 3
    found = objective(batch)
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-12)
    assert found["sure"].item() == pytest.approx(num_sure / len(batch))
    parameters = list(objective.parameters())
    ours, theirs = (torch.autograd.grad(loss, parameters) for loss in (found["loss"], expected))
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def test_consistency_has_no_gradient_through_the_weak_view():
    objective, batch = make_uda(), make_batch([-1] * 6)
    rows = {name: part.detach().requires_grad_() for name, part in objective.embed(batch).items()}
    loss = objective.compare({**rows, **objective.targets(batch)})["loss"]
    weak, strong = torch.autograd.grad(loss, [rows["weak"], rows["strong"]])
    assert (weak == 0).all() and strong.abs().max() > 0


def trained(order: list[list[int]]) -> tuple[float, list[torch.Tensor]]:
    """The loss and the weights after a step on micro-batches of these rows."""
    objective, whole = make_uda(), make_batch(UNEVEN)
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


def test_it_does_not_matter_which_micro_batch_holds_the_labels():
    loss, weights = trained([[0, 1, 2, 3, 4, 5]])
    for order in ([[0, 1, 2], [3, 4, 5]], [[0, 3], [1, 4], [2, 5]]):
        other, same = trained(order)
        assert other == pytest.approx(loss, rel=1e-12)
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-11) for a, b in zip(weights, same, strict=True))


def test_annealing_lets_in_surer_images_as_the_run_goes_on():
    closed = {
        "none": lambda t: 1.0,
        "linear": lambda t: t * (1 - 1 / CLASSES) + 1 / CLASSES,
        "log": lambda t: (1 - math.exp(-t * 5)) * (1 - 1 / CLASSES) + 1 / CLASSES,
        "exp": lambda t: math.exp((t - 1) * 5) * (1 - 1 / CLASSES) + 1 / CLASSES,
    }
    for annealing, expected in closed.items():
        objective = make_uda(annealing=annealing)
        assert objective.ceiling.item() == pytest.approx(expected(0.0))
        for progress in (0.25, 1.0):
            objective.after_step(progress)
            assert objective.ceiling.item() == pytest.approx(expected(progress))
        assert "ceiling" in objective.state_dict()


def test_the_weak_view_comes_first_and_the_picture_names_both():
    objective, batch = make_uda(), make_batch(LABELS)
    weak, strong = objective.views().views
    assert weak.rand_augment == 0 < strong.rand_augment
    assert len(objective.picture(batch)) == len(objective.picture_rows) == 2


def test_wrong_numbers_name_their_field():
    for field, value in (("num_classes", 1), ("weight", -1.0), ("temperature", 0.0), ("threshold", 1.0)):
        with pytest.raises(UserError, match=rf"objective\.{field} {value}"):
            UDA.Config(**{field: value})
