"""Tiles: an image cut into squares, for methods that ask where squares belong, or what lies beside them."""

import itertools
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.data_pipeline.errors import UserError

GRID = 3
"""Cells per side."""
NUM_TILES = GRID**2


def cut_tiles(
    images: Float[Tensor, "b c s s"], size: int, draws: Float[Tensor, "b _"]
) -> Float[Tensor, "b tiles c size size"]:
    """One square from each cell of the grid, row by row, at a place of its own: edges of neighbours never meet.

    Args:
        images: square; a cell is a third of the side wide, rounded down.
        size: height and width of a tile, pixels.
        draws: (B, 18) in [0, 1), for each tile how far down and how far right in its cell.

    Raises:
        UserError: a cell is smaller than a tile.
    """
    cell = images.shape[-1] // GRID
    if size > cell:
        raise UserError(f"tiles of {size} pixels: a cell of the view has {cell}; make the view larger")
    offsets = (draws * (cell - size + 1)).long().view(-1, NUM_TILES, 2)
    side = torch.arange(GRID, device=images.device)
    corners = offsets + cell * torch.stack(torch.meshgrid(side, side, indexing="ij"), dim=-1).view(NUM_TILES, 2)
    return _squares(images, corners, size)


def cut_grid(
    images: Float[Tensor, "b c s s"], size: int, stride: int, *, margin: int = 0, draws: Float[Tensor, "b _"]
) -> Float[Tensor, "b n c size size"]:
    """All squares of a grid, row by row, which may overlap: as many as fit.

    Args:
        images: square.
        size: height and width of a square, pixels.
        stride: from one to the next, pixels.
        margin: rows and columns that a square loses; a border of zeros takes their place, half of it on each side.
        draws: (B, 2 n) in [0, 1), for each square how many of them it loses above and on its left.

    Raises:
        UserError: an image is smaller than a square.
    """
    if size > images.shape[-1]:
        raise UserError(f"patches of {size} pixels: the view has {images.shape[-1]}; make the view larger")
    side = torch.arange((images.shape[-1] - size) // stride + 1, device=images.device)
    offsets = (draws * (margin + 1)).long().view(-1, len(side) ** 2, 2)
    corners = offsets + stride * torch.stack(torch.meshgrid(side, side, indexing="ij"), dim=-1).view(-1, 2)
    before, after = margin // 2, margin - margin // 2
    return F.pad(_squares(images, corners, size - margin), (before, after, before, after))


def _squares(
    images: Float[Tensor, "b c s s"], corners: Int[Tensor, "b n 2"], size: int
) -> Float[Tensor, "b n c size size"]:
    """Of each image the squares whose upper left corners lie there: row, column."""
    span = torch.arange(size, device=images.device)
    rows, columns = (corners[..., axis, None] + span for axis in (0, 1))
    samples = torch.arange(len(images), device=images.device)[:, None, None, None]
    return images.permute(0, 2, 3, 1)[samples, rows[..., :, None], columns[..., None, :]].permute(0, 1, 4, 2, 3)


def without_fringes(
    tiles: Float[Tensor, "b n 3 h w"], kept: Int[Tensor, " b"], noise: Float[Tensor, "b n 3 1 1"]
) -> Float[Tensor, "b n 3 h w"]:
    """Keeps one colour channel of each image and overwrites the others with noise around its mean.

    A lens bends colours differently, the more the farther from the centre: with two channels a network could read off
    where a tile lay (Doersch et al. 2015, arXiv:1505.05192, section 3.1, "color dropping").

    Args:
        tiles: of each image.
        kept: which channel stays.
        noise: what the other channels become, in standard deviations of the channel that stays.
    """
    channel = torch.arange(3, device=tiles.device).view(1, 1, 3, 1, 1)
    stays = kept.view(-1, 1, 1, 1, 1)
    alone = tiles.gather(2, stays.expand(-1, tiles.shape[1], 1, *tiles.shape[3:]))
    mean, deviation = alone.mean((3, 4), keepdim=True), alone.std((3, 4), keepdim=True, correction=0)
    return torch.where(channel == stays, tiles, (mean + deviation * noise).expand_as(tiles))


def side_by_side(tiles: Float[Tensor, "b tiles c size size"]) -> Float[Tensor, "b c s s"]:
    """All nine as one square, row by row."""
    rows = [torch.cat(row.unbind(1), dim=3) for row in tiles.split(GRID, dim=1)]
    return torch.cat(rows, dim=2)


@lru_cache
def permutations(count: int) -> Int[np.ndarray, "count tiles"]:
    """Orders of the nine tiles that differ from each other as much as can be.

    Greedy, as in Noroozi & Favaro 2016 (arXiv:1603.09246, algorithm 1): the identity first, then always the order
    whose sum of Hamming distances to the chosen ones is largest, of those whose least distance is largest. The result
    depends on ``count`` alone. It takes seconds, so it is kept, and cannot be written to.

    Args:
        count: how many, up to 9!.
    """
    everything = np.ascontiguousarray(np.array(list(itertools.permutations(range(NUM_TILES))), np.int8).T)
    chosen = [0]
    least = np.full(everything.shape[1], NUM_TILES, np.int8)
    total = np.zeros(everything.shape[1], np.int32)
    for _ in range(count - 1):
        distance = np.zeros(everything.shape[1], np.int8)
        for place, tile in zip(everything, everything[:, chosen[-1]], strict=True):
            distance += place != tile
        np.minimum(least, distance, out=least)
        total += distance
        chosen.append(int(np.where(least == least.max(), total, -1).argmax()))
    found = everything[:, chosen].T.astype(np.int64)
    found.setflags(write=False)
    return found
