"""Twice the same five steps: the same bits? Which operators are not exact, and what does forbidding them cost?"""

import time
import warnings

import torch
from gpu.instruments import DRY, Note, changed_run, made_batch, made_engine, one_step, synchronize
from torch import Tensor

from eyespot.data_pipeline.errors import UserError

RECIPES = (
    {"mae_tiny": 32, "simclr_tiny": 32}
    if DRY
    else {"mae_vitb16_in1k": 64, "simclr_r50_in1k": 64, "moco_v3_vits16_in1k": 64, "dino_vits16_in1k": 32}
)
STEPS = 5


def run(note: Note) -> None:
    for recipe, images in RECIPES.items():
        for strict in (False, True):
            what = f"{recipe}, {'deterministic' if strict else 'as ever'}"
            try:
                (first, _), (second, seconds) = (trained(recipe, images, strict=strict) for _ in range(2))
            except UserError as error:  # it names the operator that has no deterministic kernel
                note(what, f"refused: {error}")
                continue
            same = all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
            note(what, f"{'the same bits' if same else 'other bits'}, {1000 * seconds / STEPS:.0f} ms a step")
            if not same:
                note(f"{recipe}, operators that are not exact", loose_operators(recipe, images))


def loose_operators(recipe: str, images: int) -> str:
    """Those of which torch says that they have no deterministic kernel; attention's are not among them."""
    engine = made_engine(changed_run(recipe, images))
    batch = made_batch(engine.objective, images)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        one_step(engine, batch)
    torch.use_deterministic_algorithms(False)
    engine.close()
    texts = {str(warning.message).split(" does not")[0][:60] for warning in said}
    return ", ".join(sorted(text for text in texts if "determinis" not in text)) or "none that torch knows"


def trained(recipe: str, images: int, *, strict: bool) -> tuple[list[Tensor], float]:
    """Parameters after some steps, and how long those took after the first."""
    engine = made_engine(changed_run(recipe, images, deterministic=strict))
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
