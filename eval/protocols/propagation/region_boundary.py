"""How well a video's masks agree with the true ones: DAVIS's region J and boundary F (Perazzi et al. 2016).

The definitions are those of the official evaluation (davis2017-evaluation). J is intersection over union. F is the
harmonic mean of precision and recall of the boundaries, where a boundary's pixel is right if one of the other boundary
lies within 0.008 of the image's diagonal, rounded up. Where neither mask has a pixel both are 1. Of a video the first
frame is given, and the last does not count either, for whatever reason; of each object the mean over frames counts.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from scipy.ndimage import distance_transform_edt

from eyespot.eval.protocols.mean_iou import NUM_RESAMPLES
from eyespot.eval.results.result import Score

BOUND = 0.008
"""Of the diagonal."""


def region(answer: Bool[np.ndarray, "h w"], true: Bool[np.ndarray, "h w"]) -> float:
    """J: intersection over union."""
    union = np.count_nonzero(answer | true)
    return np.count_nonzero(answer & true) / union if union else 1.0


def boundary(answer: Bool[np.ndarray, "h w"], true: Bool[np.ndarray, "h w"]) -> float:
    """F: how well the outlines agree."""
    bound = math.ceil(BOUND * math.hypot(*true.shape))
    own, other = outline(answer), outline(true)
    num_own, num_other = np.count_nonzero(own), np.count_nonzero(other)
    if not num_own or not num_other:
        return float(num_own == num_other)
    precision = np.count_nonzero(own & _near(other, bound)) / num_own
    recall = np.count_nonzero(other & _near(own, bound)) / num_other
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def outline(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels that differ from the one to the right, below, or between those; nothing beyond the edge differs."""
    wide = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask ^ wide[:-1, 1:]) | (mask ^ wide[1:, :-1]) | (mask ^ wide[1:, 1:])


def _near(line: Bool[np.ndarray, "h w"], bound: int) -> Bool[np.ndarray, "h w"]:
    """What lies within ``bound`` pixels of it."""
    return np.asarray(distance_transform_edt(~line)) <= bound + 1e-6


@dataclass(kw_only=True, slots=True, frozen=True)
class Agreement:
    """J and F of each object of one video, means over its frames."""

    regions: list[float]
    boundaries: list[float]

    @property
    def both(self) -> float:
        """J&F of the video."""
        return float(np.mean([self.regions, self.boundaries]))


def agreement(
    answers: list[UInt8[np.ndarray, "h w"]], masks: list[UInt8[np.ndarray, "h w"]], objects: list[int], ignored: int
) -> Agreement:
    """Of the frames of one video that count.

    Args:
        answers: the object's number for each pixel, 0 where there is none.
        masks: the true ones.
        objects: the numbers to look at: those of the first frame.
        ignored: in masks: pixels that say nothing.
    """
    found = np.zeros((2, len(masks), len(objects)))
    for frame, (answer, mask) in enumerate(zip(answers, masks, strict=True)):
        known = mask != ignored
        for place, number in enumerate(objects):
            pair = (answer == number) & known, (mask == number) & known
            found[:, frame, place] = region(*pair), boundary(*pair)
    regions, boundaries = found.mean(1).tolist()
    return Agreement(regions=regions, boundaries=boundaries)


def scores(videos: list[Agreement]) -> dict[str, Score]:
    """ "J&F", "J" and "F", means over the objects of all videos as in DAVIS's tables, and "video J&F", over videos.

    The intervals of 95 % are percentiles of the bootstrap (Efron 1979): whole videos are drawn again.
    """
    sums = np.array([[sum(video.regions), sum(video.boundaries), len(video.regions)] for video in videos])
    draws = np.random.default_rng(0).multinomial(len(videos), np.full(len(videos), 1 / len(videos)), NUM_RESAMPLES)
    values, again = _means(sums.sum(0)[None])[0], _means(draws @ sums)
    low, high = np.quantile(again, [0.025, 0.975], axis=0)
    found = {
        name: Score(value=float(values[place]), interval=(float(low[place]), float(high[place])))
        for place, name in enumerate(("J&F", "J", "F"))
    }
    each = [round(video.both, 6) for video in videos]
    return {**found, "video J&F": Score(value=float(np.mean(each)), values=each)}


def _means(sums: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    """J&F, J and F from the sums of J and F and the number of objects."""
    regions, boundaries = sums[:, 0] / sums[:, 2], sums[:, 1] / sums[:, 2]
    return np.stack([(regions + boundaries) / 2, regions, boundaries], axis=1)
