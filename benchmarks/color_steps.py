"""What does each colour step cost? Ours against torchvision on 8-bit tensors and on PIL images, one thread.

    python benchmarks/color_steps.py

CPU time per view, the best of several: at 224 px one view at a time, at 32 px 64 at a time, as the loader works.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image, ImageFilter
from results import write_results
from sklearn.datasets import load_sample_images
from torchvision.transforms.v2 import functional as tv

from eyespot.data_pipeline.augment import color

Change = Callable[[Any, float], Any]


def linear_hue(levels: torch.Tensor, turns: np.ndarray) -> None:
    """The cheapest hue there is, which we do not have: one matrix per image turns the plane of IQ in YIQ."""
    yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
    for image, angle in zip(levels, (2 * np.pi * turns).tolist(), strict=True):
        turn = torch.eye(3)
        turn[1:, 1:] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        image.copy_((yiq.inverse() @ turn @ yiq @ image.flatten(1)).view_as(image))
    levels.clamp_(0, 255)


def blur_tensor(image: torch.Tensor, sigma: float) -> torch.Tensor:
    taps = 2 * (image.shape[-1] // 20) + 1
    return tv.gaussian_blur(image, [taps, taps], [sigma, sigma])


def blur_pil(image: Image.Image, sigma: float) -> Image.Image:
    """Three box filters: close to a Gaussian."""
    return image.filter(ImageFilter.GaussianBlur(sigma))


CASES: list[tuple[Callable[[torch.Tensor, np.ndarray], None], float, Change | None, Change | None]] = [
    (color.brightness, 1.3, tv.adjust_brightness, tv.adjust_brightness),
    (color.contrast, 1.3, tv.adjust_contrast, tv.adjust_contrast),
    (color.saturation, 1.3, tv.adjust_saturation, tv.adjust_saturation),
    (color.hue, 0.1, tv.adjust_hue, tv.adjust_hue),
    (linear_hue, 0.1, None, None),
    (color.blur, 0.5, blur_tensor, blur_pil),
    (color.blur, 1.0, blur_tensor, blur_pil),
    (color.blur, 2.0, blur_tensor, blur_pil),
    (color.solarize, 128.0, tv.solarize, tv.solarize),
]


def microseconds(operation: Callable[[], Any], count: int) -> float:
    """CPU time per view, the best of several."""
    best = float("inf")
    for _ in range(20):
        begin = time.thread_time()
        operation()
        best = min(best, time.thread_time() - begin)
    return 1e6 * best / count


def each(change: Change, images: Any, amount: float) -> None:
    for image in images:
        change(image, amount)


def rows(size: int, count: int) -> Iterator[list[str]]:
    photograph = torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1)
    pixels = tv.resize(photograph, [size, size], antialias=True).repeat(count, 1, 1, 1)
    images = [tv.to_pil_image(image) for image in pixels]
    for ours, amount, on_tensor, on_pil in CASES:
        if size < 64 and ours is color.blur:
            continue
        levels, amounts = pixels.float(), np.full(count, amount, np.float32)
        times = [f"{microseconds(partial(ours, levels, amounts), count):.1f}"]
        for peer, inputs in ((on_tensor, pixels), (on_pil, images)):
            times.append(f"{microseconds(partial(each, peer, inputs, amount), count):.1f}" if peer else "")
        yield [f"{size} px", f"{ours.__name__} {amount:g}", *times]


def main() -> None:
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = [*rows(224, 1), *rows(32, 64)]
    write_results(
        "color_steps",
        title="Microseconds of CPU time per view",
        header=["view", "step", "eyespot", "torchvision, 8-bit tensor", "PIL"],
        rows=found,
        details={"versions": {"torchvision": torchvision.__version__}},
    )


if __name__ == "__main__":
    main()
