"""What changes from step to step as a pure function of it: nothing to save, nothing to restore."""

import hashlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eyespot.pretrain.config import Run

IMAGES_PER_RATE = 256


def due(step: int, every: int) -> bool:
    """Whether something that is done every so many steps is done after this one; 0 = never."""
    return every > 0 and step % every == 0


def effective_rate(base: float, batch_size: int) -> float:
    """The linear scaling rule (Goyal et al. 2017): recipes state the rate for 256 images per step."""
    return base * batch_size / IMAGES_PER_RATE


def learning_rate(
    step: int,
    *,
    steps: int,
    warmup_steps: int,
    peak: float,
    final: float = 0.0,
    decay_at: tuple[float, ...] = (),
) -> float:
    """Linear from 0 to ``peak`` in ``warmup_steps``, then half a cosine (Loshchilov & Hutter 2016) or stairs.

    Args:
        step: 0-based number of the step that is about to be taken.
        steps: of the whole run.
        warmup_steps: of the linear rise; the first step is already above 0.
        peak: the highest rate.
        final: the rate at the end of the cosine.
        decay_at: shares of the whole run after each of which the rate falls to a tenth; () = the cosine.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if decay_at:
        return peak / 10 ** sum(step >= round(share * steps) for share in decay_at)
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def rate_at(step: int, run: "Run") -> float:
    """The rate that really applies in the run's step of this 0-based number."""
    optim, batch_size = run.optim, run.data.batch_size
    final = optim.lr if optim.name == "schedulefree" else optim.min_lr
    return learning_rate(
        step,
        steps=run.steps,
        warmup_steps=optim.warmup_steps,
        peak=effective_rate(optim.lr, batch_size),
        final=effective_rate(final, batch_size),
        decay_at=optim.decay_at,
    )


def micro_seed(seed: int, step: int, place: int) -> int:
    """Seed of torch's generator (drop path and the like) for the micro-batch at ``place`` in a step's global batch.

    It says where the micro-batch stands, not who computes it: two ranks draw what one rank that accumulates would
    draw, and a resumed run repeats itself.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{place}".encode()).digest()[:8]) >> 1
