"""Colour jitter, grayscale, blur and solarize against torchvision, on scikit-learn's two photographs and on noise."""

import numpy as np
import pytest
import torch
from color_peers import PEERS, noise, photographs
from torchvision.transforms.v2 import functional as tv

from eyespot.data_pipeline.augment.color import blur, brightness, contrast, gaussian_weights, hue, saturation, solarize

GRAY_ERROR = 0.03
"""Levels: torchvision's weight of red is 0.2989, PIL's and ours is 0.299."""


@pytest.mark.parametrize(
    ("change", "amounts", "tolerance"),
    [
        (brightness, (0.0, 0.6, 1.0, 1.7), 1e-4),
        (contrast, (0.0, 0.4, 1.0, 1.8), 0.6 + GRAY_ERROR),  # the mean is of whole levels
        (saturation, (0.0, 0.4, 1.0, 1.8), GRAY_ERROR),
        (hue, (-0.5, -0.21, 0.0, 0.1, 0.5), 1e-3),
        (blur, (0.1, 0.5, 1.0, 1.99), 0.02),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("size", [33, 96, 224])
def test_each_operation_is_torchvisions_on_floating_point_images(change, amounts, tolerance, size):
    for levels in (photographs(size), noise(3, size)):
        for amount in amounts:
            found = levels.clone()
            change(found, np.full(len(levels), amount, np.float32))
            expected = PEERS[change](levels / 255, amount) * 255
            assert (found - expected).abs().max() <= tolerance


def test_contrast_of_photographs_is_much_closer_than_its_bound():
    levels = photographs(224)
    found = levels.clone()
    contrast(found, np.full(4, 0.2, np.float32))
    assert (found - tv.adjust_contrast(levels / 255, 0.2) * 255).abs().max() < 0.05


def test_solarize_is_torchvisions_on_whole_levels_and_has_no_jump_between():
    levels = photographs(64)
    found = levels.clone()
    solarize(found, np.zeros(4, np.float32))
    assert (found == tv.solarize(levels.byte(), 128).float()).all()
    between = torch.linspace(127, 128, 3 * 16 * 16).view(1, 3, 16, 16)
    solarize(between, np.zeros(1, np.float32))
    assert between.min() == 127 and between.max() <= 127.5


def test_without_saturation_only_torchvisions_gray_is_left():
    levels = photographs(64)
    found = levels.clone()
    saturation(found, np.zeros(4, np.float32))
    assert (found - tv.rgb_to_grayscale(levels / 255, 3) * 255).abs().max() <= GRAY_ERROR
    assert (found == found[:, :1]).all()


def test_weights_are_torchvisions_where_they_matter():
    sigmas = np.array([0.1, 0.77, 2.0], np.float32)
    weights = gaussian_weights(sigmas, 11)
    assert weights.shape == (3, 9)  # 4 sigma
    assert np.allclose(weights[:, 0] + 2 * weights[:, 1:].sum(1), 1, atol=1e-15)
    line = torch.zeros(1, 45, 45)
    line[:, :, 22] = 1
    for row, sigma in enumerate(sigmas.tolist()):
        expected = tv.gaussian_blur(line, [23, 23], [sigma, sigma])[0, 22, 22:31]
        assert np.allclose(weights[row], expected, atol=1e-4)
    assert gaussian_weights(sigmas, 3).shape == (3, 4)
    assert gaussian_weights(sigmas[:1], 11).shape == (1, 2)
