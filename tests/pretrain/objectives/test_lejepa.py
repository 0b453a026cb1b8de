"""LeJEPA against a slow, obvious reference in float64; its directions, step by step; micro-batches and ranks."""

import math

import pytest
import torch
from cut_batches import Cut, assert_one_batch

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.losses.sigreg import random_directions
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.lejepa import LeJEPA
from eyespot.pretrain.recipe_lookup import make_run

COUNT, LARGE, SMALL, DIM = 4, 24, 16, 5


def make_lejepa(**changes) -> LeJEPA:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=LARGE, patch_size=4))
    view = RandomView(size=SMALL, scale=(0.1, 0.3))
    config = LeJEPA.Config(weight=0.3, num_directions=3, num_small=1, hidden_dim=12, out_dim=DIM, small=view, **changes)
    objective = config.build(encoder, LARGE)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return objective.double()


def make_batch(count: int = COUNT, first: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(1 + first)
    sizes = (LARGE, LARGE, SMALL)
    views = [torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64) for size in sizes]
    ids = torch.arange(first, first + count)
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def slow_head(rows, head):
    for layer in head:
        if isinstance(layer, torch.nn.Linear):
            rows = rows @ layer.weight.T + (0 if layer.bias is None else layer.bias)
        elif isinstance(layer, torch.nn.BatchNorm1d):
            rows = (rows - rows.mean(0)) / torch.sqrt(((rows - rows.mean(0)) ** 2).mean(0) + 1e-5)
            rows = rows * layer.weight + layer.bias
        else:
            rows = rows.clamp(min=0)
    return rows


def slow_loss(lejepa: LeJEPA, batch: Batch, directions):
    """Algorithms 1 and 2, image by image and knot by knot."""
    features = torch.cat([lejepa.encoder.forward_features(view)[:, 0] for view in batch.views])
    z = slow_head(features, lejepa.head).view(3, len(batch), DIM)
    distances, statistics = [], []
    for image in range(len(batch)):
        centre = (z[0, image] + z[1, image]) / 2
        distances += [((z[view, image] - centre) ** 2).mean() for view in range(3)]
    for view in range(3):
        for direction in directions.T:
            values = []
            for number in range(17):
                t = -5 + 10 * number / 16
                mean = sum(torch.exp(1j * t * (row @ direction)) for row in z[view]) / len(batch)
                values.append((mean - math.exp(-(t**2) / 2)).abs() ** 2 * math.exp(-(t**2) / 2))
            statistics.append(len(batch) * (sum(values) - values[0] / 2 - values[-1] / 2) * 10 / 16)
    return 0.7 * sum(distances) / len(distances) + 0.3 * sum(statistics) / len(statistics)


def test_loss_and_gradients_equal_the_slow_reference():
    lejepa, batch = make_lejepa(), make_batch()
    directions = random_directions(lejepa.seed, torch.tensor(0), DIM, 3).double()
    names, parameters = zip(*((n, p) for n, p in lejepa.named_parameters() if p.requires_grad), strict=True)
    fast, slow = lejepa(batch)["loss"], slow_loss(lejepa, batch, directions)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-6)  # timm resamples positions in float32
    pairs = zip(names, torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True)
    for name, ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= 1e-6 * (1 + theirs.abs().max()), name


def test_each_step_taken_has_directions_of_its_own_and_a_skipped_one_is_repeated():
    lejepa, batch = make_lejepa(), make_batch()
    found = [lejepa(batch)["sigreg"].item()]
    lejepa.after_step(0.1)
    found.append(lejepa(batch)["sigreg"].item())
    lejepa.after_skip()
    lejepa.after_step(0.2, torch.tensor(False))
    assert lejepa(batch)["sigreg"].item() == found[1] != found[0]
    other = make_lejepa()
    other.load_state_dict(lejepa.state_dict())
    assert other(batch)["sigreg"].item() == found[1]


def test_micro_batches_and_ranks_are_one_batch(on_ranks):
    """The characteristic function is that of all samples of a step, wherever they are."""
    cut = Cut(make=make_lejepa, make_batch=make_batch, norms=("head",))
    assert_one_batch(cut, on_ranks, loss=1e-12, gradients=1e-10, resampled=1e-6)


def test_wrong_numbers_name_their_field():
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        LeJEPA.Config().check_batch(1)
    with pytest.raises(UserError, match=r"objective\.small\.size 98: must be a multiple of the encoder's patches"):
        LeJEPA.Config().build(make_encoder(EncoderConfig(name="test_vit", image_size=32, patch_size=4)), 32)


def test_lejepa_on_imagenet_has_the_authors_numbers():
    """README of their repository: views, rate, decay, 17 knots and 1,024 directions; 100 epochs in its table."""
    run = make_run("lejepa_vitl14_in1k")
    objective = run.objective
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(5e-4)
    assert effective_rate(run.optim.min_lr, run.data.batch_size) == pytest.approx(5e-7)
    assert run.optim.weight_decay == 0.05
    assert run.steps == pytest.approx(100 * 1_281_167 / run.data.batch_size, abs=1)
    assert (objective.num_large, objective.num_small, objective.num_directions) == (2, 6, 1024)
    assert (objective.large.scale, objective.small.size, objective.small.scale) == ((0.3, 1.0), 98, (0.05, 0.3))
