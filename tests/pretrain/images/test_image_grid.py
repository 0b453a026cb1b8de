"""A picture shows the pixels that went in."""

import numpy as np
import torch
from PIL import Image

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.pretrain.images.image_grid import GAP, MIN_SIDE, write_picture


def test_pixels_survive_normalisation_and_enlarging(tmp_path):
    spec = ViewSpec(views=(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    pixels = torch.randint(256, (2, 3, 3, 4, 6), generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    write_picture((pixels / 255 - mean) / std, spec, tmp_path / "pictures" / "a.png")
    shown = np.asarray(Image.open(tmp_path / "pictures" / "a.png"))
    factor = MIN_SIDE // 4
    height, width = 4 * factor, 6 * factor
    assert shown.shape == (2 * height + GAP, 3 * width + 2 * GAP, 3)
    for row in range(2):
        for column in range(3):
            tile = shown[row * (height + GAP) :, column * (width + GAP) :][:height:factor, :width:factor]
            assert (tile == pixels[row, column].permute(1, 2, 0).numpy()).all()
    assert (shown[height : height + GAP] == 255).all()
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["a.png"]


def test_values_outside_are_clamped(tmp_path):
    spec = ViewSpec(views=(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    write_picture(torch.tensor([-5.0, 5.0]).expand(1, 1, 3, 1, 2), spec, tmp_path / "a.png")
    shown = np.asarray(Image.open(tmp_path / "a.png"))
    assert (shown[0, 0] == 0).all()
    assert (shown[0, -1] == 255).all()
