"""Arrays that travel together arrive as they were, by one copy."""

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from eyespot.data_pipeline.augment.one_copy import ALIGNMENT, copied, packed, parts

NUMBERS = np.random.default_rng(0)
ARRAYS = [
    NUMBERS.integers(-9, 9, 5),
    NUMBERS.random((3, 7), np.float32).T,
    np.zeros((0, 4), np.float32),
    np.arange(3, dtype=np.int8),
    np.arange(4, dtype=np.int32)[::-1],
    np.float64(0.1).reshape(1),
]


def test_arrays_are_packed_and_found_again():
    memory = packed(ARRAYS)
    for array, part in zip(ARRAYS, parts(memory, ARRAYS), strict=True):
        assert part.numpy().dtype == array.dtype
        assert np.array_equal(part.numpy(), array)
        assert not part.numel() or (part.data_ptr() - memory.data_ptr()) % ALIGNMENT == 0
    assert parts(packed([]), []) == []


def test_on_the_cpu_nothing_is_copied():
    own = np.arange(6, dtype=np.float32)
    (shared,) = copied([own], torch.device("cpu"))
    own[2] = 77
    assert shared[2] == 77


class Copies(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.waited: list[bool] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default:
            self.waited.append(not (kwargs or {}).get("non_blocking"))
        return func(*args, **(kwargs or {}))


def test_on_a_gpu_all_arrive_by_one_copy_that_nobody_waits_for():
    with FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
        found = copied(ARRAYS, torch.device("cuda"))
    assert copies.waited == [False]
    for array, tensor in zip(ARRAYS, found, strict=True):
        assert tensor.device.type == "cuda" and tuple(tensor.shape) == array.shape
        assert tensor.dtype == torch.from_numpy(array.copy()).dtype
