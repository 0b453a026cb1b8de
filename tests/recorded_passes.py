"""A CUDA graph's stand-in on the CPU: operators are noted while they run, and run again on the very same tensors.

As with a graph no line of Python runs again: numbers of the host's stay what they were, results land where they landed,
and random numbers come from torch's generator as it is then.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class Tape(TorchDispatchMode):
    """Notes what is done with tensors."""

    def __init__(self) -> None:
        super().__init__()
        self._done: list[tuple[Any, tuple, dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        taken = {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        places = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        results = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        changes = func._schema.is_mutable or any(id(result) in taken for result in results)
        if changes or not results or any(result.untyped_storage()._cdata not in places for result in results):
            self._done.append((func, args, kwargs, results))  # all else is another look at the same memory
        return made

    @torch.no_grad()
    def again(self) -> None:
        """Does it once more."""
        for func, args, kwargs, results in self._done:
            new = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)]
            for result, value in zip(results, new, strict=True):
                if result.untyped_storage()._cdata != value.untyped_storage()._cdata:
                    result.copy_(value)


def record(passes: Callable[[], T]) -> Callable[[], T]:
    """In place of ``cuda_graph.capture``."""
    with Tape() as tape:
        passed = passes()

    def replay() -> T:
        tape.again()
        return passed

    return replay
