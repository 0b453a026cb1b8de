"""Which patches of an image are masked: orders of its patches, of which the first are seen and the rest masked.

Pure functions of numbers that belong to the sample, on the device where these lie; nobody waits for it.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.data_pipeline.errors import UserError

MaskKind = Literal["random", "block", "grid"]

NUM_BLOCKS = 32
"""Rectangles that MAE draws for each image, whether or not it takes all of them."""
SMALLEST = 16 / 196
"""Area of the smallest rectangle, as a share of the patches: BEiT's 16 of 14 x 14."""
MAX_ASPECT = 1 / 0.3
"""Largest height / width of a rectangle, and width / height: BEiT's."""
KEPT_OF_FOUR = 0.25


def check_mask(kind: MaskKind, ratio: float, grid: tuple[int, int] | None = None) -> None:
    """Whether a mask of this kind can hide exactly this share of the patches.

    Args:
        kind: of the mask.
        ratio: share of the patches that are hidden.
        grid: how many patches stand above and beside each other, where that is known.

    Raises:
        UserError: it cannot.
    """
    if kind != "grid":
        return
    if ratio != 1 - KEPT_OF_FOUR:
        raise UserError(
            f"objective.mask_ratio {ratio}: a grid hides three of every four patches; set it to"
            f" {1 - KEPT_OF_FOUR}, or objective.mask to random or block"
        )
    if grid is not None and (grid[0] % 2 or grid[1] % 2):
        raise UserError(
            f"objective.mask 'grid': {grid[0]} x {grid[1]} patches cannot be cut into squares of four;"
            " set it to random or block"
        )


