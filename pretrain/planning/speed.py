"""How long a step takes: arithmetic, memory traffic, and what crosses the network.

A kernel takes as long as the slower of its arithmetic and its memory traffic (roofline model, Williams et al. 2009), at
the shares of a GPU's peaks that real kernels reach. A collective takes its ring's bytes over the slowest link on the
ring, and hides behind the pass that it runs beside.
"""

import difflib
import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Le

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.arithmetic import Precision
from eyespot.pretrain.planning.memory import shard_ranks
from eyespot.pretrain.planning.meter import Number, Work, all_reduce_bytes
from eyespot.pretrain.planning.trace import Sizes, Trace

DDP_BUCKET = 25 * 2**20
"""torch's default bucket of gradients, bytes."""
Speed = Annotated[Number, Gt(0), Le(math.inf), "must be above 0"]
Reached = Annotated[float, Gt(0), Le(1)]
"""Share of a stated peak."""


@dataclass(kw_only=True, slots=True, frozen=True)
class GPU:
    """What its maker states: dense, without sparsity."""

    name: str
    bf16_tflops: Number
    tf32_tflops: Number
    fp32_tflops: Number
    memory_gb_s: Number
    memory_gb: Number
    source: str

    def tflops(self, precision: Precision) -> Number:
        """Peak of its arithmetic in a run's precision."""
        return {"bf16": self.bf16_tflops, "tf32": self.tf32_tflops, "fp32": self.fp32_tflops}[precision]


GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU(
            name="v100",
            bf16_tflops=125,
            tf32_tflops=15.7,
            fp32_tflops=15.7,
            memory_gb_s=900,
            memory_gb=32,
            source="NVIDIA V100 datasheet, SXM2 (fp16: it has no bf16, and no TF32)",
        ),
        GPU(
            name="a100",
            bf16_tflops=312,
            tf32_tflops=156,
            fp32_tflops=19.5,
            memory_gb_s=2039,
            memory_gb=80,
            source="NVIDIA A100 datasheet, SXM 80 GB",
        ),
        GPU(
            name="h100",
            bf16_tflops=989,
            tf32_tflops=494.5,
            fp32_tflops=67,
            memory_gb_s=3350,
            memory_gb=80,
            source="NVIDIA H100 datasheet, SXM",
        ),
        GPU(
            name="h200",
            bf16_tflops=989,
            tf32_tflops=494.5,
            fp32_tflops=67,
            memory_gb_s=4800,
            memory_gb=141,
            source="NVIDIA H200 datasheet, SXM",
        ),
        GPU(
            name="b200",
            bf16_tflops=2250,
            tf32_tflops=1125,
            fp32_tflops=75,
            memory_gb_s=8000,
            memory_gb=180,
            source="NVIDIA DGX B200 datasheet, an eighth of the system",
        ),
        GPU(
            name="l40s",
            bf16_tflops=362,
            tf32_tflops=183,
            fp32_tflops=91.6,
            memory_gb_s=864,
            memory_gb=48,
            source="NVIDIA L40S datasheet",
        ),
    )
}


def find_gpu(name: str) -> GPU:
    """The GPU of that name.

    Raises:
        UserError: there is none in the table.
    """
    if name.lower() in GPUS:
        return GPUS[name.lower()]
    close = difflib.get_close_matches(name.lower(), GPUS, n=2)
    hint = f"perhaps you meant {' or '.join(close)}" if close else f"there are {', '.join(GPUS)}"
    raise UserError(f"gpu {name!r}: unknown; {hint}; or give --gpu-tflops and --gpu-memory-gb-s of your own")


@dataclass(kw_only=True, slots=True, frozen=True)
class Links:
    """Bytes per second and direction of each GPU."""

    node_gpus: int = 8
    intra_gb_s: Speed = 450.0
    """To its neighbours on the node, 10^9 bytes."""
    inter_gb_s: Speed = 50.0
    """Of its share of the node's network cards, 10^9 bytes."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(kw_only=True, slots=True, frozen=True)
class Efficiency:
    """What of the stated peaks is reached, and what each start costs."""

    arithmetic: Reached = 0.6
    """Share of the peak that matrix products and convolutions reach."""
    memory: Reached = 0.8
    """Share of the memory bandwidth that other kernels reach."""
    links: Reached = 0.8
    """Share of a link's bandwidth that a collective reaches."""
    launch_us: float = 6.0
    """Time of the CPU to start a kernel, microseconds; a pass is never faster than its starts."""
    hop_us: float = 8.0
    """Latency of one of a collective's log2(ranks) hops, microseconds."""

    def __post_init__(self) -> None:
        check_ranges(self, "efficiency ")


