"""A picture shows the pixels that went in."""

import numpy as np
import torch
from PIL import Image

from eyespot.data_pipeline.views import ViewSpec
from eyespot.pretrain.pictures import MIN_HEIGHT, write_picture


def test_pixels_survive_normalisation_and_enlarging(tmp_path):
    spec = ViewSpec(views=(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    pixels = torch.arange(3 * 4 * 6).reshape(3, 4, 6) * 3
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    write_picture((pixels / 255 - mean) / std, spec, tmp_path / "pictures" / "a.png")
    shown = np.asarray(Image.open(tmp_path / "pictures" / "a.png"))
    factor = MIN_HEIGHT // 4
    assert shown.shape == (4 * factor, 6 * factor, 3)
    assert (shown[::factor, ::factor] == pixels.permute(1, 2, 0).numpy()).all()
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["a.png"]


def test_values_outside_are_clamped(tmp_path):
    spec = ViewSpec(views=(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    write_picture(torch.tensor([-5.0, 5.0]).expand(3, 1, 2), spec, tmp_path / "a.png")
    shown = np.asarray(Image.open(tmp_path / "a.png"))
    assert (shown[0, 0] == 0).all()
    assert (shown[0, -1] == 255).all()
