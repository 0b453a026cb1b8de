"""Orders of patches against loops over patches, written from the papers."""

import math

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.images.patch_masks import (
    NUM_BLOCKS,
    block_order,
    check_mask,
    grid_order,
    inverse_block_order,
    num_inverse_blocks,
    rolled_block_order,
)


def slow_blocks(numbers, ties, grid, num_masked):
    """One image: which patches are masked, rectangle by rectangle (BEiT, algorithm 1)."""
    masked: list[int] = []
    smallest = max(1.0, 16 / 196 * grid[0] * grid[1])
    for area, aspect, top, left in np.asarray(numbers, np.float64).reshape(-1, 4):
        missing = num_masked - len(masked)
        if missing <= 0:
            break
        area = smallest + area * max(0.0, missing - smallest)
        aspect = math.exp((2 * aspect - 1) * math.log(1 / 0.3))
        height = min(max(round(math.sqrt(area * aspect)), 1), grid[0])
        width = min(max(round(math.sqrt(area / aspect)), 1), grid[1])
        top, left = int(top * (grid[0] - height + 1)), int(left * (grid[1] - width + 1))
        block = [y * grid[1] + x for y in range(top, top + height) for x in range(left, left + width)]
        masked += [patch for patch in block if patch not in masked][:missing]
    rest = [patch for patch in range(len(ties)) if patch not in masked]
    rest.sort(key=lambda patch: float(ties[patch]))
    return set(masked + rest[: num_masked - len(masked)])


@pytest.mark.parametrize(
    ("grid", "share"), [((14, 14), 0.75), ((14, 14), 0.5), ((6, 10), 0.75), ((4, 4), 0.75), ((14, 14), 0.95)]
)
def test_blocks_equal_the_slow_reference(grid, share):
    num_patches = grid[0] * grid[1]
    num_masked = num_patches - int(num_patches * (1 - share))
    numbers = torch.rand(30, 4 * NUM_BLOCKS, dtype=torch.float64)
    ties = torch.rand(30, num_patches, dtype=torch.float64)
    orders = block_order(numbers, ties, grid, num_masked)
    assert (orders.sort(1).values == torch.arange(num_patches)).all()
    for order, own, tie in zip(orders, numbers, ties, strict=True):
        assert set(order[num_patches - num_masked :].tolist()) == slow_blocks(own, tie, grid, num_masked)


def test_every_image_may_have_its_own_share():
    """Of few rectangles, too."""
    counts = torch.tensor([0, 1, 7, 50, 98])
    numbers, ties = torch.rand(5, 4 * 6, dtype=torch.float64), torch.rand(5, 196, dtype=torch.float64)
    together = block_order(numbers, ties, (14, 14), counts[:, None])
    for place, count in enumerate(counts.tolist()):
        (alone,) = block_order(numbers[place, None], ties[place, None], (14, 14), count)
        assert torch.equal(together[place], alone)
        assert set(alone[196 - count :].tolist()) == slow_blocks(numbers[place], ties[place], (14, 14), count)


def test_blocks_are_larger_than_what_is_drawn_patch_by_patch():
    """Of neighbours of masked patches far more are masked, too: so it is a harder task."""
    numbers = torch.rand(200, 4 * NUM_BLOCKS)
    ties = torch.rand(200, 196)
    masked = torch.zeros(2, 200, 196, dtype=torch.bool)
    for mask, order in zip(masked, (block_order(numbers, ties, (14, 14), 98), ties.argsort(1)), strict=True):
        mask.scatter_(1, order[:, 98:], True)
    images = masked.view(2, 200, 14, 14)
    alike = (images[..., 1:] == images[..., :-1]).float().mean((1, 2, 3))
    assert alike[0] > 0.85 and abs(alike[1] - 0.5) < 0.02


def test_a_grid_keeps_one_patch_of_every_square_of_four():
    orders = grid_order(torch.tensor([[0.0], [0.3], [0.6], [0.99]]), (4, 6))
    kept = [{(patch // 6, patch % 6) for patch in order[:6].tolist()} for order in orders]
    for place, found in enumerate(kept):
        top, left = divmod(place, 2)
        assert found == {(y, x) for y in range(top, 4, 2) for x in range(left, 6, 2)}
    assert (orders.sort(1).values == torch.arange(24)).all()


@pytest.mark.parametrize(
    ("ratio", "grid", "said"),
    [(0.5, None, "mask_ratio 0.5.*0.75"), (0.75, (7, 7), "7 x 7 patches"), (0.75, (8, 7), "8 x 7 patches")],
)
def test_a_grid_that_cannot_be_is_refused(ratio, grid, said):
    with pytest.raises(UserError, match=said):
        check_mask("grid", ratio, grid)
    check_mask("block", ratio, grid)
    check_mask("grid", 0.75, (8, 6))


@pytest.mark.parametrize("side", [1, 2, 3])
def test_inverse_blocks_are_the_union_of_the_first_squares(side):
    grid, count, visible = (7, 5), 40, 12
    generator = torch.Generator().manual_seed(side)
    draws = num_inverse_blocks(visible, side)
    centres, ties = torch.rand(count, 2 * draws, generator=generator), torch.rand(count, 35, generator=generator)
    orders = inverse_block_order(centres, ties, grid, side)
    assert torch.equal(orders.sort(1).values, torch.arange(35).expand(count, -1))
    for order, numbers in zip(orders.tolist(), centres.tolist(), strict=True):
        covered: list[int] = []
        for at in range(draws):
            row, column = (int(numbers[2 * at + axis] * grid[axis]) - (side - 1) // 2 for axis in (0, 1))
            square = [y * 5 + x for y in range(row, row + side) for x in range(column, column + side)
                      if 0 <= y < 7 and 0 <= x < 5]  # fmt: skip
            new = {patch for patch in square if patch not in covered}
            assert set(order[len(covered) : len(covered) + len(new)]) == new
            covered += sorted(new)
        assert len(covered) >= visible


def test_a_rolled_block_is_one_rectangle_that_comes_back_at_the_other_side():
    grid, count, visible = (6, 5), 60, 11
    generator = torch.Generator().manual_seed(0)
    numbers, ties = torch.rand(count, 3, generator=generator), torch.rand(count, 30, generator=generator)
    orders = rolled_block_order(numbers, ties, grid, visible)
    assert torch.equal(orders.sort(1).values, torch.arange(30).expand(count, -1))
    wrapped, heights = 0, set()
    for order, (aspect, top, left) in zip(orders.tolist(), numbers.tolist(), strict=True):
        height = min(max(round(math.sqrt(visible * 4 ** (aspect - 0.5))), math.ceil(visible / 5)), 6)
        width = math.ceil(visible / height)
        square = [(int(top * 6) + row, int(left * 5) + column) for row in range(height) for column in range(width)]
        assert order[:visible] == [y % 6 * 5 + x % 5 for y, x in square[:visible]]
        wrapped += any(y >= 6 or x >= 5 for y, x in square)
        heights.add(height)
    assert wrapped and len(heights) > 1
    seen = torch.zeros(count, 30).scatter(1, orders[:, :visible], 1.0)
    assert seen.sum() == count * visible
