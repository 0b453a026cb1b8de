"""Refresh: shows an objective all samples, or some, every few epochs or once, as its encoder then sees them."""

import logging
import math
import sys
import time
from dataclasses import replace

import numpy as np

from eyespot.data_pipeline.augment.views import CenterView
from eyespot.data_pipeline.loading.loader import LoaderSpec
from eyespot.pretrain.loop.fixed_samples import FixedSamples
from eyespot.pretrain.loop.progress import TrainingProgress
from eyespot.pretrain.loop.run_data import RunData, some_of
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.watchdog.rank_watch import RankWatch

log = logging.getLogger("eyespot")

SMALL_IMAGES = 64
"""Pixels up to which an image is seen whole."""
ONCE = sys.maxsize
"""Steps between two refreshes, where no run is that long."""


class Refresh:
    """Called before every step; does something before step 0 and then every ``refresh_epochs`` epochs.

    When is a function of the step alone, and what of the weights and the data: so a run that was stopped anywhere does
    it again where it did, with the same result, on any number of ranks.

    Args:
        data: the run's. All ranks make the same object and call it together.
        objective: the engine's. One that does not ask for it costs nothing.
        spec: of the run's loader.
        watch: is told what the main thread does.
    """

    def __init__(self, data: RunData, objective: Objective, spec: LoaderSpec, watch: RankWatch) -> None:
        self._objective, self._world, self._watch, self._every = objective, data.world, watch, 0
        if objective.refresh_epochs is None:
            return
        ids = data.sample_ids
        every = objective.refresh_epochs * len(ids) / data.run.data.batch_size
        self._every = max(1, round(every)) if math.isfinite(every) else ONCE
        count = min(len(ids), objective.refresh_samples or len(ids))
        self._num_samples, chosen = count, some_of(ids, np.arange(count) * len(ids) // count)
        wanted = (self.middle(objective.image_size), objective.refresh_view)  # no loader is without images
        views = replace(spec.views, views=tuple(view for view in wanted if view is not None))
        self._samples = FixedSamples(replace(spec, views=views), chosen, data.world, last=len(views.views) > 1)

    @staticmethod
    def middle(size: int) -> CenterView:
        """What is seen of an image: small ones whole, of larger ones the central 7/8, as evaluation does."""
        return CenterView(resize=size if size <= SMALL_IMAGES else size * 8 // 7, size=size)

    def __call__(self, step: int, progress: TrainingProgress) -> None:
        """Refreshes the objective if it is due before this step."""
        if not self._every or step % self._every:
            return
        self._watch.at("refresh")
        begun = time.monotonic()
        with progress.aside("images", self._num_samples) as advance:
            found = self._samples.encode_all(self._objective, advance, self._objective.refresh_features)
        encoded = time.monotonic()
        self._objective.refresh(None if found is None else found[0][0])
        if self._every == ONCE:
            del self._samples
        if self._world.rank == 0:
            seconds = encoded - begun, time.monotonic() - encoded
            log.info(
                "refresh after step %d: features of %d images in %.0f s, what the method makes of them in %.0f s",
                *(step, self._num_samples, *seconds),
            )
