"""Meter: the memory, arithmetic and traffic of whatever torch runs inside it, operator by operator.

It reads shapes only. So it measures tensors that exist and fake ones alike, any objective, and no method needs a
formula.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from eyespot.pretrain.distributed.collectives import named_group

Number = float | int


class Kernel(NamedTuple):
    """One operator's run."""

    flops: Number
    """Of matrix products and convolutions, 2 per multiplication and addition; 0 for all else."""
    moved_bytes: Number
    """Read and written."""


@dataclass(kw_only=True, slots=True)
class Work:
    """What a phase of a step does on one GPU."""

    kernels: list[Kernel] = field(default_factory=list)
    received_bytes: Number = 0.0
    """What the objective itself got from other ranks: embeddings, keys."""

    @property
    def flops(self) -> Number:
        """Floating point operations of all kernels."""
        return sum(kernel.flops for kernel in self.kernels)

    @property
    def moved_bytes(self) -> Number:
        """Bytes that all kernels read and write."""
        return sum(kernel.moved_bytes for kernel in self.kernels)


def blend(one: Work, two: Work, share: Number) -> Work:
    """``one`` at share 0, ``two`` at 1, and the line through them beyond: work at another batch size.

    The two ran the same operators in the same order; where they did not, only their sums are blended.
    """
    pairs = zip(one.kernels, two.kernels, strict=True)
    if len(one.kernels) != len(two.kernels):
        pairs = [(Kernel(one.flops, one.moved_bytes), Kernel(two.flops, two.moved_bytes))]
    kernels = [Kernel(*(max(0.0, a + (b - a) * share) for a, b in zip(*pair, strict=True))) for pair in pairs]
    received = max(0.0, one.received_bytes + (two.received_bytes - one.received_bytes) * share)
    return Work(kernels=kernels, received_bytes=received)


