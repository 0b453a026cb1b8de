"""A step that is skipped because something was not finite, where only the device knows so far.

A host that asked the device whether loss and gradient are finite would wait for it in each step. So what follows a step
(teachers, queues, centres) is computed as if it had been taken, and kept only where it was.
"""

from jaxtyping import Bool, Shaped
from torch import Tensor, where

Taken = bool | Bool[Tensor, ""]
"""Whether a step was taken: a bool where the host knows, a tensor on the device where it does not."""


def if_taken(taken: Taken, new: Shaped[Tensor, "*s"], old: Shaped[Tensor, "*s"]) -> Shaped[Tensor, "*s"]:
    """``new`` where the step was taken, else ``old``; the one that is not chosen may hold anything, NaN too."""
    if isinstance(taken, bool):
        return new if taken else old
    return where(taken, new, old)
