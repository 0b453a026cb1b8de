"""Functions as operators of torch: one opaque step each to the compiler, to autograd and to whoever counts them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

NAMESPACE = "eyespot"

FUNCTIONS: dict[str, Callable[..., Tensor]] = {}
"""What each operator does, by its name: for who wants to look inside."""


def operator(
    name: str,
    *,
    fake: Callable[..., Tensor],
    keep: Callable[[Any, tuple, Tensor], None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Tensor]], OpOverload]:
    """Registers the decorated function as the operator ``eyespot::name``, for tensors on any device.

    It does what ``torch.library.custom_op`` does, which would import torch's compiler, 900 modules and 180 MB, at the
    first call in every process, to keep out of a function that nobody compiles.

    The function has type hints, changes none of its arguments and returns a tensor that shares no memory with them;
    ``torch.library.opcheck`` finds where it does not.

    Args:
        name: under ``torch.ops.eyespot``.
        fake: of the same arguments: an empty tensor like the one that comes out.
        keep: saves what ``backward`` needs of arguments and output: (context, arguments, output).
        backward: (context, upstream gradient) -> a gradient or None for each argument. Without it, whoever asks for a
            gradient gets a RuntimeError.
    """

    def register(function: Callable[..., Tensor]) -> OpOverload:
        full_name = f"{NAMESPACE}::{name}"
        FUNCTIONS[full_name] = function
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(full_name, schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.impl(full_name, "default", function)
        torch.library.register_fake(full_name, fake)
        torch.library.register_autograd(full_name, backward or _refuse(name), setup_context=keep)
        return getattr(getattr(torch.ops, NAMESPACE), name).default

    return register


def _refuse(name: str) -> Callable[..., Any]:
    def backward(*_: Any) -> Any:
        raise RuntimeError(f"{NAMESPACE}::{name} has no gradient")

    return backward