@dataclass(kw_only=True, slots=True, frozen=True)
class Exchange:
    """A kind of collective, over one step."""

    name: str
    received_bytes: Number
    """Per GPU and step; it sends as many."""
    collectives: Number
    """How many calls those are in."""
    beside: Literal["forward", "backward", "nothing"]
    """The pass that it hides behind."""
    over: Literal["all", "node", "nodes"] = "all"
    """All GPUs, those of a node, or one GPU of each node."""
    last_only: bool = False
    """It takes place with the last micro-batch only."""


def exchanges(run: Run, trace: Trace, gpus: int, node_gpus: int, micro: Number, accumulate: int) -> list[Exchange]:
    """What crosses the network in one step, in the engine's name and the objective's."""
    if gpus == 1:
        return []
    step, sizes = trace.at(micro), trace.sizes
    found = {"ddp": _ddp, "fsdp": _fsdp, "deepspeed": _deepspeed}[run.engine](run, sizes, gpus, node_gpus, accumulate)
    received = sum(work.received_bytes for work in (step.forward, step.backward, step.update))
    if received and trace.ranks > 1:
        # Each of the others sends its share: as many bytes from each, on any number of ranks.
        size = accumulate * received * (gpus - 1) / (trace.ranks - 1)
        found.append(
            Exchange(name="embeddings, keys: all-gather", received_bytes=size, collectives=3, beside="nothing")
        )
    return found


def _ddp(run: Run, sizes: Sizes, gpus: int, node_gpus: int, accumulate: int) -> list[Exchange]:
    return [
        Exchange(
            name="gradients: all-reduce",
            received_bytes=all_reduce_bytes(sizes.trainable, gpus),
            collectives=max(1, math.ceil(sizes.trainable / DDP_BUCKET)),
            beside="backward",
            last_only=True,
        )
    ]


