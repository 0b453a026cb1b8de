"""Memory of one GPU: what an engine keeps of an objective, and the largest batch beside it.

Activations come from a ``Trace``; what an engine cuts over ranks, and what it holds for a while, from formulas here.
"""

import bisect
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import MOST_AHEAD
from eyespot.data_pipeline.loading.nvjpeg import BYTES_PER_PIXEL
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.pretrain.config import Run
from eyespot.pretrain.planning.meter import Number
from eyespot.pretrain.planning.trace import SMALL_IMAGES, Sizes, Trace

SLOTS = {"adamw": 2, "sgd": 1, "lars": 1, "muon": 2, "schedulefree": 3}
"""Tensors as large as a parameter that the optimiser keeps of it; muon has one of a hidden matrix."""
STEP_COUNTER = 4
"""AdamW counts steps per tensor, bytes."""
DEEPSPEED_BUCKET = 4 * 50_000_000
"""Most gradients that our DeepSpeed engine reduces at once, bytes."""
IN_DALI = 5
"""Batches of 8-bit views that DALI holds: two that are ready, three that kernels may still be reading."""
BEING_DECODED = 2
"""Batches of whole images that DALI holds."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Fleet:
    """The GPUs, and what of their memory is not ours."""

    gpus: Annotated[int, Ge(1)]
    """Over all nodes."""
    node_gpus: Annotated[int, Ge(1)]
    """Per node."""
    memory_gb: Number
    """Per GPU, 10^9 bytes."""
    fixed_gb: Number = 1.5
    """CUDA's context, NCCL's buffers, cuDNN's workspace, nvJPEG's own buffers: 10^9 bytes."""
    spare_share: Number = 0.1
    """Of the memory, left to the allocator's fragmentation."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.memory_gb <= 0:
            raise UserError(f"gpu_memory_gb {self.memory_gb}: must be above 0")
        if self.gpus > self.node_gpus and self.gpus % self.node_gpus:
            nearest = round(self.gpus / self.node_gpus) * self.node_gpus
            raise UserError(f"gpus {self.gpus}: not a multiple of node_gpus {self.node_gpus}; {nearest} would be")

    @property
    def usable_bytes(self) -> Number:
        """What parameters, state and activations may take."""
        return (self.memory_gb * (1 - self.spare_share) - self.fixed_gb) * 1e9


def shard_ranks(run: Run, gpus: int, node_gpus: int) -> int:
    """Over how many ranks the engine cuts the state up."""
    if run.engine == "ddp":
        return 1
    return min(gpus, node_gpus) if run.engine == "fsdp" and run.fsdp.shard_over == "node" else gpus


def optimizer_bytes(run: Run, sizes: Sizes) -> int:
    """The optimiser's slots, over all ranks that share them."""
    counters = STEP_COUNTER * sizes.num_trainable if run.optim.name == "adamw" else 0
    return SLOTS[run.optim.name] * sizes.trainable + counters


def state_bytes(run: Run, sizes: Sizes, fleet: Fleet) -> dict[str, Number]:
    """What a GPU holds from the first step to the last, by name."""
    shards = shard_ranks(run, fleet.gpus, fleet.node_gpus)
    stage = run.deepspeed.stage if run.engine == "deepspeed" else {"ddp": 0, "fsdp": 3}[run.engine]
    parts = {
        "parameters": sizes.trainable / (shards if stage == 3 else 1),
        "teachers and frozen parameters": sizes.frozen / (shards if stage == 3 else 1),
        "queues and other buffers": float(sizes.buffers),
        "gradients": sizes.trainable / (shards if stage >= 2 else 1),
        f"optimiser state ({run.optim.name})": optimizer_bytes(run, sizes) / shards,
    }
    if run.engine == "deepspeed":
        parts["flat copy of its share (DeepSpeed)"] = sizes.trainable / shards
        buckets = 1 if stage == 3 else 2  # one is filled while the other crosses the network
        parts["reduce buckets (DeepSpeed)"] = float(buckets * min(DEEPSPEED_BUCKET, sizes.trainable))
    return parts


