"""dense-depth: how far away is what each patch shows, by a linear function of its token?

Ridge regression of standardised tokens: with x_p the token of patch p, d_p the mean depth of its measured pixels, and
n_p their number,

    minimise  sum_p n_p (W x_p + b - d_p)^2 / sum_p n_p + lambda |W|^2,

exactly, so that each measured pixel counts once and shares the answer of its patch. A test image's patches get a number
each, which is upsampled bilinearly to the pixels and cut to the depths that patches of train have. What it is judged by
is Eigen et al.'s (2014, arXiv:1406.2283, section 4.1), over all measured pixels of all test images: with d the depth
and a the answer,

    RMSE = sqrt(mean (a - d)^2),  AbsRel = mean |a - d| / d,  delta_k = share of pixels with max(a / d, d / a) < 1.25^k.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import interpolate

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.protocols import linear
from eyespot.eval.protocols.dense import MAX_PATCHES, PENALTIES, DensePart, DenseTask, images_at_once
from eyespot.eval.protocols.mean_iou import bootstrap_interval
from eyespot.eval.protocols.patch_tokens import MIN_IMAGES
from eyespot.eval.protocols.task import Candidate
from eyespot.eval.results.result import RMSE, Score

RATIO = 1.25
NAMES = ("delta1", "delta2", "delta3", "AbsRel", RMSE)
"""What is judged by, in the order of ``measures``."""
IMAGES = "image delta1"


@dataclass(kw_only=True, slots=True)
class Patches:
    """Patches to learn from."""

    tokens: Float[Tensor, "n d"]
    depths: Float64[Tensor, " n"]
    """Mean of a patch's measured pixels."""
    weights: Float64[Tensor, " n"]
    """How many those are."""

    @classmethod
    def of(cls, part: DensePart, seed: int) -> "Patches":
        """Up to MAX_PATCHES of the patches in which something was measured, drawn by ``seed``."""
        total = len(part.rows) * part.grid**2
        chosen = torch.ones(total, dtype=torch.bool)
        if total > MAX_PATCHES:
            chosen[:] = False
            chosen[np.random.default_rng(seed).permutation(total)[:MAX_PATCHES]] = True
        tokens, depths, weights = [], [], []
        for some in images_at_once(len(part.rows), part.maps.shape[-1] ** 2):
            sums, counts = (each.flatten() for each in patch_sums(part.maps[some], part.grid))
            known = (counts > 0) & chosen[some.start * part.grid**2 : some.stop * part.grid**2].to(counts.device)
            depths.append(sums[known] / counts[known])
            weights.append(counts[known])
            tokens.append(part.images(some).flatten(0, 1)[known])
        return cls(tokens=torch.cat(tokens), depths=torch.cat(depths), weights=torch.cat(weights))


def patch_sums(maps: Float[Tensor, "b s s"], grid: int) -> tuple[Float64[Tensor, "b p"], Float64[Tensor, "b p"]]:
    """Sum of the depths in each patch, and how many pixels of it were measured; row-major, like the tokens."""
    size = maps.shape[-1]
    patch = torch.arange(size, device=maps.device) * grid // size
    inside = (patch == torch.arange(grid, device=maps.device)[:, None]).double()
    both = torch.stack([maps.double(), (maps > 0).double()])
    sums, counts = inside @ both @ inside.T
    return sums.flatten(1), counts.flatten(1)


class Ridge:
    """Ridge regressions of patches, one for each penalty, from one decomposition.

    Args:
        patches: to learn from.
        axes: of their tokens.
    """

    def __init__(self, patches: Patches, axes: linear.Axes) -> None:
        x, share = axes(patches.tokens), patches.weights / patches.weights.sum()
        self.mean, self.depth = share @ x, share @ patches.depths
        x = x - self.mean
        values, self.vectors = torch.linalg.eigh(x.T @ (share[:, None] * x))
        self.values, self.slope = values.clamp(min=0), self.vectors.T @ (x.T @ (share * (patches.depths - self.depth)))
        self.nearest, self.farthest = patches.depths.min().item(), patches.depths.max().item()
        self.axes = axes

    def __call__(self, tokens: Float[Tensor, "b p d"], penalty: float) -> Float64[Tensor, "b p"]:
        """The depth of each patch."""
        weights = self.vectors @ (self.slope / (self.values + penalty))
        found = (self.axes(tokens.flatten(0, 1)) - self.mean) @ weights + self.depth
        return found.unflatten(0, tokens.shape[:2])


