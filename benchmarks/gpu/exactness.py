"""Twice the same five steps: the same bits? Which operators are not exact, and what does forbidding them cost?"""

import time
import warnings

import torch
from gpu.instruments import DRY, Note, changed_run, made_batch, made_engine, one_step, synchronize
from torch import Tensor

RECIPES = (
    {"mae_tiny": 32, "simclr_tiny": 32}
    if DRY
    else {"mae_vitb16_in1k": 64, "simclr_r50_in1k": 64, "moco_v3_vits16_in1k": 64, "dino_vits16_in1k": 32}
)
STEPS = 5


def run(note: Note) -> None:
    for recipe, images in RECIPES.items():
        for strict in (False, True):
            torch.use_deterministic_algorithms(strict, warn_only=True)
            torch.backends.cudnn.deterministic = strict
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                (first, _), (second, seconds) = (trained(recipe, images) for _ in range(2))
            same = all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
            loose = {str(w.message).split(" does not")[0][:60] for w in said if "determinis" in str(w.message)}
            found = [f"{'the same bits' if same else 'other bits'}, {1000 * seconds / STEPS:.0f} ms a step"]
            note(
                f"{recipe}, {'deterministic' if strict else 'as ever'}", "; not exact: ".join([*found, *sorted(loose)])
            )


def trained(recipe: str, images: int) -> tuple[list[Tensor], float]:
    """Parameters after some steps, and how long those took after the first."""
    engine = made_engine(changed_run(recipe, images))
    batch = made_batch(engine.objective, images)
    one_step(engine, batch, 0)
    synchronize()
    begun = time.perf_counter()
    for seed in range(1, STEPS + 1):
        one_step(engine, batch, seed)
    synchronize()
    seconds = time.perf_counter() - begun
    parameters = [parameter.detach().cpu() for parameter in engine.objective.parameters()]
    engine.close()
    return parameters, seconds
