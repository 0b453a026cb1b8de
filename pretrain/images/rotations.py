"""Quarter turns of whole images, for methods that ask by how many an image was turned (Gidaris et al. 2018)."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

TURNS = 4
PICTURE_ROWS = ("turned", "turned back as the classifier says", "as it was")
"""Captions of ``picture_of_turns``."""


def rotated(images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "4*b 3 h w"], Int[Tensor, " 4*b"]]:
    """All images turned by 0, 1, 2 and 3 quarters counterclockwise, and by how many."""
    turned = torch.cat([torch.rot90(images, turns, (2, 3)) for turns in range(TURNS)])
    return turned, torch.arange(TURNS, device=images.device).repeat_interleave(len(images))


def picture_of_turns(
    images: Float[Tensor, "b 3 h w"], guess: Callable[[Float[Tensor, "b 3 h w"]], Int[Tensor, " b"]]
) -> Float[Tensor, "3 b 3 h w"]:
    """The n-th image by n quarters: turned, turned back by what ``guess`` says of the turned ones, and upright."""
    turned = torch.stack([torch.rot90(image, turns % TURNS, (1, 2)) for turns, image in enumerate(images)])
    guesses = guess(turned).tolist()
    righted = torch.stack([torch.rot90(image, -turns, (1, 2)) for turns, image in zip(guesses, turned, strict=True)])
    return torch.stack([turned, righted, images]).float()
