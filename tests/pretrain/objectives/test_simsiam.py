"""SimSiam against a slow reference in float64."""

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.simsiam import SimSiam

COUNT, SIZE = 4, 24


def make_simsiam() -> SimSiam:
    torch.manual_seed(0)
    objective = SimSiam.Config(dim=7, bottleneck=5).build(make_encoder(EncoderConfig(name="test_resnet")), SIZE)
    with torch.no_grad():  # residual branches start at scale 0; let the comparison see them
        for parameter in objective.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return objective.double()


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(COUNT, 3, SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(2)]
    ids = torch.arange(COUNT)
    return Batch(views=views, ids=ids, epochs=ids, labels=ids, seed=0)


def slow_loss(simsiam: SimSiam, batch: Batch):
    losses = []
    for seen, other in (batch.views, reversed(batch.views)):
        guesses = simsiam.predictor(simsiam.projector(simsiam.encoder(seen)))
        goals = simsiam.projector(simsiam.encoder(other)).detach()
        for guess, goal in zip(guesses, goals, strict=True):
            losses.append(-(guess @ goal) / (guess.norm() * goal.norm()) / 2)
    return torch.stack(losses).sum() / COUNT


def test_loss_and_gradients_equal_the_slow_reference():
    simsiam, batch = make_simsiam(), make_batch()
    names, parameters = zip(*simsiam.named_parameters(), strict=True)
    fast, slow = simsiam(batch)["loss"], slow_loss(simsiam, batch)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    pairs = zip(names, torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True)
    for name, ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= 1e-10, name


def test_collapse_shows_in_the_spread():
    """Without a norm at the projector's end, which would blow up rounding: images that are all alike."""
    simsiam, batch = make_simsiam(), make_batch()
    simsiam.projector[-1] = torch.nn.Identity()
    assert simsiam(batch)["spread"].item() > 0.1
    batch.views[0] = batch.views[0][:1].expand(COUNT, -1, -1, -1)
    assert simsiam(batch)["spread"].item() < 1e-3


def test_wrong_numbers_name_their_field():
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        SimSiam.Config().check_batch(1)
