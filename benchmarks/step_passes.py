"""The passes of one step, as the trainer takes them, for tests and benchmarks that drive an engine themselves."""

from collections.abc import Iterable

from torch import Tensor

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.engine import Engine, MicroBatch
from eyespot.pretrain.families.contrastive_objective import Contrastive
from eyespot.pretrain.loop.gradient_cache import compared


def take_passes(engine: Engine, micro_batches: Iterable[tuple[Batch, int]]) -> list[dict[str, Tensor]]:
    """Forward and backward of each (micro-batch, seed) of a step: detached scalars of each."""
    given = list(micro_batches)
    parts = [
        MicroBatch(batch=batch, seed=seed, last=number == len(given), num_averaged=len(given))
        for number, (batch, seed) in enumerate(given, 1)
    ]
    if len(parts) > 1 and isinstance(engine.objective, Contrastive):
        parts = compared(engine, parts)
    rows = []
    for part in parts:
        scalars = engine.forward(part)
        engine.backward(scalars["loss"] / part.num_averaged)
        rows.append({name: scalar.detach() for name, scalar in scalars.items()})
    return rows