def temporary_bytes(run: Run, sizes: Sizes, fleet: Fleet, accumulate: int) -> dict[str, Number]:
    """What the engine holds beside the activations while a micro-batch runs, by name."""
    parts: dict[str, Number] = {}
    if run.engine == "fsdp" or (run.engine == "deepspeed" and run.deepspeed.stage == 3):
        width = 0.5 if run.engine == "fsdp" and run.fsdp.gather == "bf16" else 1.0
        rest = sizes.parameters - sum(sizes.blocks)
        largest = sum(sorted(sizes.blocks)[-2:])
        parts["gathered parameters (2 blocks, all outside blocks)"] = width * largest + rest
        parts["their gradients before they are cut up"] = float(largest)
    if accumulate > 1 and (run.engine == "fsdp" or (run.engine == "ddp" and fleet.gpus > 1)):
        # DDP's lie in the buckets that cross the network, but for these.
        parts[f"whole gradients while micro-batches add up ({run.engine.upper()})"] = float(sizes.trainable)
    return parts


def image_bytes(run: Run, trace: Trace, images: Number, accumulate: int) -> dict[str, Number]:
    """What grows with the micro-batch, by name."""
    batch = images * trace.image_bytes
    parts = {
        "activations": max(0.0, trace.activations(images)),
        "images made ready": max(batch, min(MOST_AHEAD * batch, run.data.ready_mb * 1e6)),
        "images in the decoder (DALI)": _decoding_bytes(run, trace, images),
    }
    if accumulate > 1 and trace.steps[0].first_pass.kernels:
        parts["images of the other micro-batches, for the second pass"] = (accumulate - 1) * batch
    return parts


def _decoding_bytes(run: Run, trace: Trace, images: Number) -> Number:
    """8-bit views that the CPU hands over; or, where a GPU decodes, DALI's, whole images and nvJPEG's reserve.

    Photographs are taken to be as large as ImageNet's mostly are, small ones as CIFAR-10's.
    """
    views = images * trace.image_bytes / (2 if trace.bf16_views else 4)
    if run.data.decode == "cpu" or trace.device == "cpu":
        return views
    height, width = (32, 32) if run.encoder.image_size <= SMALL_IMAGES else (375, 500)
    whole = images * trace.files * BYTES_PER_PIXEL * height * width
    reserve = min(run.data.nvjpeg.preallocate_mb * 1e6, whole if height == 32 else float("inf"))
    return IN_DALI * views + BEING_DECODED * whole + reserve


def parts_of(run: Run, trace: Trace, fleet: Fleet, images: Number, accumulate: int) -> dict[str, Number]:
    """All of a GPU's memory by name, bytes, with micro-batches of so many images."""
    return {
        **state_bytes(run, trace.sizes, fleet),
        **temporary_bytes(run, trace.sizes, fleet, accumulate),
        **image_bytes(run, trace, images, accumulate),
    }


def fits(run: Run, trace: Trace, fleet: Fleet, images: int, accumulate: int) -> bool:
    """Whether a GPU has room for micro-batches of so many images."""
    return sum(parts_of(run, trace, fleet, images, accumulate).values()) <= fleet.usable_bytes


def largest_micro_batch(run: Run, trace: Trace, fleet: Fleet, accumulate: int) -> int:
    """The most images that fit at once on one GPU; 0 where not even one does."""

    def too_many(images: int) -> bool:
        return not fits(run, trace, fleet, images, accumulate)

    beyond = 1
    while not too_many(beyond):
        beyond *= 2
    return max(0, bisect.bisect_left(range(beyond), True, lo=beyond // 2, key=too_many) - 1)


def fitting_accumulation(run: Run, trace: Trace, fleet: Fleet, per_gpu: int) -> int:
    """The fewest micro-batches, not fewer than the run's own, into which a GPU's share of the batch fits.

    Raises:
        UserError: not even one image at a time fits.
    """
    for accumulate in range(run.data.accumulate, per_gpu + 1):
        if per_gpu % accumulate == 0 and fits(run, trace, fleet, per_gpu // accumulate, accumulate):
            return accumulate
    parts = parts_of(run, trace, fleet, 1, per_gpu)
    name, size = max(parts.items(), key=lambda part: part[1])
    raise UserError(
        f"gpu_memory_gb {fleet.memory_gb:g}: {sum(parts.values()) / 1e9:.1f} GB for one image at a time do not fit into"
        f" the {max(0.0, fleet.usable_bytes) / 1e9:.1f} that are left to them; {name} alone takes {size / 1e9:.1f};"
        f" {_advice(run, name)}"
    )


def _advice(run: Run, largest: str) -> str:
    if largest == "activations" and not run.encoder.checkpointing:
        return "try --encoder.checkpointing or a smaller encoder"
    if run.engine == "ddp":
        return "try --engine fsdp"
    return "try a smaller encoder or GPUs with more memory"
