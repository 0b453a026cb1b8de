"""FixedSamples: the same few samples again and again, and what the encoder of the moment makes of them."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from eyespot.data_pipeline.loader import LoaderSpec, make_selection
from eyespot.pretrain.objective import Objective

AT_ONCE = 128
"""Images that are encoded together."""
KEPT_BYTES = 2**28
"""Views up to this size stay in memory; larger ones are made anew each time, to the same bits."""

Part = tuple[list[Float[Tensor, "_ 3 _ _"]], Int[Tensor, " _"]]
"""Some samples' views and labels, on the CPU."""


class FixedSamples:
    """Chosen samples of a shard folder, decoded once where they are small.

    Args:
        spec: of the loader; its batch size plays no part.
        ids: which samples.
    """

    def __init__(self, spec: LoaderSpec, ids: Int64[np.ndarray, " n"]) -> None:
        self._spec, self._ids = replace(spec, batch_size=AT_ONCE), ids
        self._kept: list[Part] = []

    def encode(self, objective: Objective) -> tuple[list[Float[Tensor, "n d"]], Int[Tensor, " n"]]:
        """Features of each view, in single precision, and the labels; both on the loader's device.

        The objective stays as it was: no gradient, its modules in evaluation mode meanwhile, so that batch norm uses
        what it has gathered and gathers nothing. Full precision, whatever the run's.
        """
        features: list[list[Tensor]] = [[] for _ in self._spec.views.views]
        labels: list[Tensor] = []
        with at_rest(objective):
            for views, known in self._parts():
                for found, view in zip(features, views, strict=True):
                    found.append(objective.encode(view.to(self._spec.device)).float())
                labels.append(known.to(self._spec.device))
        return [torch.cat(found) for found in features], torch.cat(labels)

    def _parts(self) -> Iterator[Part]:
        if self._kept:
            yield from self._kept
            return
        parts: list[Part] = []
        num_bytes = 0
        with closing(make_selection(self._spec, self._ids)) as batches:
            for batch in batches:
                part = [view.cpu() for view in batch.views], batch.labels.cpu()
                num_bytes += sum(view.nbytes for view in part[0])
                parts = [*parts, part] if num_bytes <= KEPT_BYTES else []
                yield part
        self._kept = parts


@contextmanager
def at_rest(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule gets its own mode back."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for each, mode in modes:
            each.training = mode
