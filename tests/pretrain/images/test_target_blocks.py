"""Multi-block masks against loops over patches, written from the rule."""

import math

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.images.target_blocks import Blocks, multi_block

PAPER = Blocks(
    grid=(14, 14),
    num_targets=4,
    target_scale=(0.15, 0.2),
    target_aspect=(0.75, 1.5),
    context_scale=(0.85, 1.0),
    context_ratio=0.25,
)
SMALL = Blocks(
    grid=(4, 6),
    num_targets=3,
    target_scale=(0.2, 0.4),
    target_aspect=(0.3, 3.0),
    context_scale=(0.5, 0.9),
    context_ratio=0.4,
)


def make_draws(blocks: Blocks, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(count, blocks.num_draws, dtype=torch.float64), torch.rand(
        count, blocks.num_patches, dtype=torch.float64
    )


def slow_rectangle(area, aspect, top, left, grid):
    height = min(max(round(math.sqrt(area * aspect)), math.ceil(area / grid[1]), 1), grid[0])
    width = min(max(math.ceil(area / height), 1), grid[1])
    top, left = int(top * (grid[0] - height + 1)), int(left * (grid[1] - width + 1))
    return {y * grid[1] + x for y in range(top, top + height) for x in range(left, left + width)}


def slow_blocks(draws, ties, blocks):
    """One image: what is seen, and of each target block all patches."""
    count, rows = blocks.num_patches, np.asarray(draws).reshape(-1, 4)
    targets, covered = [], set()
    for area, aspect, top, left in rows[:-1]:
        low, high = blocks.target_scale
        size = math.floor(count * (low + area * (high - low)))
        low, high = blocks.target_aspect
        block = slow_rectangle(size, low + aspect * (high - low), top, left, blocks.grid)
        if targets and count - len(covered | block) < int(count * blocks.context_ratio):
            block = targets[-1]
        targets.append(block)
        covered |= block
    low, high = blocks.context_scale
    area, _, top, left = rows[-1]
    context = slow_rectangle(math.floor(count * (low + area * (high - low))), 1.0, top, left, blocks.grid)
    left_over = sorted(set(range(count)) - covered, key=lambda patch: (patch not in context, float(ties[patch])))
    return left_over[: int(count * blocks.context_ratio)], targets


@pytest.mark.parametrize("blocks", [PAPER, SMALL], ids=["paper", "small"])
def test_they_equal_the_slow_reference(blocks):
    draws, ties = make_draws(blocks, 60)
    seen, predicted = multi_block(draws, ties, blocks)
    moved = 0
    for place in range(60):
        expected, targets = slow_blocks(draws[place], ties[place], blocks)
        assert seen[place].tolist() == expected
        moved += len(targets) - len({frozenset(block) for block in targets})
        for ours, block in zip(predicted[place].tolist(), targets, strict=True):
            assert ours == sorted(block, key=lambda patch: float(ties[place, patch]))[: len(ours)]
            assert len(block) >= len(ours) == int(blocks.num_patches * blocks.target_scale[0])
    assert moved or blocks is PAPER  # a block that left too little lay where another did


def test_nothing_that_is_predicted_is_seen():
    draws, ties = make_draws(PAPER, 2000)
    seen, predicted = multi_block(draws, ties, PAPER)
    marks = torch.zeros(2, 2000, 196, dtype=torch.bool)
    marks[0].scatter_(1, seen, True)
    marks[1].scatter_(1, predicted.flatten(1), True)
    assert not (marks[0] & marks[1]).any()
    assert (marks[0].sum(1) == 49).all() and predicted.shape == (2000, 4, 29)
    assert (predicted.sort(2).values.diff(dim=2) > 0).all()  # no patch twice in a block


def test_every_patch_has_its_turn():
    """Also the last rows, which the authors' code cuts off most often; the middle is predicted more often."""
    draws, ties = make_draws(PAPER, 4000)
    seen, predicted = (places.flatten() for places in multi_block(draws, ties, PAPER))
    for places in (seen, predicted):
        counts = places.bincount(minlength=196).view(14, 14).double()
        assert counts.min() > 0
        rows = counts.sum(1)
        assert torch.allclose(rows, rows.flip(0), rtol=0.1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"context_ratio": 0.9}, r"objective\.context_ratio 0\.9: a block of 52 of 196 patches leaves fewer than 176"),
        ({"grid": (2, 2)}, r"objective\.target_scale \(0\.15, 0\.2\): is no whole patch of 4"),
        ({"context_ratio": 0.001}, r"objective\.context_ratio 0\.001: is no whole patch of 196"),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    values = {name: getattr(PAPER, name) for name in PAPER.__dataclass_fields__}
    with pytest.raises(UserError, match=said):
        Blocks(**(values | changes)).check()
    PAPER.check()
