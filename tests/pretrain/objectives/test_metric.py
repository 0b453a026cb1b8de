"""Metric: each loss is that of its rows, by labels where they count; the losses have tests of their own."""

from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from step_passes import take_passes

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.losses import metric_learning as metric_losses
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.metric import Metric
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer

SIZE, COUNT = 24, 6
LOSSES = get_args(get_type_hints(Metric.Config)["loss"])
BY_HAND = {
    "contrastive": lambda pairs: metric_losses.contrastive_loss(pairs, 1.0),
    "triplet": lambda pairs: metric_losses.triplet_loss(pairs, 0.2, "semi-hard"),
    "n_pair": lambda pairs: metric_losses.n_pair_loss(pairs, 0.002),
    "lifted": lambda pairs: metric_losses.lifted_loss(pairs, 1.0),
    "nce": lambda pairs: metric_losses.nce_loss(pairs, 0.2),
    "soft_nn": lambda pairs: metric_losses.soft_neighbours_loss(pairs, 0.2),
}


def make_metric(**changes) -> Metric:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"hidden_dim": 12, "out_dim": 7, **changes}
    return (
        Metric.Config(**settings).build(make_encoder(EncoderConfig(name="test_resnet", image_size=SIZE)), SIZE).double()
    )


def make_batch(labels: list[int]) -> Batch:
    generator, ids = torch.Generator().manual_seed(1), torch.arange(len(labels))
    views = [torch.randn(len(ids), 3, SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(2)]
    return Batch(views=views, ids=ids, epochs=ids, labels=torch.tensor(labels), seed=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_the_chosen_one_of_unit_rows_or_of_rows_as_they_are(loss):
    objective, batch = make_metric(loss=loss, positives="labels"), make_batch([2, 0, 2, -1, -1, 1])
    rows = torch.cat([objective.head(objective.encode(torch.cat(batch.views)))])
    if loss not in ("n_pair", "lifted"):
        rows = rows / rows.norm(dim=1, keepdim=True)
    expected = BY_HAND[loss](metric_losses.Pairs.of(rows, batch.ids.repeat(2), batch.labels.repeat(2))).mean()
    assert objective(batch)["loss"].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_labels_count_only_where_they_are_asked_for(loss):
    batch = make_batch([2, 0, 2, -1, -1, 1])
    unlabeled = replace(batch, labels=torch.full_like(batch.labels, -1))
    by_views, by_labels = make_metric(loss=loss), make_metric(loss=loss, positives="labels")
    assert by_views(batch)["loss"] == by_views(unlabeled)["loss"] == by_labels(unlabeled)["loss"]
    assert by_labels(batch)["loss"] != by_labels(unlabeled)["loss"]
    assert by_views.config.needs_labels() == "none" and by_labels.config.needs_labels() == "some"


def test_a_sample_that_a_batch_holds_twice_is_no_negative_of_itself():
    objective, batch = make_metric(loss="contrastive"), make_batch([-1] * 4)
    batch.views = [torch.cat([view[:1]] * 4) for view in batch.views]
    batch.ids = torch.zeros_like(batch.ids)
    first, second = objective.embed(batch).values()
    squares = (F.normalize(first[0], dim=0) - F.normalize(second[0], dim=0)).square().sum()
    positives = 4 * squares / 7  # of each row's seven others, four are the other view and three are equal to it
    assert objective(batch)["loss"].item() == pytest.approx(positives.item() / 2, rel=1e-6)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_micro_batches_are_one_batch(accumulate):
    """Without batch norm's statistics, which are a micro-batch's."""
    losses, weights = [], []
    for parts in (1, accumulate):
        engine = make_engine(
            "ddp",
            make_metric(loss="lifted").eval(),
            World(rank=0, size=1, device=torch.device("cpu")),
            lambda module: make_optimizer(module, OptimConfig(name="sgd")),
            Settings(accumulate=parts, clip=None, precision="fp32"),
        )
        engine.objective.eval()
        whole = make_batch([-1] * COUNT)
        rows = torch.arange(COUNT).chunk(parts)
        micro = [
            replace(whole, views=[view[own] for view in whole.views], ids=own, epochs=own, labels=whole.labels[own])
            for own in rows
        ]
        losses.append(float(take_passes(engine, [(batch, 0) for batch in micro])[0]["loss"]))
        engine.step(0.1)
        weights.append([parameter.detach().clone() for parameter in engine.objective.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert all(torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11) for ours, theirs in zip(*weights, strict=True))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"margin": -1.0}, "margin -1.0"),
        ({"margin": 1.0, "loss": "nce"}, "margin 1.0"),
        ({"norm_weight": -0.1}, "norm_weight -0.1"),
    ],
)
def test_wrong_numbers_name_their_field(changes, field):
    with pytest.raises(UserError, match=rf"objective\.{field}: "):
        Metric.Config(**changes)


def test_one_image_alone_has_no_negatives():
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        Metric.Config().check_batch(1)
