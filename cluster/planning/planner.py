"""From a recipe and a fleet of GPUs to a plan: the numbers that ``eyespot plan`` prints."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt
from tyro.conf import arg

from eyespot.cluster.run_length import Epochs
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.config import Run
from eyespot.pretrain.planning import memory, speed
from eyespot.pretrain.planning.memory import Fleet
from eyespot.pretrain.planning.meter import Number
from eyespot.pretrain.planning.speed import GPU, GPUS, Efficiency, Exchange, Links, Scale, StepTime
from eyespot.pretrain.planning.trace import Step, Trace, trace

MOST_GPUS = 1024
Positive = Annotated[float, Gt(0)]


@dataclass(kw_only=True, slots=True)
class Question:
    """What is to be planned, on which machines."""

    run: Annotated[Run, arg(name="")]
    epochs: Epochs = None
    """Length of the run in passes over its data, in place of --steps."""
    gpus: int = 8
    """GPUs of the run, over all nodes."""
    gpu: str = "h100"
    """Which: v100, a100, h100, h200, b200, l40s; or any name, with the three numbers below."""
    gpu_memory_gb: Positive | None = None
    """Memory per GPU, 10^9 bytes; None = what that GPU has."""
    gpu_tflops: Positive | None = None
    """Peak of its matrix units in the run's precision, dense, 10^12 per second; None = what that GPU has."""
    gpu_memory_gb_s: Positive | None = None
    """Its memory bandwidth, 10^9 bytes per second; None = what that GPU has."""
    node_gpus: int = 8
    """GPUs per node."""
    intra_gb_s: float = 450.0
    """Between GPUs of a node, 10^9 bytes per second, GPU and direction."""
    inter_gb_s: float = 50.0
    """Between nodes, 10^9 bytes per second, GPU and direction."""
    efficiency: Efficiency = Efficiency()  # noqa: RUF009 - frozen
    """Shares of the GPU's and the network's figures that a run reaches."""
    fixed_gb: float = 1.5
    """Memory per GPU that is not torch's: CUDA's context, NCCL, cuDNN, the loader, 10^9 bytes."""
    spare_share: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the memory that is left to fragmentation."""
    plot: Path | None = None
    """Draw the scaling into this PNG file."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def card(self) -> GPU:
        """The GPU, with what was given laid over what is known of it.

        Raises:
            UserError: its name is unknown and not all of its numbers are given.
        """
        own = tflops, bandwidth, size = self.gpu_tflops, self.gpu_memory_gb_s, self.gpu_memory_gb
        if self.gpu.lower() not in GPUS and tflops and bandwidth and size:
            known = GPU(
                name=self.gpu,
                bf16_tflops=tflops,
                tf32_tflops=tflops,
                fp32_tflops=tflops,
                memory_gb_s=bandwidth,
                memory_gb=size,
                source="",
            )
        else:
            known = speed.find_gpu(self.gpu)
        return dataclasses.replace(
            known,
            bf16_tflops=tflops or known.bf16_tflops,
            tf32_tflops=tflops or known.tf32_tflops,
            fp32_tflops=tflops or known.fp32_tflops,
            memory_gb_s=bandwidth or known.memory_gb_s,
            memory_gb=size or known.memory_gb,
            source="given" if any(own) else known.source,
        )

    def fleet(self, gpus: int) -> Fleet:
        """So many of the GPUs."""
        return Fleet(
            gpus=gpus,
            node_gpus=self.node_gpus,
            memory_gb=self.card().memory_gb,
            fixed_gb=self.fixed_gb,
            spare_share=self.spare_share,
        )

    def links(self) -> Links:
        """The network."""
        return Links(node_gpus=self.node_gpus, intra_gb_s=self.intra_gb_s, inter_gb_s=self.inter_gb_s)


@dataclass(kw_only=True, slots=True, frozen=True)
class Activations:
    """What micro-batches of a size take, bytes; None = the encoder cannot be checkpointed."""

    images: int
    plain: Number
    checkpointed: Number | None


