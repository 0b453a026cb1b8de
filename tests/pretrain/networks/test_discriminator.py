"""One backward pass gives both players the gradients that two separate ones would."""

import pytest
import torch
from torch import nn

from eyespot.pretrain.networks.discriminator import Discriminator, play


class Maker(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.images = nn.Conv2d(3, 3, 3, padding=1)
        self.brightness = nn.Parameter(torch.zeros(1, 3, size, size))

    def forward(self, seeds: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.images(seeds)) + self.brightness


@pytest.mark.parametrize("shift", [0.0, 8.0, -8.0])
def test_both_players_get_their_own_gradients(shift):
    """Also where the discriminator is sure, or sure of what is wrong."""
    torch.manual_seed(0)
    maker, discriminator = Maker(16).double(), Discriminator(16, 8).double()
    with torch.no_grad():
        discriminator.layers[-1].bias += shift
    seeds, real = (torch.randn(5, 3, 16, 16, dtype=torch.float64) for _ in range(2))
    losses = play(discriminator, real, maker(seeds), weight=0.3)
    losses["discriminator"].backward()

    made = maker(seeds)
    said = [torch.sigmoid(discriminator(images)) for images in (real, made.detach())]
    its_loss = (-said[0].log() - (1 - said[1]).log()).mean()
    for parameter, expected in zip(
        discriminator.parameters(), torch.autograd.grad(its_loss, list(discriminator.parameters())), strict=True
    ):
        assert torch.allclose(parameter.grad, expected, rtol=1e-9, atol=1e-13)
    makers_loss = -torch.sigmoid(discriminator(made)).log().mean()
    for parameter, expected in zip(
        maker.parameters(), torch.autograd.grad(0.3 * makers_loss, list(maker.parameters())), strict=True
    ):
        assert torch.allclose(parameter.grad, expected, rtol=1e-9, atol=1e-13)
    assert losses["discriminator"].item() == pytest.approx(its_loss.item(), rel=1e-9)
    assert losses["maker"].item() == pytest.approx(makers_loss.item(), rel=1e-9)
    assert not losses["maker"].requires_grad


def test_a_discriminator_that_is_all_too_sure_breaks_nothing():
    discriminator = Discriminator(8, 8)
    with torch.no_grad():
        discriminator.layers[-1].bias -= 1000
    made = torch.randn(2, 3, 8, 8, requires_grad=True)
    losses = play(discriminator, torch.randn(2, 3, 8, 8), made, weight=1.0)
    losses["discriminator"].backward()
    assert losses["maker"].isfinite()
    assert made.grad.isfinite().all()


def test_without_gradients_it_only_looks():
    with torch.no_grad():
        losses = play(Discriminator(8, 8), torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), weight=1.0)
    assert losses.keys() == {"discriminator", "maker"}


@pytest.mark.parametrize("size", [6, 12, 16, 112])
def test_any_size_is_judged_by_itself(size):
    discriminator = Discriminator(size, 4)
    images = torch.randn(3, 3, size, size)
    logits = discriminator(images)
    assert logits.shape == (3,)
    assert torch.allclose(discriminator(images[1:2]), logits[1:2], atol=1e-5)
