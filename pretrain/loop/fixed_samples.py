"""FixedSamples: the same few samples again and again, and what the encoder of the moment makes of them."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from eyespot.data_pipeline.loading.loader import LoaderSpec, make_selection
from eyespot.pretrain.distributed.collectives import gather_objects_to_first
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.eval_mode import at_rest
from eyespot.pretrain.objective import Objective

AT_ONCE = 128
"""Images that are encoded together."""
KEPT_BYTES = 2**28
"""Views up to this size stay in memory; larger ones are made anew each time, to the same bits."""

Part = tuple[list[Float[Tensor, "_ c _ _"]], Int[Tensor, " _"]]
"""Some samples' views and labels, on the CPU."""


class FixedSamples:
    """Chosen samples of a shard folder, dealt to the ranks and decoded once where they are small.

    Args:
        spec: of the loader; its batch size plays no part.
        ids: which samples.
        world: this process. All ranks make the same object and encode together.
        last: whether the last view alone is encoded.
    """

    def __init__(self, spec: LoaderSpec, ids: Int64[np.ndarray, " n"], world: World, *, last: bool = False) -> None:
        self._spec, self._world, self._first = replace(spec, batch_size=AT_ONCE), world, -1 if last else 0
        chunks = [ids[begin : begin + AT_ONCE] for begin in range(0, len(ids), AT_ONCE)]
        own = chunks[world.rank :: world.size]
        self._rounds, self._idle = -(-len(chunks) // world.size), not own
        self._ids = np.concatenate(own or chunks[:1])
        self._kept: list[Part] = []

    def encode(self, objective: Objective) -> tuple[list[Float[Tensor, "n d"]], Int[Tensor, " n"]] | None:
        """Features of each view, in single precision, and the labels, on the device; as ``encode_all``."""
        found = self.encode_all(objective)
        if found is None:
            return None
        (features, labels), device = found, self._spec.device
        return [view.to(device) for view in features], labels.to(device)

    def encode_all(
        self,
        objective: nn.Module,
        advance: Callable[[int], None] = lambda count: None,
        look: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b d"]] | None = None,
    ) -> tuple[list[Float[Tensor, "n d"]], Int[Tensor, " n"]] | None:
        """Features of each view, in single precision, and the labels, in the order of the ids; None but on rank 0.

        On the CPU, which has room for those of all samples.

        They do not depend on the number of ranks. Every rank calls it, and runs the encoder equally often: where its
        parameters are cut up, the ranks need each other. The objective stays as it was: no gradient, its modules in
        evaluation mode meanwhile, so that batch norm uses what it has gathered and gathers nothing. Full precision,
        whatever the run's.

        Args:
            objective: on this process's device; whatever ``look`` takes where there is one.
            advance: is told of how many more samples the features have arrived; on rank 0.
            look: what makes features of images, where it is not ``encode``.
        """
        look = look or cast(Objective, objective).encode
        found: list[Part] = []
        with at_rest(objective):
            for (views, labels), needed in self._rounds_of_parts():
                encoded = [look(view.to(self._spec.device)).float().cpu() for view in views], labels
                everyone = gather_objects_to_first(encoded if needed else None)  # round by round: each message is small
                for part in everyone or []:
                    if part is not None:
                        found.append(part)
                        advance(len(part[1]))
        if not found:
            return None
        features, labels = zip(*found, strict=True)
        return [torch.cat(view) for view in zip(*features, strict=True)], torch.cat(labels)

    def _rounds_of_parts(self) -> Iterator[tuple[Part, bool]]:
        """This rank's parts; then its last one again, which nobody needs, while others still have some."""
        number, last = 0, None
        for part in self._parts():
            number, last = number + 1, part
            yield part, not self._idle
        for _ in range(number, self._rounds):
            if last is not None:
                yield last, False

    def _parts(self) -> Iterator[Part]:
        if self._kept:
            yield from self._kept
            return
        parts: list[Part] = []
        num_bytes = 0
        with closing(make_selection(self._spec, self._ids)) as batches:
            for batch in batches:
                part = [view.cpu() for view in batch.views[self._first :]], batch.labels.cpu()
                num_bytes += sum(view.nbytes for view in part[0])
                parts = [*parts, part] if num_bytes <= KEPT_BYTES else []
                yield part
        self._kept = parts
