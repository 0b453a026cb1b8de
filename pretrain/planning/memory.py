"""Memory of one GPU: what an engine keeps of an objective, and the largest batch beside it.

Activations come from a ``Trace``; what an engine cuts over ranks, and what it holds for a while, from formulas here.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.pretrain.config import Run
from eyespot.pretrain.planning.meter import Number
from eyespot.pretrain.planning.trace import Sizes, Trace

SLOTS = {"adamw": 2, "sgd": 1, "lars": 1}
"""Tensors as large as a parameter that the optimiser keeps of it."""
STEP_COUNTER = 4
"""AdamW counts steps per tensor, bytes."""
DEEPSPEED_BUCKET = 4 * 50_000_000
"""Most gradients that our DeepSpeed engine reduces at once, bytes."""
PREFETCH = 2
"""Batches that the loader holds ready."""


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
    """CUDA's context, NCCL's buffers, cuDNN's workspace, the loader's decoder: 10^9 bytes."""
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


def image_bytes(trace: Trace, images: Number, accumulate: int) -> dict[str, Number]:
    """What grows with the micro-batch, by name."""
    waiting = PREFETCH + (accumulate - 1 if _kept(trace) else 0)
    return {
        "activations": max(0.0, trace.at(images).activations),
        "images made ready": waiting * images * trace.image_bytes,
    }


def _kept(trace: Trace) -> bool:
    """A contrastive loss keeps the images of all micro-batches for its second pass."""
    return bool(trace.steps[0].first_pass.kernels)


def parts_of(run: Run, trace: Trace, fleet: Fleet, images: Number, accumulate: int) -> dict[str, Number]:
    """All of a GPU's memory by name, bytes, with micro-batches of so many images."""
    return {
        **state_bytes(run, trace.sizes, fleet),
        **temporary_bytes(run, trace.sizes, fleet, accumulate),
        **image_bytes(trace, images, accumulate),
    }


def largest_micro_batch(run: Run, trace: Trace, fleet: Fleet, accumulate: int) -> int:
    """The most images that fit at once on one GPU; 0 where not even one does."""
    none, one = (sum(parts_of(run, trace, fleet, images, accumulate).values()) for images in (0, 1))
    fits = int((fleet.usable_bytes - none) / (one - none))
    # At few images the line of the activations may lie below zero, where it was cut off.
    while fits > 0 and sum(parts_of(run, trace, fleet, fits, accumulate).values()) > fleet.usable_bytes:
        fits -= 1
    return max(0, fits)


def fitting_accumulation(run: Run, trace: Trace, fleet: Fleet, per_gpu: int) -> int:
    """The fewest micro-batches, not fewer than the run's own, into which a GPU's share of the batch fits.

    Raises:
        UserError: not even one image at a time fits.
    """
    for accumulate in range(run.data.accumulate, per_gpu + 1):
        if per_gpu % accumulate == 0 and per_gpu // accumulate <= largest_micro_batch(run, trace, fleet, accumulate):
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