def _fsdp(run: Run, sizes: Sizes, gpus: int, node_gpus: int, accumulate: int) -> list[Exchange]:
    shards = shard_ranks(run, gpus, node_gpus)
    over = "node" if run.fsdp.shard_over == "node" else "all"
    width = 0.5 if run.fsdp.gather == "bf16" else 1.0
    rest, blocks, share = sizes.parameters - sum(sizes.blocks), len(sizes.blocks) + 1, (shards - 1) / shards
    found = [
        Exchange(
            name="parameters, forward: all-gather",
            received_bytes=accumulate * share * (width * sum(sizes.blocks) + rest),
            collectives=accumulate * blocks,
            beside="forward",
            over=over,
        ),
        Exchange(
            name="parameters, backward: all-gather",
            received_bytes=accumulate * share * width * sizes.trainable_in_blocks,
            collectives=accumulate * blocks,
            beside="backward",
            over=over,
        ),
        Exchange(
            name="gradients: reduce-scatter",
            received_bytes=share * sizes.trainable,
            collectives=blocks,
            beside="backward",
            over=over,
            last_only=True,
        ),
    ]
    if gpus > shards:
        found.append(
            Exchange(
                name="gradients between nodes: all-reduce",
                received_bytes=all_reduce_bytes(sizes.trainable / shards, gpus // shards),
                collectives=blocks,
                beside="backward",
                over="nodes",
                last_only=True,
            )
        )
    return found


def _deepspeed(run: Run, sizes: Sizes, gpus: int, node_gpus: int, accumulate: int) -> list[Exchange]:
    stage, share, blocks = run.deepspeed.stage, (gpus - 1) / gpus, len(sizes.blocks) + 1
    times = 1 if stage == 1 else accumulate
    found = [
        Exchange(
            name="gradients: reduce-scatter",
            received_bytes=times * share * sizes.trainable,
            collectives=times * (blocks if stage == 3 else 1),
            beside="backward",
            last_only=stage == 1,
        )
    ]
    if stage < 3:
        name, size = "parameters after the step: all-gather", share * sizes.trainable
        return [*found, Exchange(name=name, received_bytes=size, collectives=1, beside="nothing")]
    gathered = {"forward": sizes.parameters, "backward": sizes.trainable}
    return found + [
        Exchange(
            name=f"parameters, {when}: all-gather",
            received_bytes=accumulate * share * gathered[when],
            collectives=accumulate * blocks,
            beside=when,
        )
        for when in ("forward", "backward")
    ]


@dataclass(kw_only=True, slots=True, frozen=True)
class StepTime:
    """Seconds of one step on each GPU."""

    forward: Number
    backward: Number
    update: Number
    """Optimiser, teachers, queue."""
    communication: Number
    """All collectives, hidden or not."""
    exposed: Number
    """What of it the GPU waits for."""

    @property
    def total(self) -> Number:
        """The step."""
        return self.forward + self.backward + self.update + self.exposed


def work_seconds(work: Work, gpu: GPU, precision: Precision, efficiency: Efficiency) -> Number:
    """How long a GPU takes for a phase's kernels."""
    peak = gpu.tflops(precision) * 1e12 * efficiency.arithmetic
    bandwidth = gpu.memory_gb_s * 1e9 * efficiency.memory
    device = sum(max(kernel.flops / peak, kernel.moved_bytes / bandwidth) for kernel in work.kernels)
    return max(device, len(work.kernels) * efficiency.launch_us * 1e-6)


def exchange_seconds(exchange: Exchange, gpus: int, links: Links, efficiency: Efficiency) -> Number:
    """How long a collective takes by itself.

    A ring over several nodes is as many rings as a node has GPUs, each through one GPU's share of the network.
    """
    nodes = math.ceil(gpus / links.node_gpus)
    across = exchange.over == "nodes" or (exchange.over == "all" and nodes > 1)
    slowest = links.intra_gb_s
    if across:
        slowest = links.inter_gb_s if exchange.over == "nodes" else min(slowest, links.node_gpus * links.inter_gb_s)
    ranks = {"all": gpus, "node": min(gpus, links.node_gpus), "nodes": nodes}[exchange.over]
    latency = exchange.collectives * math.log2(max(ranks, 1)) * efficiency.hop_us * 1e-6
    return exchange.received_bytes / (slowest * 1e9 * efficiency.links) + latency


def step_time(
    run: Run, trace: Trace, gpus: int, micro: Number, accumulate: int, gpu: GPU, links: Links, efficiency: Efficiency
) -> StepTime:
    """One optimiser step of ``accumulate`` micro-batches of ``micro`` images on each of ``gpus`` GPUs."""
    step = trace.at(micro)

    def seconds(work: Work) -> Number:
        return work_seconds(work, gpu, run.precision, efficiency)

    forward = accumulate * seconds(step.forward) + (accumulate * seconds(step.first_pass) if accumulate > 1 else 0.0)
    backward = accumulate * seconds(step.backward)
    shards = shard_ranks(run, gpus, links.node_gpus)
    update = seconds(step.update) + _optimizer_seconds(run, trace.sizes, shards, gpu, efficiency)
    found = exchanges(run, trace, gpus, links.node_gpus, micro, accumulate)
    windows = {"forward": forward, "backward": backward}
    exposed = 0.0
    for beside in ("forward", "backward", "nothing"):
        group = [exchange for exchange in found if exchange.beside == beside]
        times = [exchange_seconds(exchange, gpus, links, efficiency) for exchange in group]
        window = windows.get(beside, 0.0)
        if group and all(exchange.last_only for exchange in group):
            window /= accumulate
        # The first block has nothing to hide behind, nor has the last.
        edge = max((time / exchange.collectives for time, exchange in zip(times, group, strict=True)), default=0.0)
        exposed += max(sum(times) - window, edge)
    total = sum(exchange_seconds(exchange, gpus, links, efficiency) for exchange in found)
    return StepTime(forward=forward, backward=backward, update=update, communication=total, exposed=exposed)


def _optimizer_seconds(run: Run, sizes: Sizes, shards: int, gpu: GPU, efficiency: Efficiency) -> Number:
    """Memory traffic of the norm and the update: each tensor read, and written where it changes.

    The products of muon are not in it.
    """
    passes = {"adamw": 8, "sgd": 6, "lars": 13, "muon": 20, "schedulefree": 33}[run.optim.name]
    return passes * sizes.trainable / shards / (gpu.memory_gb_s * 1e9 * efficiency.memory)


@dataclass(kw_only=True, slots=True, frozen=True)
class Scale:
    """A run on another number of GPUs."""

    gpus: int
    batch: int
    """Images per step, over all GPUs."""
    accumulate: int
    seconds: Number
    """Per step."""

    @property
    def images_per_second(self) -> Number:
        """Over all GPUs."""
        return self.batch / self.seconds
