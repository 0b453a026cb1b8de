"""Images to try colour operations on, and what torchvision makes of them."""

import torch
from sklearn.datasets import load_sample_images
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from eyespot.data_pipeline.augment.color import blur, brightness, contrast, hue, saturation, solarize


def photographs(size: int) -> torch.Tensor:
    """(4, 3, size, size), whole levels."""
    images = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]
    parts = [image[:, :, begin : begin + 427] for image in images for begin in (0, 200)]
    return torch.stack([tv.resize(part, [size, size], antialias=True) for part in parts]).float()


def noise(count: int, size: int) -> torch.Tensor:
    """Floating-point levels with whole ones, grays, and both ends among them."""
    levels = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 255
    levels[:, :, 0] = levels[:, :, 0].round()
    levels[:, :, 1] = levels[:, :1, 1]
    levels[:, :, 2] = (levels[:, :, 2] > 128) * 255.0
    levels[:, 1, 3] = levels[:, 0, 3]
    return levels


def gaussian_blur(image, sigma):
    taps = 2 * (v2.functional.get_size(image)[0] // 20) + 1
    return tv.gaussian_blur(image, [taps, taps], [sigma, sigma])


PEERS = {
    brightness: tv.adjust_brightness,
    contrast: tv.adjust_contrast,
    saturation: tv.adjust_saturation,
    hue: tv.adjust_hue,
    blur: gaussian_blur,
    solarize: lambda image, _: tv.solarize(image, 128 / 255 if isinstance(image, torch.Tensor) else 128),
}
