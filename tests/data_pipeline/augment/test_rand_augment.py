"""RandAugment's operations against PIL and a slow resampling in float64; its draws against timm's."""

from functools import partial

import numpy as np
import pytest
import torch
from color_peers import noise, photographs
from PIL import Image, ImageEnhance, ImageOps
from scipy.stats import ks_2samp
from timm.data.auto_augment import LEVEL_TO_ARG, rand_augment_transform
from torchvision.transforms.v2 import functional as tv

from eyespot.data_pipeline.augment import rand_augment
from eyespot.data_pipeline.augment.rand_augment import (
    CHOICES,
    add_below,
    autocontrast,
    draw_steps,
    equalize,
    invert,
    invert_above,
    posterize,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
from eyespot.data_pipeline.random_numbers import normals, uniforms

COUNT = 20_000


def changed(operation, levels: torch.Tensor, amount: float) -> torch.Tensor:
    found = levels.clone()
    operation(found, np.full(len(found), amount, np.float32))
    return found


def in_pil(change, levels: torch.Tensor) -> torch.Tensor:
    return torch.stack([tv.pil_to_tensor(change(tv.to_pil_image(image.byte()))) for image in levels]).float()


def pictures(size: int) -> torch.Tensor:
    """Photographs, noise, one dark photograph (as few levels as equalize can meet), one plain and one almost plain."""
    photos = photographs(size)
    plain = torch.full((2, 3, size, size), 77.0)
    plain[1, :, 0, 0] = 78
    return torch.cat([photos, noise(2, size).round(), (photos[:1] / 16).floor(), plain])


def solarize_add(add: int, image: Image.Image) -> Image.Image:
    return image.point([min(255, level + add) if level < 128 else level for level in range(256)] * 3)


@pytest.mark.parametrize("size", [8, 33, 224])
@pytest.mark.parametrize(
    ("operation", "amount", "peer"),
    [
        (equalize, 0, ImageOps.equalize),
        (invert, 0, ImageOps.invert),
        *((posterize, bits, partial(ImageOps.posterize, bits=bits)) for bits in (1, 2, 4)),
        *((invert_above, at, partial(ImageOps.solarize, threshold=at)) for at in (0, 26, 128, 256)),
        *((add_below, add, partial(solarize_add, add)) for add in (0, 33, 110)),
    ],
)
def test_operations_on_whole_levels_are_pils(operation, amount, peer, size):
    levels = pictures(size)
    assert torch.equal(changed(operation, levels, amount), in_pil(peer, levels))


@pytest.mark.parametrize("size", [8, 33, 224])
def test_autocontrast_is_pils_but_for_its_cutting_off(size):
    levels = pictures(size)
    error = changed(autocontrast, levels, 0) - in_pil(ImageOps.autocontrast, levels)
    assert error.min() > -1e-4 and error.max() <= 1


def test_differences_that_come_from_rounding_are_not_stretched():
    levels = torch.full((1, 3, 8, 8), 100.0)
    levels[0, 0, 0, 0] += 0.25
    assert torch.equal(changed(autocontrast, levels, 0), levels)


@pytest.mark.parametrize("factor", [0.1, 0.7, 1.0, 1.9])
@pytest.mark.parametrize("size", [8, 33, 224])
def test_sharpness_is_torchvisions_and_pils(factor, size):
    levels = pictures(size)
    found = changed(sharpness, levels, factor)
    assert (found - tv.adjust_sharpness(levels / 255, factor) * 255).abs().max() < 1e-3
    pil = in_pil(lambda image: ImageEnhance.Sharpness(image).enhance(factor), levels)
    assert (found - pil).abs().max() < 1.5  # which rounds the smoothed image, then cuts off


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys 1981, equation 15, with slope -0.75 at distance 1."""
    d, a = np.abs(distance), -0.75
    near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def resampled(image: np.ndarray, matrix: tuple[float, ...], middle: float) -> np.ndarray:
    """Each pixel by itself, in PIL's coordinates: corner at 0, middle of a pixel at 0.5."""
    size = image.shape[1]
    a, b, c, d, e, f = matrix
    result = np.full(image.shape, 128.0)
    for row, column in np.ndindex(size, size):
        x, y = column + 0.5 - middle, row + 0.5 - middle
        right, down = a * x + b * y + c + middle, d * x + e * y + f + middle
        if 0 <= right < size and 0 <= down < size:
            columns, rows = (np.floor(place - 0.5) + np.arange(-1, 3) for place in (right, down))
            weights = np.outer(cubic(down - 0.5 - rows), cubic(right - 0.5 - columns))
            rows, columns = (np.clip(places, 0, size - 1).astype(int) for places in (rows, columns))
            result[:, row, column] = np.clip((image[:, rows[:, None], columns] * weights).sum((1, 2)), 0, 255)
    return result


def turned(degrees: float) -> tuple[float, ...]:
    angle = np.radians(degrees)
    return (np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0)


GEOMETRY = {
    rotate: (17.3, turned),
    shear_x: (-0.27, lambda slope: (1, slope, 0, 0, 1, 0)),
    shear_y: (0.21, lambda slope: (1, 0, 0, slope, 1, 0)),
    translate_x: (0.31, lambda share: (1, 0, 24 * share, 0, 1, 0)),
    translate_y: (-0.41, lambda share: (1, 0, 0, 0, 1, 24 * share)),
}


@pytest.mark.parametrize("operation", GEOMETRY, ids=lambda operation: operation.__name__)
def test_moved_views_are_those_of_a_loop_over_pixels(operation):
    amount, matrix = GEOMETRY[operation]
    levels = photographs(24)[:2]
    for each in (amount, -amount, 0.0):
        found = changed(operation, levels, each)
        for image, view in zip(levels.double().numpy(), found.numpy(), strict=True):
            expected = resampled(image, matrix(each), middle=12 if operation is rotate else 0)
            assert np.abs(view - expected).max() < 0.02
    assert torch.allclose(changed(operation, levels, 0.0), levels, atol=1e-3)


@pytest.mark.parametrize(
    ("operation", "amount", "peer"),
    [
        (rotate, -23.0, lambda image, amount, **how: image.rotate(amount, **how)),
        (shear_x, 0.213, lambda image, slope, **how: image.transform(image.size, 0, (1, slope, 0, 0, 1, 0), **how)),
        (shear_y, -0.213, lambda image, slope, **how: image.transform(image.size, 0, (1, 0, 0, slope, 1, 0), **how)),
        (translate_x, 0.3, lambda image, t, **how: image.transform(image.size, 0, (1, 0, 96 * t, 0, 1, 0), **how)),
        (translate_y, 0.3, lambda image, t, **how: image.transform(image.size, 0, (1, 0, 0, 0, 1, 96 * t), **how)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_moved_views_are_pils_but_for_the_weights(operation, amount, peer):
    def moved(image):
        return peer(image, amount, resample=Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))

    white = torch.full((1, 3, 96, 96), 255.0)
    assert ((changed(operation, white, amount) != 128) != (in_pil(moved, white) != 128)).sum() <= 3, "the same outside"
    levels = photographs(96)
    error = (changed(operation, levels, amount) - in_pil(moved, levels)).abs()
    assert error.mean() < 1 and error.max() < 25


def test_the_choices_are_timms():
    """In its order, with its amounts at many magnitudes in both directions."""
    theirs = rand_augment_transform("rand-m9-mstd0.5-inc1", {}).ops
    assert len(theirs) == len(CHOICES)
    strengths = np.linspace(0, 1, 41)
    for (operation, amount), peer in zip(CHOICES, theirs, strict=True):
        level_to_arg = LEVEL_TO_ARG[peer.name]
        if level_to_arg is None:
            continue
        both = {sign: amount(strengths, np.full(41, sign)) for sign in (-1.0, 1.0)}
        for place, strength in enumerate(strengths):
            expected = {round(level_to_arg(10 * strength, {})[0], 9) for _ in range(40)}
            if operation is posterize:  # to 0 bits: a black view
                expected = {max(expected.pop(), 1)}
            assert {round(both[sign][place].item(), 9) for sign in both} == expected, operation.__name__


def draws(magnitude: float = 9.0, std: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    ids = np.arange(COUNT)
    numbers = uniforms(0, 0 * ids, ids, "view0/rand-augment", rand_augment.NUM_DRAWS)
    return draw_steps(magnitude, std, numbers, normals(0, 0 * ids, ids, "view0/magnitude", rand_augment.NUM_STEPS))


def test_each_choice_is_as_likely_and_half_of_them_are_done():
    which, _ = draws()
    assert which.shape == (COUNT, 2)
    counts = np.bincount(which.ravel() + 1, minlength=len(CHOICES) + 1) / which.size
    assert abs(counts[0] - 0.5) < 0.01
    assert np.abs(counts[1:] - 0.5 / len(CHOICES)).max() < 0.004
    both = (which >= 0).all(1).mean(), (which[:, 0] == which[:, 1])[(which >= 0).all(1)].mean()
    assert abs(both[0] - 0.25) < 0.015 and abs(both[1] - 1 / len(CHOICES)) < 0.015, "the two are independent"


def test_magnitudes_are_normal_and_cut_off_and_signs_are_even():
    which, amounts = draws()
    turns = amounts[which == 3] / 3  # rotate: 30 degrees at 10
    assert abs((turns > 0).mean() - 0.5) < 0.03
    theirs = np.clip(np.random.default_rng(0).normal(9, 0.5, len(turns)), 0, 10)
    assert ks_2samp(np.abs(turns), theirs).pvalue > 1e-3 and np.abs(turns).max() == 10
    which, amounts = draws(5.0, 0.0)
    assert set(np.abs(amounts[which == 3]).tolist()) == {15.0}
