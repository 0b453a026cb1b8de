"""Health of an encoder while it learns, without labels: are its features spread out, do they tell images apart?"""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import normalize

from eyespot.pretrain.config import Run
from eyespot.pretrain.dist import World, agreed
from eyespot.pretrain.feed import loader_spec, normalized, open_shards
from eyespot.pretrain.fixed_samples import FixedSamples
from eyespot.pretrain.objective import Objective

log = logging.getLogger("eyespot")


@torch.no_grad()
def similarities(x: Float[Tensor, "b d"], y: Float[Tensor, "b d"]) -> dict[str, Float[Tensor, ""]]:
    """Mean cosines, for an objective to log: of each sample's two views, and of views of different samples.

    With the rows normalised and s_i = x_i + y_i, the sum over all ordered pairs of views of different samples is

        |sum_i s_i|^2 - sum_i |s_i|^2,

    so it takes O(b d) and no matrix. A single row has no negatives; their similarity is then 0.

    Args:
        x: embeddings of one view.
        y: embeddings of the other view of the same samples.
    """
    x, y = (normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1) for rows in (x, y))
    both, count = x + y, len(x)
    negative = (both.sum(0).square().sum() - both.square().sum()) / max(1, 4 * count * (count - 1))
    return {"positive_similarity": (x * y).sum(1).mean(), "negative_similarity": negative}