def random_order(numbers: Float[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """Each image's patches in random order.

    Args:
        numbers: uniform in [0, 1).
    """
    return numbers.argsort(dim=1, stable=True)


def grid_order(numbers: Float[Tensor, "b 1"], grid: tuple[int, int]) -> Int[Tensor, "b n"]:
    """First one patch of every square of four, at the same place in all squares of an image, then the others.

    He et al. 2022 (arXiv:2111.06377, figure 6, right); which of the four places is not said there, and drawn here.

    Args:
        numbers: uniform in [0, 1).
        grid: how many patches stand above and beside each other, both even.
    """
    y, x = _places(grid, numbers.device)
    chosen = (4 * numbers).long()  # (B, 1)
    return ((2 * (y % 2) + x % 2)[None] != chosen).int().argsort(dim=1, stable=True)


def block_order(
    numbers: Float[Tensor, "b draws"],
    ties: Float[Tensor, "b n"],
    grid: tuple[int, int],
    num_masked: int | Int[Tensor, "b 1"],
) -> Int[Tensor, "b n"]:
    """The masked patches, which are the last, lie in rectangles that may overlap: BEiT's blocks (arXiv:2106.08254).

    Algorithm 1 there: until enough is masked, the area of a rectangle is drawn between the smallest one and what is
    still missing, its aspect ratio between 0.3 and 1 / 0.3 (as in the authors' code, evenly in its logarithm), and its
    place. What differs: a side that is longer than the grid is cut to it; the last rectangle is masked from its top on
    until it is enough, so that the share is exact; and what all rectangles leave missing (with three quarters masked
    and NUM_BLOCKS of them, a few patches in one image of a thousand) is masked patch by patch.

    Args:
        numbers: uniform in [0, 1), of each image four for each rectangle.
        ties: uniform in [0, 1), one for each patch.
        grid: how many patches stand above and beside each other.
        num_masked: how many patches are, of all images or of each.
    """
    y, x = _places(grid, numbers.device)
    num_patches = grid[0] * grid[1]
    smallest = max(1.0, SMALLEST * num_patches)
    num_blocks = numbers.shape[1] // 4
    found = torch.full_like(ties, float(num_blocks))  # which rectangle covers a patch first
    for number, draws in enumerate(numbers.unflatten(1, (num_blocks, 4)).unbind(1)):
        area, aspect, top, left = draws.split(1, dim=1)
        missing = num_masked - (found < num_blocks).sum(1, keepdim=True)
        area = smallest + area * (missing - smallest).clamp(min=0)
        aspect = ((2 * aspect - 1) * math.log(MAX_ASPECT)).exp()
        height = (area * aspect).sqrt().round().clamp(1, grid[0])
        width = (area / aspect).sqrt().round().clamp(1, grid[1])
        top, left = (top * (grid[0] - height + 1)).floor(), (left * (grid[1] - width + 1)).floor()
        inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        found = torch.where(inside & (found == num_blocks) & (missing > 0), float(number), found)
    rows = torch.arange(num_patches, device=numbers.device) / num_patches
    return (found + torch.where(found < num_blocks, rows, ties)).argsort(dim=1, descending=True, stable=True)


def num_inverse_blocks(num_visible: int, side: int) -> int:
    """How many blocks ``inverse_block_order`` draws for so many visible patches: enough, though they overlap."""
    return 4 + 3 * math.ceil(num_visible / side**2)


def inverse_block_order(
    centres: Float[Tensor, "b draws"], ties: Float[Tensor, "b n"], grid: tuple[int, int], side: int
) -> Int[Tensor, "b n"]:
    """The seen patches, which are the first, lie in squares that may overlap: data2vec 2.0 (arXiv:2212.07525), 3.3.

    The squares' middles are drawn anywhere, and what lies outside the image is cut off. The first squares come first;
    of one square, and of what none covers, the order is random. So whatever number of patches is seen is exact.

    Args:
        centres: uniform in [0, 1), of each image two for each square: row and column.
        ties: uniform in [0, 1), one for each patch.
        grid: how many patches stand above and beside each other.
        side: height and width of a square, patches.
    """
    y, x = _places(grid, centres.device)
    blocks = centres.unflatten(1, (-1, 2))
    top, left = ((blocks[..., at] * grid[at]).floor() - (side - 1) // 2 for at in (0, 1))  # (B, blocks)
    inside = (y >= top[..., None]) & (y < top[..., None] + side) & (x >= left[..., None]) & (x < left[..., None] + side)
    number = torch.arange(blocks.shape[1], device=centres.device, dtype=ties.dtype)[:, None]
    first = torch.where(inside, number, float(blocks.shape[1])).amin(1)  # which square covers a patch first
    return (first + ties).argsort(dim=1, stable=True)


def rolled_block_order(
    numbers: Float[Tensor, "b 3"], ties: Float[Tensor, "b n"], grid: tuple[int, int], num_visible: int
) -> Int[Tensor, "b n"]:
    """The seen patches, which are the first, are one rectangle that may leave the image and come back: CAPI's mask.

    Darcet et al. 2025 (arXiv:2502.08769): a block is kept, and rolled around, so that the middle is seen no oftener
    than the border. Its aspect ratio is drawn evenly in its logarithm, between 1/2 and 2 as far as it fits; where its
    area is more than is wanted, its last patches are hidden, so the share is exact.

    Args:
        numbers: uniform in [0, 1), of each image aspect, row and column.
        ties: uniform in [0, 1), one for each patch.
        grid: how many patches stand above and beside each other.
        num_visible: how many patches are seen.
    """
    y, x = _places(grid, numbers.device)
    rows, columns = grid
    aspect, top, left = numbers.split(1, dim=1)
    height = (num_visible * 4 ** (aspect - 0.5)).sqrt().round().clamp(math.ceil(num_visible / columns), rows)
    height = height.clamp(1, num_visible)
    width = (num_visible / height).ceil()
    down, right = (y - (top * rows).floor()) % rows, (x - (left * columns).floor()) % columns
    inside = (down < height) & (right < width)
    return torch.where(inside, down * columns + right, grid[0] * grid[1] + ties).argsort(dim=1, stable=True)


def _places(grid: tuple[int, int], device: torch.device) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Row and column of each patch."""
    number = torch.arange(grid[0] * grid[1], device=device)
    return number // grid[1], number % grid[1]