def linear_candidates(task: DenseTask) -> list[Candidate]:
    """A linear function of patches: its penalty chosen on the held-out tenth, by its RMSE; then fitted on all train."""
    known = measured(task)
    ridge, penalty, validation = fitted(known)
    counts = judged(ridge, penalty, known.test)
    found = measures(counts.sum(0))
    low, high = bootstrap_interval(counts, statistic=measures)
    per_image = measures(counts)[:, 0]
    scores = {
        name: Score(value=float(found[place]), interval=(float(low[place]), float(high[place])))
        for place, name in enumerate(NAMES)
    }
    share = scores.pop(NAMES[0])
    scores[IMAGES] = Score(value=float(per_image.mean()), values=[round(value, 6) for value in per_image.tolist()])
    settings: dict[str, float | str] = {"features": "patches", "lambda": penalty}
    if len(counts) < len(task.test.rows):
        settings["images measured"] = f"{len(counts):,} of {len(task.test.rows):,}"
    return [
        Candidate(
            metric="dense-depth/patches",
            settings=settings,
            validation=validation,
            share=share,
            scores=scores,
        )
    ]


def measured(task: DenseTask) -> DenseTask:
    """The task without the images of which the encoder's view shows no measured pixel: nobody can be wrong about them.

    Raises:
        UserError: too few are left.
    """
    kept = [np.flatnonzero((part.maps > 0).flatten(1).any(1).cpu().numpy()) for part in (task.train, task.test)]
    if len(kept[0]) < MIN_IMAGES or not len(kept[1]):
        raise UserError(
            f"dense-depth: of {len(kept[0])} depth maps to learn from and {len(kept[1])} to test on a pixel is measured"
            f" where the encoder sees it; it needs {MIN_IMAGES} and 1 or more: are they all 0?"
        )
    if [len(each) for each in kept] == [len(task.train.rows), len(task.test.rows)]:
        return task
    return replace(task, train=task.train.part(kept[0]), test=task.test.part(kept[1]))


def fitted(task: DenseTask) -> tuple[Ridge, float, float]:
    """The regression of all of train, its penalty, and the share of the held-out pixels that are within 1.25."""
    patches = Patches.of(task.train, task.seed)
    axes = linear.Axes.of(patches.tokens)  # depths play no part in it, so it may see all of train
    trial = Ridge(Patches.of(task.fit, task.seed), axes)
    tried = {penalty: measures(judged(trial, penalty, task.held).sum(0)) for penalty in PENALTIES}
    best = min(PENALTIES, key=lambda penalty: tried[penalty][-1])  # of equals the stronger penalty
    return Ridge(patches, axes), best, float(tried[best][0])


def judged(ridge: Ridge, penalty: float, part: DensePart) -> Float64[np.ndarray, "n 6"]:
    """Of each image what ``measures`` is made from: sums over its measured pixels, whose number comes last."""
    size, rows = part.maps.shape[-1], []
    for some in images_at_once(len(part.rows), size**2):
        planes = ridge(part.images(some), penalty).unflatten(1, (1, part.grid, part.grid))
        answers = interpolate(planes, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
        rows.append(errors(answers.clamp(ridge.nearest, ridge.farthest), part.maps[some].double()))
    return torch.cat(rows).cpu().numpy()


def errors(answers: Float64[Tensor, "b s s"], depths: Float64[Tensor, "b s s"]) -> Float64[Tensor, "b 6"]:
    """Of each image, over the pixels that were measured: how many are within 1.25, 1.25^2 and 1.25^3 of the true depth,
    the sums of relative and of squared errors, and how many pixels there are."""
    known = depths > 0
    true = torch.where(known, depths, 1)
    ratio = torch.maximum(answers / true, true / answers)
    off = answers - true
    each = [*((ratio < RATIO**k).double() for k in (1, 2, 3)), off.abs() / true, off.square(), torch.ones_like(off)]
    return torch.stack([torch.where(known, one, 0).flatten(1).sum(1) for one in each], dim=1)


def measures(sums: Float64[np.ndarray, "*n 6"]) -> Float64[np.ndarray, "*n 5"]:
    """``NAMES`` of what ``errors`` gives of images in which something was measured, or of its sums."""
    found = sums[..., :-1] / sums[..., -1:]
    found[..., -1] = np.sqrt(found[..., -1])
    return found
