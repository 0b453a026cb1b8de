"""How well segmentations agree with masks: mean intersection over union, exact in integers, and how sure it is.

What is kept of each image are three integers per class (pixels right, answered, true), whose sums give everything, so
that no order of images and no division of them among processes plays a part.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int, Int64, UInt8
from torch import Tensor

NOTHING = 255
"""In masks that are judged: pixels that say nothing."""
NUM_RESAMPLES = 2000


def tally(
    answers: Int[Tensor, "n h w"] | UInt8[Tensor, "n h w"], masks: UInt8[Tensor, "n h w"], num_classes: int
) -> Int64[np.ndarray, "n 3 classes"]:
    """Counts the pixels of each image; those whose mask says nothing count nowhere.

    Args:
        answers: the class given to each pixel, 0..num_classes-1.
        masks: the true ones; NOTHING where there is none.
        num_classes: how many there are, up to 255.

    Returns:
        Of each image and class: pixels that are right, that were answered so, and that truly are so.
    """
    counts = []
    for answer, mask in zip(answers.flatten(1).long(), masks.flatten(1).long(), strict=True):
        known = mask != NOTHING
        answer, mask = answer[known], mask[known]
        right = mask[mask == answer]
        counts.append(torch.stack([part.bincount(minlength=num_classes) for part in (right, answer, mask)]))
    return torch.stack(counts).cpu().numpy()


def mean_iou(counts: Int64[np.ndarray, "*n 3 classes"]) -> Float64[np.ndarray, "*n"]:
    """Intersection over union of each class that is there or was answered, and the mean over those classes.

    Args:
        counts: of images, or their sums. Where no pixel counts, the mean is 1: nothing is wrong.
    """
    right, answered, true = np.moveaxis(counts, -2, 0).astype(np.float64)
    union = answered + true - right
    ratios = np.divide(right, union, out=np.zeros_like(union), where=union > 0)
    num_present = (union > 0).sum(-1)
    return np.where(num_present > 0, ratios.sum(-1) / np.maximum(num_present, 1), 1.0)


def pixel_accuracy(counts: Int64[np.ndarray, "n 3 classes"]) -> float:
    """Share of all pixels that are right."""
    right, _, true = counts.sum((0, 2)).tolist()
    return right / max(true, 1)


def bootstrap_interval(
    counts: Float64[np.ndarray, "n ..."] | Int64[np.ndarray, "n ..."],
    confidence: float = 0.95,
    *,
    statistic: Callable[[Any], Float64[np.ndarray, "*n"]] = mean_iou,
) -> tuple[Any, Any]:
    """Percentile bootstrap (Efron 1979) of the mean IoU over all pixels: about the choice of test images.

    Whole images are drawn again, with replacement, since the pixels of one image depend on each other.

    Args:
        counts: of the test images.
        confidence: probability with which the interval is to cover the true value.
        statistic: what is made of the sums of images, if it is not the mean IoU: one number, or several.

    Returns:
        Lower and upper end: two numbers, or arrays of them.
    """
    generator = np.random.default_rng(0)
    num_images = len(counts)
    draws = generator.multinomial(num_images, np.full(num_images, 1 / num_images), NUM_RESAMPLES)
    sums = (draws @ counts.reshape(num_images, -1)).reshape(NUM_RESAMPLES, *counts.shape[1:])
    low, high = np.quantile(statistic(sums), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high
