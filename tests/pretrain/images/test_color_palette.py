"""The palette: as many colours as nine bits name, all different, and near to what is in photos."""

import numpy as np

from eyespot.pretrain.images.color_palette import NUM_COLORS, PALETTE, fit_palette, pixels_of


def test_it_has_nine_bits_of_colours():
    colors = np.frombuffer(PALETTE, np.uint8).reshape(-1, 3)
    assert len(np.unique(colors, axis=0)) == NUM_COLORS == 512
    brightness = colors.astype(int).sum(1)
    assert (np.diff(brightness) >= 0).all() and brightness[0] < 30 and brightness[-1] > 735


def test_a_palette_holds_the_colours_that_there_are():
    colors = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 1]], np.float32)
    pixels = colors[np.random.default_rng(0).integers(0, 3, 300)]
    assert fit_palette(pixels, 3).tolist() == [[0, 0, 0], [255, 0, 0], [0, 255, 255]]


def test_pixels_come_from_a_shard_folder(digits, monkeypatch):
    monkeypatch.setattr("eyespot.pretrain.images.color_palette.NUM_IMAGES", 4)
    pixels = pixels_of(str(digits))
    assert pixels.shape == (4 * 32 * 32, 3)
    assert 0 <= pixels.min() < pixels.max() <= 1
