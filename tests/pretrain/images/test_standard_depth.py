"""Standardised depth against a loop over the pixels of each map."""

import math

import torch

from eyespot.pretrain.images.standard_depth import standard_depth


def make_depth() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    depth = 500 + 1000 * torch.rand(6, 1, 5, 7, generator=generator, dtype=torch.float64)
    depth[1, 0, :2] = 0  # nothing measured in two rows
    depth[2] = 0
    depth[3] = 800
    depth[4] = 0
    depth[4, 0, 2, 3] = 700
    depth[5, 0, 0, 0] = 60_000  # one pixel very far away
    return depth


def slow(depth: torch.Tensor) -> list[float]:
    """Pixel by pixel, of one map."""
    values = sorted(value for value in depth.flatten().tolist() if value > 0)
    cut = int(0.1 * len(values))
    middle = values[cut : len(values) - cut]
    if not middle:
        return [0.0] * depth.numel()
    mean = sum(middle) / len(middle)
    variance = sum((value - mean) ** 2 for value in middle) / len(middle)
    deviation = math.sqrt(variance + (1e-3 * mean) ** 2)
    return [
        min(max((value - mean) / deviation, -10.0), 10.0) if value > 0 else 0.0 for value in depth.flatten().tolist()
    ]


def test_it_equals_the_slow_reference():
    depth = make_depth()
    found, known = standard_depth(depth)
    assert torch.equal(known, depth > 0)
    expected = torch.tensor([slow(one) for one in depth], dtype=torch.float64).view_as(depth)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert found.abs()[2:5].max() == 0, "nothing, a wall and a single pixel"


def test_the_unit_plays_no_part_and_one_far_pixel_moves_nothing():
    depth = make_depth()
    found, _ = standard_depth(depth)
    assert torch.allclose(standard_depth(0.001 * depth)[0], found, atol=1e-12)
    farther = depth.clone()
    farther[5, 0, 0, 0] = 65_000
    assert torch.equal(standard_depth(farther)[0][5], found[5]) and found[5, 0, 0, 0] == 10