class Meter(TorchDispatchMode):
    """Within it, memory is counted from zero: what was there before does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes, self.peak_bytes = 0, 0
        self._phases: dict[str, Work] = {}
        self._phase = Work()
        self._known: dict[int, weakref.ref] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Books what runs within it under ``name``."""
        before, self._phase = self._phase, self._phases.setdefault(name, Work())
        try:
            yield
        finally:
            self._phase = before

    def work(self, name: str) -> Work:
        """What ran in the phase of that name."""
        return self._phases[name]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        out = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self._notice(made)
        if (name := str(func._overloadpacket)) in _EXCHANGES:
            self._phase.received_bytes += _EXCHANGES[name](*args)
        if not name.startswith("c10d") and (func._schema.is_mutable or not _only_views(read, made)):
            flops = _flops(func._overloadpacket, args, kwargs, out)
            self._phase.kernels.append(Kernel(flops, sum(map(_logical_bytes, [*read, *made]))))
        return out

    def _notice(self, tensors: list[Tensor]) -> None:
        """Adds storages that are new, and subtracts each when the last tensor on it is gone."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._known:
                continue

            def freed(_: weakref.ref, key: int = key, size: int = size) -> None:
                del self._known[key]
                self.live_bytes -= size

            self._known[key] = weakref.ref(storage, freed)
            self.live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)


def _only_views(read: list[Tensor], made: list[Tensor]) -> bool:
    """Nothing is computed: what comes out lies in what went in."""
    sources = {tensor.untyped_storage()._cdata for tensor in read}
    return all(tensor.untyped_storage()._cdata in sources for tensor in made)


def _logical_bytes(tensor: Tensor) -> int:
    """What a kernel reads or writes of it: an expanded tensor is read once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _flops(packet: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> Number:
    """Floating point operations of matrix products and convolutions; 0 for all else."""
    if packet in flop_registry:
        return flop_registry[packet](*args, **kwargs, out_val=out)
    return _FLOPS[str(packet)](*args) if str(packet) in _FLOPS else 0


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Number:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _attention_backward(slope: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Number:
    return sdpa_backward_flop_count(slope.shape, q.shape, k.shape, v.shape)


def _ranks(name: str) -> int:
    return named_group(name).size() if name else 1


def _lse(z: Tensor, gathered: Any, ids: Any, gathered_ids: Any, towers: int, period: int, bounded: bool, name: str):
    """The own block costs half of what another rank's does: it is symmetric, or serves both towers."""
    m, d = z.shape
    return m * m * d / towers * (1 + 2 * (_ranks(name) - 1))


def _lse_backward(upstream: Tensor, lse: Tensor, z: Tensor, *rest: Any) -> Number:
    """Logits again, then one product with them for rows and one for columns."""
    m, d = z.shape
    return m * m * d / rest[-4] * (3 + 4 * (_ranks(rest[-1]) - 1))


def _of_both_backward(upstream: Tensor, lse: Tensor, rows: Tensor, columns: Tensor, *_: Any) -> Number:
    """Logits again, then one product with them for rows and one for columns."""
    return 6 * len(rows) * columns.numel()


def _negatives(rows: Tensor, columns: Tensor, *rest: Any) -> Number:
    """Of the own rows with all ranks' columns."""
    return 2 * len(rows) * columns.numel() * _ranks(rest[-1])


def _negatives_backward(upstream: Tensor, rows: Tensor, columns: Tensor, *rest: Any) -> Number:
    """The own block's logits again, and two products; with another rank two blocks of logits, a product with each."""
    return len(rows) * columns.numel() * (6 + 8 * (_ranks(rest[-1]) - 1))


_FLOPS: dict[str, Callable[..., Number]] = {
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "eyespot.tiled_lse": lambda rows, columns, *_: 2 * len(rows) * columns.numel(),
    "eyespot.tiled_lse_backward": lambda upstream, lse, rows, columns, *_: 4 * len(rows) * columns.numel(),
    "eyespot.tiled_lse_of_both": lambda rows, columns, *_: 2 * len(rows) * columns.numel(),
    "eyespot.tiled_lse_of_both_backward": _of_both_backward,
    "eyespot.sigmoid_negatives": _negatives,
    "eyespot.sigmoid_negatives_backward": _negatives_backward,
    "eyespot.gathered_lse": _lse,
    "eyespot.gathered_lse_backward": _lse_backward,
}


def _bytes(*tensors: Tensor | None) -> int:
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _from_others(ranks: int, own: Number) -> Number:
    return (ranks - 1) * own


def _lse_received(z: Tensor, gathered: Tensor | None, ids: Tensor | None, *rest: Any) -> Number:
    """Rows that were gathered before cost nothing here; else they come round a ring."""
    return 0 if gathered is not None else _from_others(_ranks(rest[-1]), _bytes(z, ids))


def _lse_backward_received(
    upstream: Tensor, lse: Tensor, z: Tensor, gathered: Tensor | None, ids: Tensor | None, *rest: Any
) -> Number:
    rows = 0 if gathered is not None else _bytes(z, ids)
    return _from_others(_ranks(rest[-1]), rows + _bytes(upstream, lse))


def _negatives_received(
    rows: Tensor, columns: Tensor, bias: Tensor, ids: Tensor, gathered: Tensor | None, *rest: Any
) -> Number:
    """Columns that were gathered before cost nothing here; else they come round a ring."""
    return 0 if gathered is not None else _from_others(_ranks(rest[-1]), _bytes(columns, ids))


def _negatives_backward_received(
    upstream: Tensor, rows: Tensor, columns: Tensor, bias: Tensor, ids: Tensor, gathered: Tensor | None, *rest: Any
) -> Number:
    known = 0 if gathered is not None else _bytes(columns, ids)
    return _from_others(_ranks(rest[-1]), known + _bytes(rows, upstream))


def _label_sums_received(rows: Tensor, labels: Tensor, name: str) -> Number:
    """At most: as if every sample had a label of its own."""
    ranks = _ranks(name)
    return _from_others(ranks, labels.nbytes) + all_reduce_bytes(ranks * rows.nbytes, ranks)


def all_reduce_bytes(size: Number, ranks: int) -> Number:
    """What each rank sends, and receives, in a ring all-reduce of ``size`` bytes: 2 (W - 1) / W of them."""
    return 2 * (ranks - 1) / ranks * size


_EXCHANGES: dict[str, Callable[..., Number]] = {  # bytes that a rank gets from others
    "eyespot.gather_rows": lambda rows, name: _from_others(_ranks(name), rows.nbytes),
    "eyespot.gather_with_gradient": lambda rows, name: _from_others(_ranks(name), rows.nbytes),
    "eyespot.gathered_lse": _lse_received,
    "eyespot.gathered_lse_backward": _lse_backward_received,
    "eyespot.sigmoid_negatives": _negatives_received,
    "eyespot.sigmoid_negatives_backward": _negatives_backward_received,
    "eyespot.label_sums": _label_sums_received,
    "eyespot.rank_sum": lambda part, name: all_reduce_bytes(part.nbytes, _ranks(name)),
    "eyespot.rank_max": lambda part, name: all_reduce_bytes(part.nbytes, _ranks(name)),
    "c10d.allgather_": lambda lists, own, *_: _bytes(*lists[0]) - _bytes(*own),
    "c10d._allgather_base_": lambda everybody, own, *_: everybody.nbytes - own.nbytes,
    "c10d.allreduce_": lambda tensors, group, *_: all_reduce_bytes(_bytes(*tensors), dist.get_world_size()),
}
