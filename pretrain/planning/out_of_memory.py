"""Out of memory, said in one line: what was asked for, what there is, and the largest micro-batch that would fit."""

import ctypes
import gc
import json
import os
import re
import resource
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.distributed.distributed_c10d import _get_default_store  # pyright: ignore[reportPrivateImportUsage]

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.run_end import TrainingError

if TYPE_CHECKING:  # a run that has memory needs none of it
    from eyespot.pretrain.planning.trace import Trace

_SAID = re.compile(
    r"CUDA out of memory|DefaultCPUAllocator|bad_alloc|CUDA error: out of memory|_STATUS_ALLOC_FAILED|"
    r"Failed to CUDA malloc"
)
TRACE_SECONDS = 15.0
"""For a trace while other ranks wait; of a short ``rank_timeout_seconds``, a third."""
MEETING_SECONDS = 1.0
"""In which ranks that lack memory in the same step hear of each other."""
_KEY = "eyespot/out of memory"


@dataclass(kw_only=True, slots=True, frozen=True)
class Room:
    """Memory of a device, bytes."""

    whole: int
    foreign: int
    """Held by others than this process's tensors: other processes, libraries, CUDA's context, the loader."""


@contextmanager
def in_words(run: Run, world: World) -> Iterator[None]:
    """Around a run: a lack of memory becomes one line.

    Raises:
        UserError: the run's micro-batches are too large for this device.
        TrainingError: they are not, by what ``eyespot plan`` reckons.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's OutOfMemoryError is a RuntimeError
        if not is_lack(error):
            raise
        said = " ".join(str(error).split())
        forget(error)
    else:
        return
    raise _words(run, world, said) if world.size == 1 else _words_of_one_rank(run, world, said)


def _words(run: Run, world: World, said: str, **limit: float) -> UserError | TrainingError:
    from eyespot.pretrain.planning.trace_apart import trace_apart

    left = room(world.device)
    found = trace_apart(run, "cuda" if world.device.type == "cuda" else "cpu", **limit)
    return explanation(run, world, left, found, said)


def _words_of_one_rank(run: Run, world: World, said: str) -> UserError | TrainingError:
    """What the lowest of the ranks that lack memory finds, on all of these.

    They meet in torch's store: the others wait in an exchange, for no longer than one trace may take.
    """
    seconds = min(TRACE_SECONDS, run.rank_timeout_seconds / 3)
    with suppress(RuntimeError):  # the store is gone
        store = _get_default_store()
        store.set(f"{_KEY}/{world.rank}", "")
        time.sleep(MEETING_SECONDS)
        lowest = next(rank for rank in range(world.size) if store.check([f"{_KEY}/{rank}"]))
        if lowest == world.rank:
            error = _words(run, world, said, seconds=seconds)
            store.set(f"{_KEY}/words", json.dumps([isinstance(error, UserError), str(error)]))
            return error
        until = time.monotonic() + 2 * seconds
        while time.monotonic() < until:
            if store.check([f"{_KEY}/words"]):
                wrong_input, words = json.loads(store.get(f"{_KEY}/words"))
                return (UserError if wrong_input else TrainingError)(f"{words} (rank {lowest})")
            time.sleep(0.1)
    return explanation(run, world, room(world.device), None, said)


def is_lack(error: BaseException) -> bool:
    """Whether this error says that memory has run out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or _SAID.search(str(error)) is not None


def forget(error: BaseException) -> None:
    """Gives back what the broken step held: it hangs in the frames that the error went through."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc's


def room(device: torch.device) -> Room:
    """How much memory there is, and how much of it is not for tensors.

    On a CPU: what this process may have (``ulimit -v``, ``ulimit -d``), or else the machine's memory.
    """
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        return Room(whole=whole, foreign=whole - free - torch.cuda.memory_reserved(device))
    own, machine = (
        {name.rstrip(":"): 1024 * int(number) for name, number, unit in lines if unit == "kB"}
        for lines in (_three_words("/proc/self/status"), _three_words("/proc/meminfo"))
    )
    known = [
        (machine["MemTotal"], machine["MemTotal"] - machine["MemAvailable"]),
        (resource.getrlimit(resource.RLIMIT_AS)[0], own["VmSize"]),
        (resource.getrlimit(resource.RLIMIT_DATA)[0], own["VmData"]),
    ]
    known = [(whole, held) for whole, held in known if whole != resource.RLIM_INFINITY]
    whole, held = min(known, key=lambda pair: pair[0] - pair[1])
    return Room(whole=whole, foreign=max(0, held - _tensor_bytes() - _unused_heap_bytes()))


def _three_words(path: str) -> list[list[str]]:
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    return [line for line in lines if len(line) == 3]


def _tensor_bytes() -> int:
    """Of all tensors on the CPU that Python knows, and their gradients."""
    tensors = [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]
    tensors += [found.grad for found in tensors if found.is_leaf and found.grad is not None]
    storages: dict[int, int] = {}
    for tensor in tensors:
        with suppress(RuntimeError, NotImplementedError):  # one without memory
            if tensor.device.type == "cpu":
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ord sm hblks hblkhd usm fsm uord ford keepcost".split()]  # noqa: SIM905


def _unused_heap_bytes() -> int:
    """What the allocator has of the system and nobody has of it; 0 where it is not glibc's."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return 0
    ask.restype = _Mallinfo
    return int(ask().ford)


def explanation(run: Run, world: World, left: Room, found: "Trace | None", said: str) -> UserError | TrainingError:
    """What to raise.

    Args:
        run: that lacks memory.
        world: of it.
        left: on its device.
        found: what a micro-batch needs; None = nobody knows.
        said: the allocator's own words.
    """
    from eyespot.pretrain.planning.memory import Fleet, fitting_accumulation, largest_micro_batch

    per_rank = run.data.batch_size // world.size
    micro = per_rank // run.data.accumulate
    field = f"data.accumulate {run.data.accumulate}: out of memory on {world.device}"
    if found is None:
        return TrainingError(f"{field}, with micro-batches of {plural(micro, 'image')} per process; {said[:200]}")
    fleet = Fleet(
        gpus=world.size,
        node_gpus=int(os.environ.get("LOCAL_WORLD_SIZE", world.size)),
        memory_gb=max(1, left.whole - left.foreign) / 1e9,
        fixed_gb=0.0,
    )
    largest = largest_micro_batch(run, found, fleet, run.data.accumulate)
    has = f"{left.whole / 1e9:.1f} GB, {left.foreign / 1e9:.1f} of them held by others than its tensors"
    if largest >= micro:
        return TrainingError(
            f"{field}, which has {has}; micro-batches of {plural(micro, 'image')} should fit,"
            f" {largest} at most: look who else"
            " uses it, or make them smaller with --data.accumulate"
        )
    field = (
        f"{field} with micro-batches of {plural(micro, 'image')} per process; it has {has};"
        f" {plural(largest, 'image')} would fit"
    )
    try:
        accumulate = fitting_accumulation(run, found, fleet, per_rank)
    except UserError:
        return UserError(f"{field}; try --encoder.checkpointing, --engine fsdp or a smaller encoder")
    return UserError(f"{field}; use --data.accumulate {accumulate}, micro-batches of {per_rank // accumulate}")
