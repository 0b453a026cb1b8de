"""Adversaries: a network that tells made images from real ones, and both players' gradients from one backward pass.

Goodfellow et al. 2014 (arXiv:1406.2661), algorithm 1, with the maker's loss that does not saturate (its section 3):
with s(x) the discriminator's logit that x is real,

    discriminator:  softplus(-s(real)) + softplus(s(made)),
    maker:          softplus(-s(made)),

each a mean over the batch. The two losses pull the same logit s(made) of a sample in opposite directions, with slopes
sigmoid(s) and -sigmoid(-s). As a logit depends on its own image alone, the maker's gradient in that image is the
discriminator's times the ratio of the slopes, -exp(-s). So the discriminator's loss is the only one that is
differentiated, and what arrives at the made images is multiplied by that: one forward and one backward pass, one
optimiser, on any engine, where the textbook alternates.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.pretrain.networks.image_decoder import group_norm

MAX_LOGIT = 60.0
"""Beyond it the maker's gradient is that of this logit: exp(-s) must not overflow in fp32."""


class Discriminator(nn.Module):
    """Strided 4x4 convolutions down to at most 4 x 4 pixels, then one logit: DCGAN's, without batch norm.

    Radford et al. 2015 (arXiv:1511.06434). Its norms are over groups of channels: a logit depends on its image alone.

    Args:
        image_size: height and width of what it judges, pixels.
        dim: channels after the first convolution; they double with each further one.
    """

    def __init__(self, image_size: int, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, dim, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        size = image_size // 2
        while size > 4:
            layers += [nn.Conv2d(dim, 2 * dim, 4, stride=2, padding=1, bias=False), group_norm(2 * dim)]
            layers.append(nn.LeakyReLU(0.2))
            dim, size = 2 * dim, size // 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(dim, 1, size))

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, " b"]:
        """Logits that the images are real."""
        return self.layers(images).flatten(1).mean(1)


def play(
    discriminator: nn.Module, real: Float[Tensor, "b 3 s s"], made: Float[Tensor, "b 3 s s"], weight: float
) -> dict[str, Float[Tensor, ""]]:
    """One round of the game.

    Args:
        discriminator: gives a logit for each image, from that image alone.
        real: images.
        made: images that the maker's gradient goes to.
        weight: what the maker's loss is multiplied by.

    Returns:
        {"discriminator", "maker"}: the losses. The gradient of the first is the discriminator's in its parameters and
        ``weight`` times the maker's in ``made``; the second has none.
    """
    turned = made.view_as(made)
    logits = discriminator(torch.cat([real, turned])).to(torch.promote_types(made.dtype, torch.float32))
    on_real, on_made = logits.chunk(2)
    ratio = -weight * on_made.detach().neg().clamp_max(MAX_LOGIT).exp()
    if turned.requires_grad:
        turned.register_hook(lambda gradient: gradient * ratio[:, None, None, None])
    return {
        "discriminator": F.softplus(-on_real).mean() + F.softplus(on_made).mean(),
        "maker": F.softplus(-on_made).mean().detach(),
    }
