"""Images mixed with one another, and the soft targets of what comes out: mixup, CutMix, label smoothing.

mixup: Zhang et al. 2018, arXiv:1710.09412. CutMix: Yun et al. 2019, arXiv:1905.04899. Label smoothing: Szegedy et al.
2016, arXiv:1512.00567, section 7. As in the fine-tuning of DeiT, BEiT and MAE, each batch is mixed in one of the two
ways, with one weight; image i of b is mixed with image b - 1 - i, so the one in the middle of an odd batch stays.

A batch here is a micro-batch of one rank: it mixes what it holds. With a generator made from the step and the place of
the micro-batch, two ranks do what one process does in two micro-batches; a batch that is cut otherwise has other pairs.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le, Lt
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.data_pipeline.ranges import check_ranges

Strength = Annotated[float, Ge(0), "must be above 0, or 0 to leave it out"]

Box = tuple[slice, slice]
"""Rows and columns of an image."""


@dataclass(kw_only=True, slots=True, frozen=True)
class MixConfig:
    """What is done to images and labels; by default nothing."""

    mixup: Strength = 0.0
    """Both parameters of the beta distribution that mixup's weight is drawn from; 0 = no mixup."""
    cutmix: Strength = 0.0
    """Both parameters of the beta distribution that the share of CutMix's kept area is drawn from; 0 = no CutMix."""
    switch: Annotated[float, Ge(0), Le(1), "is a probability, so it must lie in 0..1"] = 0.5
    """Probability that a batch gets CutMix where both are on."""
    smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of each target that is spread evenly over all classes."""

    def __post_init__(self) -> None:
        check_ranges(self)


def mix(
    images: Float[Tensor, "b 3 h w"],
    labels: Int[Tensor, " b"],
    *,
    num_classes: int,
    config: MixConfig,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b c"]]:
    """The batch mixed with itself reversed, and the share of each class in each image.

    Args:
        images: normalised; they stay as they are.
        labels: classes, 0 to ``num_classes`` - 1.
        num_classes: width of the targets.
        config: what to do.
        generator: on the CPU; the same state gives the same batch.

    Returns:
        Images, and float32 targets whose rows sum to 1: for ``cross_entropy``.
    """
    targets = soft_targets(labels, num_classes, config.smoothing)
    if not (config.mixup or config.cutmix):
        return images, targets
    draws = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    cuts = config.cutmix > 0 and (config.mixup == 0 or draws.random() < config.switch)
    weight = float(draws.beta(config.cutmix, config.cutmix) if cuts else draws.beta(config.mixup, config.mixup))
    if cuts:
        box, weight = cut_box(images.shape[2], images.shape[3], weight, draws)
        mixed = images.clone()
        mixed[:, :, *box] = images.flip(0)[:, :, *box]
    else:
        mixed = images * weight + images.flip(0) * (1 - weight)
    return mixed, targets * weight + targets.flip(0) * (1 - weight)


def soft_targets(labels: Int[Tensor, " b"], num_classes: int, smoothing: float) -> Float[Tensor, "b c"]:
    """1 - smoothing for the label, and smoothing spread evenly over all classes, the label's among them."""
    even = smoothing / num_classes
    targets = torch.full((len(labels), num_classes), even, device=labels.device)
    return targets.scatter_(1, labels.long()[:, None], 1 - smoothing + even)


def cut_box(height: int, width: int, kept: float, draws: np.random.Generator) -> tuple[Box, float]:
    """What comes from the other image: around a random pixel, of the image's shape, clipped at its borders.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        kept: share of the area that should stay.
        draws: where the middle lies.

    Returns:
        The box, and the share of the area that does stay.
    """
    scale = np.sqrt(1 - kept)
    sides: list[slice] = []
    for length in (height, width):
        side, middle = int(length * scale), int(draws.integers(length))
        sides.append(slice(max(middle - side // 2, 0), min(middle + (side + 1) // 2, length)))
    rows, columns = sides
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return (rows, columns), 1 - area / (height * width)