def alignment(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> float:
    """How far two views of one image lie apart: 0 = together, 2 = as unrelated directions, 4 = opposite.

    Wang & Isola 2020 (arXiv:2005.10242), equation for L_align with alpha = 2, on normalised rows:

        mean_i |x_i - y_i|^2.

    Args:
        x: features of one view.
        y: features of the other view of the same samples.
    """
    x, y = normalize(x.double(), dim=1), normalize(y.double(), dim=1)
    return (x - y).square().sum(1).mean().item()


def uniformity(features: Float[Tensor, "n d"]) -> float:
    """How evenly features cover the sphere: 0 = all in one point, about -4 = spread in all directions.

    Wang & Isola 2020 (arXiv:2005.10242), L_uniform with t = 2, on normalised rows:

        log mean_{i < j} exp(-2 |f_i - f_j|^2).

    Takes O(n) memory beyond the features.

    Args:
        features: one row per sample, two samples or more.
    """
    rows = normalize(features.double(), dim=1)
    squares, count, total = rows.square().sum(1), len(rows), 0.0
    for tile, norms in zip(rows.split(1024), squares.split(1024), strict=True):
        distances = torch.addmm(norms[:, None] + squares, tile, rows.T, alpha=-2)  # of a row to itself: 0
        total += (-2 * distances).exp_().sum().item()
    return math.log((total - count) / (count * (count - 1)))


def singular_values(features: Float[Tensor, "n d"], *, centered: bool) -> Float64[Tensor, " r"]:
    """Singular values, largest first, without those within the rounding of the features' own type.

    Args:
        features: one row per sample, all finite.
        centered: subtract the mean of all rows first.
    """
    wide = features.double()
    noise = torch.finfo(features.dtype).eps * torch.linalg.matrix_norm(wide)
    values = torch.linalg.svdvals(wide - wide.mean(0) if centered else wide)
    return values[values > noise]


def effective_rank(features: Float[Tensor, "n d"], *, centered: bool) -> float:
    """How many directions the features really use, between 1 and min(n, d).

    Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality"; RankMe (Garrido et al. 2022,
    arXiv:2210.02885) uses it uncentred. With p_k the singular values divided by their sum,

        exp(-sum_k p_k log p_k).

    Singular values within the rounding of the features' own type count as zero: features that never change have
    rank 0 when centred, whatever their last bit does. Features that are not finite have rank nan.

    Args:
        features: one row per sample.
        centered: subtract the mean of all rows first.
    """
    if not features.isfinite().all():
        return math.nan
    values = singular_values(features, centered=centered)
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp().item() if len(values) else 0.0


MAX_SAMPLES = 512
COLLAPSED_SIMILARITY = 0.999
"""Mean cosine of different images above which features are all but one point. Measured on digits: untrained encoders
0.70 to 0.94, SimCLR on its way up to 0.990, collapsed ones 0.9995 and above."""
COLLAPSED_RANK, COLLAPSED_SHARE = 2.0, 0.01
"""Effective rank, centred, below which they are all but one line: 2, or a hundredth of what could be. Measured on
digits: untrained and learning encoders 13 to 65 % of what could be. Labels of C classes may rightly bring it down to
C - 1, so the bar is low."""
COLLAPSED_LINES = 5
"""Logged steps in a row after which the head's embeddings are called collapsed."""
WHAT_HELPS = (
    "What usually helps: a lower learning rate or a longer warm-up, the method's own guard against it (negatives,"
    " predictor, slow teacher, batch norm in the head) as its recipe has it, larger batches, stronger augmentation"
)


class Health:
    """A monitor: the numbers of this file on the same samples each time, and a warning when features collapse.

    It looks at the encoder's features, of up to 512 training samples in the method's own views. Metrics, all without
    labels: ``health/effective_rank``, ``health/effective_rank_centered`` and ``health/uniformity`` of the first view;
    ``health/negative_similarity`` and, where the method has two views of the same size, ``health/positive_similarity``
    and ``health/alignment``; ``health/collapsed``, 1 or 0. What it cannot see is a head that collapses over an encoder
    whose last layer is a batch norm: ``HeadWatch`` does.

    The ranks encode together; rank 0 computes the numbers, the others wait for it at the next step.

    Args:
        run: the run that is watched.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._samples: FixedSamples | None = None
        self._was_collapsed = False

    def __call__(self, objective: Objective, world: World) -> dict[str, float]:
        """The metrics at this step."""
        if self._samples is None:
            with agreed():
                self._samples = _training_samples(self._run, objective, world)
        encoded = self._samples.encode(objective)
        if encoded is None:
            return {}
        views, _ = encoded
        found = measure(views)
        collapsed = is_collapsed(found, *views[0].shape)
        self._warn(collapsed, found, views[0].shape[1])
        return {f"health/{name}": value for name, value in {**found, "collapsed": float(collapsed)}.items()}

    def _warn(self, collapsed: bool, found: dict[str, float], dim: int) -> None:
        if collapsed and not self._was_collapsed:
            log.warning(
                "the encoder has collapsed: it gives nearly the same features for every image (mean cosine %.4f of"
                " different images, effective rank %.1f of %d dimensions), so there is little in them to tell images"
                " apart. %s",
                *(found["negative_similarity"], found["effective_rank_centered"], dim, WHAT_HELPS),
            )
        elif self._was_collapsed and not collapsed:
            log.info("the encoder's features have spread out again: no longer collapsed")
        self._was_collapsed = collapsed


class HeadWatch:
    """Warns when the loss itself sees all images alike: its ``negative_similarity`` stays near 1.

    That is a collapsed head or encoder, at every logged step and without another forward pass. A run may begin there,
    so it takes several lines in a row.
    """

    def __init__(self) -> None:
        self._lines = 0

    def __call__(self, step: int, values: Mapping[str, float | int | str]) -> None:
        """Reads one line of metrics."""
        similarity = values.get("negative_similarity")
        alike = isinstance(similarity, float) and similarity > COLLAPSED_SIMILARITY
        self._lines = self._lines + 1 if alike else 0
        if self._lines == COLLAPSED_LINES:
            log.warning(
                "step %d: the head gives nearly the same embedding for every image (mean cosine %.4f of different"
                " images, %d logged steps in a row): the method has collapsed. %s",
                *(step, similarity, self._lines, WHAT_HELPS),
            )


def measure(views: list[Float[Tensor, "n d"]]) -> dict[str, float]:
    """The numbers of this file for features of one view, or of two of the same samples; nan where not finite."""
    first, last = views[0], views[-1]
    found = {
        "effective_rank": effective_rank(first, centered=False),
        "effective_rank_centered": effective_rank(first, centered=True),
        "uniformity": uniformity(first),
        **{name: value.item() for name, value in similarities(first, last).items()},
    }
    if len(views) > 1:
        return {**found, "alignment": alignment(first, last)}
    del found["positive_similarity"]  # a view is always like itself
    return found


def is_collapsed(found: dict[str, float], num_samples: int, dim: int) -> bool:
    """Whether features are all but one point, or all but one line."""
    least = max(COLLAPSED_RANK, COLLAPSED_SHARE * min(num_samples - 1, dim))
    return found["negative_similarity"] > COLLAPSED_SIMILARITY or found["effective_rank_centered"] < least


def _training_samples(run: Run, objective: Objective, world: World) -> FixedSamples:
    """In the method's first view, and a second one of that size: multi-crop's small views are left out."""
    shards, manifest = open_shards(run.data)
    views = normalized(objective.views(), run.data, manifest)
    alike = [view for view in views.views if view.size == views.views[0].size]
    spec = loader_spec(run, shards, replace(views, views=tuple(alike[:2])), world)
    count = min(MAX_SAMPLES, manifest.num_samples)
    return FixedSamples(spec, np.random.default_rng(run.seed).permutation(manifest.num_samples)[:count], world)
