"""Colours against slow references, pixel by pixel, and against published values."""

import math

import numpy as np
import pytest
import torch

from eyespot.pretrain.images.lab_color import (
    SIGMA,
    ColorNames,
    bins,
    normalized,
    pixels,
    thinned,
    to_gray,
    to_lab,
    to_rgb,
)


def random_rgb(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow_lab(rgb: list[float]) -> list[float]:
    """One colour, as CIE and IEC 61966-2-1 write it, with the D65 white (0.95047, 1, 1.08883)."""
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb)
    x = (0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047
    y = (0.2126729 * r + 0.7151522 * g + 0.0721750 * b) / 1.0
    z = (0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883
    fx, fy, fz = (math.cbrt(t) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in (x, y, z))
    return [116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)]


def test_lab_equals_the_slow_reference():
    rgb = random_rgb()
    rgb[0, :, 0] *= 0.03  # below both knees
    found = to_lab(rgb)
    for sample, row, column in np.ndindex(2, 5, 7):
        expected = slow_lab(rgb[sample, :, row, column].tolist())
        assert found[sample, :, row, column].tolist() == pytest.approx(expected, abs=1e-3)  # the white's last digit


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_the_primaries_are_where_everybody_has_them(rgb, lab):
    assert to_lab(torch.tensor(rgb).double().reshape(1, 3, 1, 1)).flatten().tolist() == pytest.approx(lab, abs=0.02)


def test_there_and_back_again():
    rgb = random_rgb()
    rgb[0, :, 0] *= 0.03
    assert torch.allclose(to_rgb(to_lab(rgb)), rgb, atol=1e-9)
    assert torch.allclose(pixels(normalized(rgb)), rgb, atol=1e-12)
    single = rgb.float()
    assert torch.allclose(to_rgb(to_lab(single)), single, atol=1e-4)


def test_autocast_leaves_colours_alone():
    rgb = random_rgb().float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(to_rgb(to_lab(rgb)), to_rgb(to_lab(rgb)).float())
        found = to_lab(rgb)
    assert torch.equal(found, to_lab(rgb))


def test_gradients_are_finite_in_black_and_white():
    rgb = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).repeat(1, 3, 1, 1).requires_grad_()
    to_rgb(to_lab(rgb)).sum().backward()
    assert rgb.grad.isfinite().all()


def test_bins_are_the_corners_of_all_squares_with_a_colour():
    found = bins()
    assert found.shape == (309, 2)
    levels = torch.linspace(0, 1, 32, dtype=torch.float64)
    rgb = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij"))[None].flatten(3)
    ab = to_lab(rgb)[0, 1:].flatten(1).T.numpy()
    squares = np.unique(np.floor(ab / 10).astype(int), axis=0)
    corners = {(10 * (a + i), 10 * (b + j)) for a, b in squares.tolist() for i in (0, 1) for j in (0, 1)}
    known = set(map(tuple, found.tolist()))
    assert corners <= known
    for a, b in known - corners:  # the look at 32,768 colours misses a sliver of a square
        assert np.abs(ab - (a, b)).max(1).min() < 11.5


def test_a_colour_is_spread_over_its_five_nearest_bins():
    names, colors = ColorNames().double(), torch.tensor([[3.0, -4.0], [-61.2, 44.9], [96.3, -31.2]]).double()
    places, shares = names.encode(colors)
    for color, near, share in zip(colors.tolist(), places.tolist(), shares.tolist(), strict=True):
        distances = [math.dist(color, other) for other in bins().tolist()]
        expected = sorted(range(309), key=lambda number: distances[number])[:5]
        assert near == expected
        heights = [math.exp(-(distances[number] ** 2) / (2 * SIGMA**2)) for number in expected]
        assert share == pytest.approx([height / sum(heights) for height in heights], rel=1e-9)


def test_many_pixels_are_named_in_parts(monkeypatch):
    colors = 50 * torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    names = ColorNames()
    whole = names.encode(colors)
    monkeypatch.setattr("eyespot.pretrain.images.lab_color._PIXELS_AT_ONCE", 3)
    assert all(torch.equal(part, all_at_once) for part, all_at_once in zip(names.encode(colors), whole, strict=True))


def test_rare_colours_count_more():
    """Equation 4, bin by bin; and 1 on average over pixels."""
    names = ColorNames().double()
    seen = torch.randint(0, 1000, (309,), generator=torch.Generator().manual_seed(0))
    names.wait(torch.arange(309).repeat_interleave(seen))
    assert names.seen.sum() == 0
    names.count()
    assert torch.equal(names.seen, seen)
    places, shares = bins().tolist(), [(count + 1) / (int(seen.sum()) + 309) for count in seen.tolist()]
    smooth = [0.0] * 309
    for share, here in zip(shares, places, strict=True):
        kernel = [math.exp(-(math.dist(here, there) ** 2) / (2 * SIGMA**2)) for there in places]
        total = sum(kernel)
        for number, height in enumerate(kernel):
            smooth[number] += share * height / total
    inverse = [1 / (0.5 * share + 0.5 / 309) for share in smooth]
    mean = sum(share * weight for share, weight in zip(smooth, inverse, strict=True))
    assert names.weights(0.5).tolist() == pytest.approx([weight / mean for weight in inverse], rel=1e-5)
    assert torch.allclose(names.weights(1.0), torch.ones(309).double())


def test_a_skipped_step_is_not_counted():
    names = ColorNames()
    names.wait(torch.tensor([1, 1]))
    names.forget()
    names.count()
    assert names.seen.sum() == 0


def test_the_annealed_mean_lies_between_mode_and_mean():
    names, generator = ColorNames().double(), torch.Generator().manual_seed(0)
    logits = torch.randn(1, 309, 2, 2, dtype=torch.float64, generator=generator)
    logits.scatter_add_(1, logits.argmax(1, keepdim=True), torch.ones(1, 1, 2, 2, dtype=torch.float64))  # no near ties
    chances = logits.softmax(1)
    assert torch.allclose(names.mean(logits, 1.0), torch.einsum("bqhw,qc->bchw", chances, names.bins))
    coldest = names.bins[logits.argmax(1)].permute(0, 3, 1, 2)
    assert torch.allclose(names.mean(logits, 1e-3), coldest, atol=1e-6)
    sharper = chances ** (1 / 0.38)
    sharper /= sharper.sum(1, keepdim=True)
    assert torch.allclose(names.mean(logits, 0.38), torch.einsum("bqhw,qc->bchw", sharper, names.bins))


def test_gray_has_the_lightness_and_no_colour():
    lightness = 100 * torch.rand(2, 1, 4, 4, dtype=torch.float64)
    lab = to_lab(to_gray(lightness))
    assert torch.allclose(lab[:, :1], lightness, atol=1e-9)
    assert lab[:, 1:].abs().max() < 1e-9


def test_thinned_images_are_some_of_their_pixels():
    lab = torch.randn(2, 3, 8, 8)
    rows = thinned(lab, 2).reshape(2, 2, 2, 3)
    assert torch.equal(rows, lab[:, :, 2::4, 2::4].permute(0, 2, 3, 1))
