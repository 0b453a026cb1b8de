"""Collapse of an encoder while it learns, without labels: are its features spread out, do they tell images apart?"""

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from eyespot.data_pipeline.loading.mixtures.source_bounds import is_paged
from eyespot.pretrain.distributed.collectives import agreed
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.fixed_samples import FixedSamples
from eyespot.pretrain.loop.run_data import RunData, some_of
from eyespot.pretrain.losses.feature_statistics import alignment, effective_rank, similarities, uniformity
from eyespot.pretrain.objective import Objective

log = logging.getLogger("eyespot")


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


class CollapseMonitor:
    """A monitor: the numbers of this file on the same samples each time, and a warning when features collapse.

    It looks at the encoder's features, of up to 512 of the samples that the run learns from, in the method's own
    views. Metrics, all without labels: ``health/effective_rank``, ``health/effective_rank_centered`` and
    ``health/uniformity`` of the first view; ``health/negative_similarity`` and, where the method has two views of the
    same size, ``health/positive_similarity`` and ``health/alignment``; ``health/collapsed``, 1 or 0. What it cannot
    see is a head that collapses over an encoder whose last layer is a batch norm: ``HeadWatch`` does.

    The ranks encode together; rank 0 computes the numbers, the others wait for it at the next step.

    Args:
        data: of the run that is watched.
    """

    def __init__(self, data: RunData) -> None:
        self._data = data
        self._samples: FixedSamples | None = None
        self._was_collapsed = False

    def __call__(self, objective: Objective, world: World) -> dict[str, float]:
        """The metrics at this step."""
        if self._samples is None:
            with agreed():
                self._samples = _training_samples(self._data, objective, world)
        encoded = self._samples.encode(objective)
        if encoded is None:
            return {}
        views, _ = encoded
        found = collapse_statistics(views)
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


def collapse_statistics(views: list[Float[Tensor, "n d"]]) -> dict[str, float]:
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


def _training_samples(data: RunData, objective: Objective, world: World) -> FixedSamples:
    """In the method's first view, and a second one of that size: multi-crop's small views are left out.

    Of clips their videos' first frames, for an encoder sees one image at a time.
    """
    views = objective.views()
    stills = [replace(view, clip=None, partner=False) for view in views.images]
    alike = [view for view in stills if view.size == stills[0].size]
    spec, own = data.loader_spec(replace(views, views=tuple(alike[:2]))), data.sample_ids
    draw = np.random.default_rng(data.run.seed)
    if not is_paged(data.shards) or data.ids is not None:
        places = draw.permutation(len(own))[:MAX_SAMPLES]
    else:  # without a number for each of a billion
        places = draw.choice(len(own), min(MAX_SAMPLES, len(own)), replace=False)
    return FixedSamples(spec, some_of(own, places), world)
