"""Many small arrays on a device by one copy.

A copy of a tensor of its own for every list of amounts would cost more than the arithmetic: each of pageable memory
waits for all work on its stream.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes: where each array may begin, for kernels that read 128 bits at once."""


def copied(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """The arrays as tensors on the device, on its current stream, without waiting for it.

    On the CPU they share the arrays' memory. On a GPU they are parts of one tensor: the arrays lie behind each other in
    pinned memory, which torch gives back once the copy is through.
    """
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    return parts(packed(arrays).to(device, non_blocking=True), arrays)


def packed(arrays: Sequence[np.ndarray]) -> Tensor:
    """The bytes of all arrays behind each other; pinned where there is a GPU."""
    begins = _begins(arrays)
    pinned = torch.empty(begins[-1], dtype=torch.uint8, pin_memory=True) if torch.cuda.is_available() else None
    memory = np.empty(begins[-1], np.uint8) if pinned is None else pinned.numpy()
    for begin, array in zip(begins, arrays, strict=False):
        memory[begin : begin + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return torch.from_numpy(memory) if pinned is None else pinned


def parts(memory: Tensor, arrays: Sequence[np.ndarray]) -> list[Tensor]:
    """The arrays in a tensor of these bytes: views of it, no copies."""
    return [
        memory[begin : begin + array.nbytes].view(torch.from_numpy(array.ravel()[:0]).dtype).view(array.shape)
        for begin, array in zip(_begins(arrays), arrays, strict=False)
    ]


def _begins(arrays: Sequence[np.ndarray]) -> list[int]:
    """Of each array, bytes; and the end of all."""
    return np.cumsum([0, *(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays)]).tolist()
