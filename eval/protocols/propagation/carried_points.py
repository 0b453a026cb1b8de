"""Key points that are carried through videos by features, and how many arrive: PCK.

As Jabri et al. 2020 (arXiv:2006.14613, and the authors' code) carry the joints of JHMDB, after Vondrick et al. 2018
(arXiv:1806.09594): each point of the first frame is a Gaussian of half a place's width on the feature map, which is
carried on as a mask's class is; a point is then the mean of the three strongest places, weighted by their shares. It
arrives where it is no farther from the true one than alpha times the body's size in that frame, which is 0.6 of the
diagonal of the box around all true points. PCK@alpha is the share that do: of each point over all frames and videos,
then the mean over points.

What differs: frames keep their proportions, theirs become squares; a point is drawn where it is, theirs at a whole
place; a point of which no share arrives is wrong, theirs does not count. A point that the first frame does not show is
not carried, and one that is not seen later does not count there.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from eyespot.eval.protocols.mean_iou import NUM_RESAMPLES
from eyespot.eval.protocols.propagation.carriers import Carrier, carried_shares
from eyespot.eval.protocols.propagation.key_points import PointedVideo, bodies, carried, counted
from eyespot.eval.protocols.propagation.mask_sheet import Strip, dotted_strip_of
from eyespot.eval.results.result import Score

ALPHAS = (0.1, 0.2)
SIGMA = 0.5
"""Of a point's Gaussian, places."""
TOP_PLACES = 3


@dataclass(kw_only=True, slots=True, frozen=True)
class Arrivals:
    """Of one video, of each point: how often it was to arrive, and how often it did by each of ALPHAS."""

    asked: Float64[np.ndarray, " k"]
    right: Float64[np.ndarray, "a k"]


def judged_points(carrier: Carrier, video: PointedVideo, device: torch.device) -> tuple[Arrivals, Strip]:
    """How many of a video's points arrive, and a picture of them."""
    answers = carried_points(carrier, video, device)
    return arrivals(answers, video), dotted_strip_of(video.frames, answers, video.points)


def carried_points(carrier: Carrier, video: PointedVideo, device: torch.device) -> Float64[np.ndarray, "t k 2"]:
    """Where the points are thought to be in each frame, pixels; nan for those that are not carried, or are lost."""
    height, width = video.frames[0].shape[:2]
    inside = carried(video.points, (height, width))
    first = np.where(inside[:, None], video.points[0], np.nan)
    if carrier.maps is None:
        return np.repeat(first[None], len(video.frames), axis=0)
    shares = partial(heat_maps, first[inside], (height, width))
    found = np.full((len(video.frames), *first.shape), np.nan)
    found[0] = first
    for number, maps in enumerate(carried_shares(carrier, video.frames, shares, device), 1):
        found[number, inside] = strongest(maps, (height, width))
    return found


def heat_maps(
    points: Float64[np.ndarray, "k 2"], size: tuple[int, int], grid: tuple[int, int]
) -> Float[Tensor, "k gh gw"]:
    """A Gaussian around each point, 1 where it is.

    Args:
        points: x and y, pixels.
        size: height and width of the frame, pixels.
        grid: rows and columns of the map.
    """
    columns, rows = (np.arange(count) + 0.5 for count in (grid[1], grid[0]))
    x, y = (points * (grid[1] / size[1], grid[0] / size[0])).T
    squares = (rows - y[:, None])[:, :, None] ** 2 + (columns - x[:, None])[:, None] ** 2
    return torch.from_numpy(np.exp(-squares / (2 * SIGMA**2))).float()


def strongest(maps: Float[Tensor, "k gh gw"], size: tuple[int, int]) -> Float64[np.ndarray, "k 2"]:
    """The mean of the strongest places of each map, x and y in pixels; nan where nothing is left of it.

    Args:
        maps: of points.
        size: height and width of the frame, pixels.
    """
    height, width = maps.shape[1:]
    shares, places = maps.flatten(1).double().topk(min(TOP_PLACES, height * width), dim=1)
    shares = shares / shares.sum(1, keepdim=True)  # 0 / 0 = nan
    x, y = ((places % width + 0.5) * (size[1] / width), (places // width + 0.5) * (size[0] / height))
    return torch.stack([(shares * x).sum(1), (shares * y).sum(1)], dim=1).cpu().numpy()


def arrivals(answers: Float64[np.ndarray, "t k 2"], video: PointedVideo) -> Arrivals:
    """Of one video; ``answers`` are where the points are thought to be, nan where nothing is left of them."""
    counts = counted(video.points, video.frames[0].shape[:2])
    away, body = np.hypot(*(answers - video.points).T).T, bodies(video.points)[:, None]
    right = [(counts & (away <= alpha * body)).sum(0) for alpha in ALPHAS]
    return Arrivals(asked=counts.sum(0).astype(float), right=np.array(right, float))


def scores(videos: list[Arrivals]) -> dict[str, Score]:
    """PCK by each of ALPHAS, means over points; and "video PCK@0.1", of each video.

    The intervals of 95 % are percentiles of the bootstrap (Efron 1979): whole videos are drawn again.
    """
    most = max(len(video.asked) for video in videos)
    sums = np.zeros((len(videos), 1 + len(ALPHAS), most))
    for video, row in zip(videos, sums, strict=True):
        row[:, : len(video.asked)] = video.asked, *video.right
    draws = np.random.default_rng(0).multinomial(len(videos), np.full(len(videos), 1 / len(videos)), NUM_RESAMPLES)
    values, again = _pck(sums.sum(0)[None])[0], _pck(np.einsum("rn,nak->rak", draws, sums))
    low, high = np.quantile(again, [0.025, 0.975], axis=0)
    found = {
        f"PCK@{alpha}": Score(value=float(values[place]), interval=(float(low[place]), float(high[place])))
        for place, alpha in enumerate(ALPHAS)
    }
    each = [round(float(value), 6) for value in _pck(sums)[:, 0]]
    return {**found, f"video PCK@{ALPHAS[0]}": Score(value=float(np.mean(each)), values=each)}


def _pck(sums: Float64[np.ndarray, "n a1 k"]) -> Float64[np.ndarray, "n a"]:
    """The mean over points of the share that arrived; points that nobody asked for do not count."""
    asked = sums[:, :1] > 0
    shares = np.divide(sums[:, 1:], sums[:, :1], out=np.zeros_like(sums[:, 1:]), where=asked)
    return shares.sum(2) / asked.sum(2)