@dataclass(kw_only=True, slots=True, frozen=True)
class Plan:
    """The answer."""

    recipe: str
    question: Question
    card: GPU
    trace: Trace
    micro: int
    accumulate: int
    memory: dict[str, Number]
    """Bytes of one GPU by name."""
    largest: dict[str, int]
    """The most images per GPU at once, by whether the encoder is checkpointed: plain, checkpointed."""
    activations: list[Activations]
    exchanges: list[Exchange]
    time: StepTime
    strong: list[Scale]
    weak: list[Scale]

    @property
    def run(self) -> Run:
        """What is planned."""
        return self.question.run

    @property
    def step(self) -> Step:
        """One micro-batch."""
        return self.trace.at(self.micro)

    @property
    def flops(self) -> Number:
        """Of a step, on one GPU."""
        step, twice = self.step, self.accumulate > 1
        return self.accumulate * (step.forward.flops + step.backward.flops + twice * step.first_pass.flops)

    @property
    def hours(self) -> Number:
        """Of the whole run."""
        return self.run.steps * self.time.total / 3600

    def values(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        run, gpus, sizes = self.run, self.question.gpus, self.trace.sizes
        return {
            "recipe": self.recipe,
            "engine": run.engine,
            "gpus": gpus,
            "gpu": dataclasses.asdict(self.card),
            "parameters": {"trainable": sizes.trainable // 4, "frozen": sizes.frozen // 4},
            "batch": {
                "global": run.data.batch_size,
                "micro": self.micro,
                "accumulate": self.accumulate,
                "largest_micro": self.largest,
            },
            "memory_bytes": self.memory,
            "usable_bytes": self.question.fleet(gpus).usable_bytes,
            "activations": [dataclasses.asdict(row) for row in self.activations],
            "received_bytes_per_step": {exchange.name: exchange.received_bytes for exchange in self.exchanges},
            "flops_per_step_per_gpu": self.flops,
            "step_seconds": {**dataclasses.asdict(self.time), "total": self.time.total},
            "images_per_second": run.data.batch_size / self.time.total,
            "hours": self.hours,
            "gpu_hours": self.hours * gpus,
            "scaling": {
                kind: [{**dataclasses.asdict(row), "images_per_second": row.images_per_second} for row in rows]
                for kind, rows in (("strong", self.strong), ("weak", self.weak))
            },
            "efficiency": dataclasses.asdict(self.question.efficiency),
            "links": dataclasses.asdict(self.question.links()),
            "measured_because": self.trace.measured_because,
        }


def answer(question: Question, recipe: str) -> Plan:
    """Plans.

    Raises:
        UserError: the batch cannot be dealt to the GPUs, nothing fits, or a number is wrong.
    """
    run, gpus, card, links = question.run, question.gpus, question.card(), question.links()
    fleet = question.fleet(gpus)
    _check(run, gpus)
    found = trace(run, max(2, gpus))
    other = _other_checkpointing(run, gpus)
    per_gpu = run.data.batch_size // gpus
    accumulate = memory.fitting_accumulation(run, found, fleet, per_gpu)
    micro = per_gpu // accumulate
    plain, checkpointed = (other, found) if run.encoder.checkpointing else (found, other)
    kinds = {"plain": plain, "checkpointed": checkpointed}
    return Plan(
        recipe=recipe,
        question=question,
        card=card,
        trace=found,
        micro=micro,
        accumulate=accumulate,
        memory=memory.parts_of(run, found, fleet, micro, accumulate),
        largest={
            name: memory.largest_micro_batch(run, kind, fleet, accumulate) for name, kind in kinds.items() if kind
        },
        activations=_activations(plain, checkpointed, per_gpu),
        exchanges=speed.exchanges(run, found, gpus, question.node_gpus, micro, accumulate),
        time=speed.step_time(run, found, gpus, micro, accumulate, card, links, question.efficiency),
        strong=_strong(question, found),
        weak=_weak(question, found, micro, accumulate),
    )


def _check(run: Run, gpus: int) -> None:
    batch, accumulate = run.data.batch_size, run.data.accumulate
    if batch % (gpus * accumulate):
        parts = f"{plural(gpus, 'GPU')} x {accumulate} micro-batches" if accumulate > 1 else plural(gpus, "GPU")
        nearest = max(1, round(batch / (gpus * accumulate))) * gpus * accumulate
        raise UserError(f"data.batch_size {batch}: cannot be dealt evenly to {parts}; {nearest} could")
    if run.engine == "deepspeed" and run.optim.name in ("lars", "muon", "schedulefree"):
        raise UserError(f"optim.name {run.optim.name!r}: ZeRO cuts tensors up anywhere; use --engine ddp or fsdp")


def _other_checkpointing(run: Run, gpus: int) -> Trace | None:
    """The same run with the encoder's checkpointing turned over; None where its architecture cannot."""
    encoder = dataclasses.replace(run.encoder, checkpointing=not run.encoder.checkpointing)
    try:
        return trace(dataclasses.replace(run, encoder=encoder), max(2, gpus))
    except (AssertionError, AttributeError, NotImplementedError):
        return None


def _activations(plain: Trace | None, checkpointed: Trace | None, per_gpu: int) -> list[Activations]:
    counts = sorted({per_gpu, *(2**power for power in range(3, 12, 2))})
    if plain is None:
        return []
    return [
        Activations(
            images=count,
            plain=plain.at(count).activations,
            checkpointed=checkpointed.at(count).activations if checkpointed else None,
        )
        for count in counts
    ]


def _counts(node_gpus: int) -> list[int]:
    """Numbers of GPUs in whole nodes: 8 to 1,024 where nodes allow it."""
    first = 8 if 8 % node_gpus == 0 or node_gpus % 8 == 0 else node_gpus
    return [first * 2**power for power in range(MOST_GPUS.bit_length()) if first * 2**power <= MOST_GPUS]


def _scale(question: Question, found: Trace, gpus: int, micro: int, accumulate: int) -> Scale:
    time = speed.step_time(
        question.run, found, gpus, micro, accumulate, question.card(), question.links(), question.efficiency
    )
    return Scale(gpus=gpus, batch=gpus * micro * accumulate, accumulate=accumulate, seconds=time.total)


def _strong(question: Question, found: Trace) -> list[Scale]:
    """The run's own batch on more and more GPUs; where it cannot be dealt or does not fit, there is no row."""
    rows, batch = [], question.run.data.batch_size
    for gpus in _counts(question.node_gpus):
        if batch % (gpus * question.run.data.accumulate):
            continue
        try:
            accumulate = memory.fitting_accumulation(question.run, found, question.fleet(gpus), batch // gpus)
        except UserError:
            continue
        rows.append(_scale(question, found, gpus, batch // gpus // accumulate, accumulate))
    return rows


def _weak(question: Question, found: Trace, micro: int, accumulate: int) -> list[Scale]:
    """As many images per GPU as planned, on more and more GPUs."""
    return [_scale(question, found, gpus, micro, accumulate) for gpus in _counts(question.node_gpus)]
