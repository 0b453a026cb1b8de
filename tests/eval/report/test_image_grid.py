import base64
import io
import re

import numpy as np
import torch
from PIL import Image

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.eval.report.image_grid import (
    FRAME,
    GAP,
    MAX_SIDE,
    MIN_SIDE,
    RIGHT,
    Plate,
    draw_plate,
    enlarged,
    heat,
    visible,
)


def pixels_of(plate: Plate) -> np.ndarray:
    match = re.fullmatch(r"data:image/webp;base64,(.*)", plate.source)
    assert match
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(match[1]))).convert("RGBA")).astype(int)


def test_small_images_are_enlarged_and_what_lies_between_is_transparent():
    red, blue = (torch.zeros(3, 16, 16).index_fill(0, torch.tensor(c), 1.0) for c in (0, 2))
    plate = draw_plate([[red, blue], [None, red]], alt="<two>", heads=["1", "2"], frames={(0, 1): RIGHT})
    pixels = pixels_of(plate)
    assert pixels.shape == (2 * MIN_SIDE + GAP, 2 * MIN_SIDE + GAP, 4) == (plate.height, plate.width, 4)
    assert (plate.alt, plate.columns, plate.caption) == ("<two>", 2, "")
    assert (
        not pixels[:, MIN_SIDE + 1 : MIN_SIDE + GAP - 1, 3].any() and not pixels[MIN_SIDE + GAP :, :MIN_SIDE, 3].any()
    )
    middle = MIN_SIDE // 2
    assert abs(pixels[middle, middle, :3] - [255, 0, 0]).max() < 12
    assert abs(pixels[middle, MIN_SIDE + GAP + middle, :3] - [0, 0, 255]).max() < 12
    assert abs(pixels[middle, MIN_SIDE + GAP + FRAME // 2, :3] - RIGHT).max() < 40


def test_large_images_are_made_smaller():
    plate = draw_plate([[torch.rand(3, 300, 400)]], alt="")
    assert pixels_of(plate).shape == (MAX_SIDE, round(400 * MAX_SIDE / 300), 4)


def test_normalisation_is_undone():
    spec = ViewSpec(views=(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    pixels = torch.rand(2, 3, 4, 4)
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    torch.testing.assert_close(visible((pixels - mean) / std, spec), pixels)
    assert visible(torch.full((1, 3, 1, 1), 99.0), spec).max() == 1


def test_more_heat_is_lighter():
    colors = heat(torch.linspace(-3, 5, 50)[None])
    lightness = colors[:, 0].T @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (lightness.diff() > 0).all() and lightness[0] < 0.1 and lightness[-1] > 0.9
    assert heat(torch.ones(2, 2)).isfinite().all()


def test_enlarging_makes_nothing_up():
    maps = torch.rand(3, 2, 2)
    assert torch.equal(enlarged(maps, 6, 6), maps.repeat_interleave(3, 1).repeat_interleave(3, 2))
