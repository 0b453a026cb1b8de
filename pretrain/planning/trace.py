"""One step of a run's objective on tensors that take no memory: any encoder that timm knows, in seconds.

The objective is built on torch's meta device and run on fake tensors, forward and backward, under a ``Meter``. So every
objective is planned by its own code. One that asks a tensor for its value cannot run so; it is measured on the CPU with
a few real images instead.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch, noise_views
from eyespot.data_pipeline.loading.sample_files import shown_together
from eyespot.data_pipeline.patience import PATIENCE_SECONDS
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.arithmetic import Precision
from eyespot.pretrain.families.contrastive_objective import Contrastive
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.loop.run_data import ascending, chosen_ids, open_shards
from eyespot.pretrain.networks.memory_bank import SampleIds
from eyespot.pretrain.networks.repeated_blocks import choose_attention, repeated_blocks
from eyespot.pretrain.networks.split_encoder import seen_channels
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.planning.meter import Meter, Number, Work, blend
from eyespot.pretrain.recipes.datasets import CIFAR10_IMAGES, IMAGENET_IMAGES

Device = Literal["cuda", "cpu"]

FAKE_IMAGES, REAL_IMAGES = (16, 256), (8, 32)
"""The two sizes of micro-batch that are run; memory, work and traffic of others lie on the line through them.

Memory at its peak is the largest of several lines, so between the two sizes it is overrated, by a few per cent."""

SMALL_IMAGES = 64
"""Pixels up to which a run whose data are not there is taken for one on CIFAR-10, and beyond for one on ImageNet-1k."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Sizes:
    """What an objective holds before it sees an image, bytes."""

    trainable: int
    num_trainable: int
    """Trainable parameter tensors."""
    frozen: int
    """Teachers, and what else takes no gradient."""
    buffers: int
    """Queues, running statistics, tables."""
    blocks: tuple[int, ...]
    """Parameters of each block that is gathered as one where parameters are cut up."""
    trainable_in_blocks: int

    @property
    def parameters(self) -> int:
        """Trainable and frozen."""
        return self.trainable + self.frozen


@dataclass(kw_only=True, slots=True, frozen=True)
class Step:
    """One micro-batch on one GPU."""

    activations: Number
    """Most bytes alive at once, beyond parameters, gradients and buffers: images, what the backward pass needs, and
    what comes and goes meanwhile."""
    forward: Work
    backward: Work
    """With what checkpointing computes again."""
    first_pass: Work
    """What micro-batches of a contrastive loss cost in addition: each is embedded twice."""
    update: Work
    """After the optimiser: teachers and queues. Once per step of the whole run."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Trace:
    """What a run's objective was found to need."""

    sizes: Sizes
    image_bytes: int
    """All views of one image, as the objective gets them."""
    ranks: int
    images: tuple[int, int]
    steps: tuple[Step, Step]
    """At those two micro-batches."""
    measured_because: str | None = None
    """Why real images had to be run; None = fake ones did."""
    device: Device = "cuda"
    """Whose kernels and casts it has."""
    bf16_views: bool = False
    """Whether the objective gets its views in bf16, else in fp32."""
    files: int = 1
    """Images of one sample that are decoded: the frames of its clips, those of equal clips once."""
    counted_as: str = "images"
    """What a line of figures calls the samples: clips where a view shows several frames."""

    def at(self, images: Number) -> Step:
        """One micro-batch of so many images."""
        (low, high), (one, two) = self.images, self.steps
        share = (images - low) / (high - low)
        return Step(
            activations=self.activations(images),
            **{name: blend(getattr(one, name), getattr(two, name), share) for name in _PHASES},
        )

    def activations(self, images: Number) -> Number:
        """Those of one micro-batch of so many images, bytes; below zero where there are few."""
        (low, high), (one, two) = self.images, self.steps
        return one.activations + (two.activations - one.activations) * (images - low) / (high - low)


_PHASES = ("forward", "backward", "first_pass", "update")


def trace(run: Run, ranks: int, device: Device = "cuda") -> Trace:
    """Runs the run's objective as on one of ``ranks`` ranks.

    Args:
        run: says which objective, encoder and precision.
        ranks: how many compare their samples; their exchanges are counted, none takes place.
        device: whose kernels and casts to reckon with.

    Raises:
        UserError: the objective or its encoder cannot be built.
    """
    ids = planned_ids(run)
    try:
        with _quiet(), _pretended_group(ranks), FakeTensorMode(allow_non_fake_inputs=True) as fakes:
            with torch.device("meta"), _without(fakes):
                objective = fresh_objective(run, ids)
            objective._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
            return _trace(objective, run.precision, device, ranks, FAKE_IMAGES)
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    torch.manual_seed(0)
    return _trace(fresh_objective(run, ids), run.precision, device, 1, REAL_IMAGES, reason)


def planned_ids(run: Run, patience_seconds: float = PATIENCE_SECONDS) -> SampleIds:
    """The samples that the run will learn from; where its shards cannot be read here, as many as there may be."""
    try:
        shards = open_shards(run.data, patience_seconds=patience_seconds)
        return ascending(chosen_ids(run.data, shards), shards)
    except UserError:
        return range(CIFAR10_IMAGES if run.encoder.image_size <= SMALL_IMAGES else IMAGENET_IMAGES)


def _trace(
    objective: Objective,
    precision: Precision,
    device: Device,
    ranks: int,
    images: tuple[int, int],
    reason: str | None = None,
) -> Trace:
    choose_attention(objective, torch.device(device))
    for parameter in objective.parameters():
        if parameter.requires_grad:  # so that gradients are no part of the activations
            parameter.grad = torch.zeros_like(parameter)
    bf16 = device == "cuda" and precision == "bf16" and objective.only_encodes
    steps = tuple(_step(objective, precision, device, count, bf16) for count in images)
    views = _views(objective)
    return Trace(
        sizes=sizes(objective),
        image_bytes=views.sample_bytes(2 if bf16 else 4),
        ranks=ranks,
        images=images,
        steps=(steps[0], steps[1]),
        measured_because=reason,
        device=device,
        bf16_views=bf16,
        files=sum(each.num_frames for each in shown_together(views)),
        counted_as=views.counted_as,
    )


def _step(objective: Objective, precision: Precision, device: Device, count: int, bf16: bool = False) -> Step:
    """Forward, backward and update of one micro-batch, under a meter."""
    autocast = _autocast(precision, device)
    meter = Meter()
    with meter:
        batch = _batch(objective, count, torch.bfloat16 if bf16 else torch.float32)
        with meter.phase("forward"), autocast():
            loss = objective(batch)["loss"]
        with meter.phase("backward"):
            loss.backward()
        peak = meter.peak_bytes
        with meter.phase("update"), torch.no_grad():
            objective.after_step(0.5)
        with meter.phase("first_pass"), torch.no_grad(), autocast():
            if isinstance(objective, Contrastive):
                objective.embed(batch)
    return Step(activations=peak, **{name: meter.work(name) for name in _PHASES})


def sizes(objective: Objective) -> Sizes:
    """What the objective holds."""
    parameters = list(objective.parameters())
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    blocks = [list(block.parameters()) for block in repeated_blocks(objective)]
    within = {parameter for block in blocks for parameter in block if parameter.requires_grad}
    return Sizes(
        trainable=_bytes(trainable),
        num_trainable=len(trainable),
        frozen=_bytes(parameters) - _bytes(trainable),
        buffers=_bytes(objective.buffers()),
        blocks=tuple(_bytes(block) for block in blocks),
        trainable_in_blocks=_bytes(within),
    )


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


class _PlannedBatch(Batch):
    """A batch whose random numbers have a shape and no values."""

    def uniforms(self, stream: str, count: int) -> Float[Tensor, "_ count"]:
        return torch.rand(len(self), count)


def _views(objective: Objective) -> ViewSpec:
    """With as many channels as the encoder sees."""
    views, channels = objective.views(), seen_channels(objective.encoder)
    return replace(views, mean=(0.0,) * channels, std=(1.0,) * channels) if objective.any_bands else views


def _batch(objective: Objective, count: int, dtype: torch.dtype = torch.float32) -> Batch:
    ids, views = torch.arange(count), noise_views(_views(objective), count, dtype=dtype)
    return _PlannedBatch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=ids % 2, seed=0)


@contextmanager
def _pretended_group(ranks: int) -> Iterator[None]:
    """A process group in which collectives have shapes and move nothing."""
    if ranks == 1:
        yield
        return
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _without(fakes: FakeTensorMode) -> Iterator[None]:
    """Leaves the fake mode for a while: timm reads numbers from tensors while it builds."""
    fakes.__exit__(None, None, None)
    try:
        yield
    finally:
        fakes.__enter__()


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch warns of fake tensors, for a reader that is no user of ours."""
    level = logging.getLogger("torch").level
    logging.getLogger("torch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.getLogger("torch").setLevel(level)


def _autocast(precision: Precision, device: Device) -> Callable[[], AbstractContextManager]:
    """The engine's autocast; where a GPU is meant, with the one cast in which CUDA's differs and that weighs."""
    if precision != "bf16":
        return nullcontext

    @contextmanager
    def cast() -> Iterator[None]:
        with torch.autocast("cpu", torch.bfloat16), _WideNorms() if device == "cuda" else nullcontext():
            yield

    return cast


class _WideNorms(TorchFunctionMode):
    """CUDA's autocast runs layer norm in fp32, the CPU's in bf16."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is not F.layer_norm or not torch.is_autocast_enabled("cpu"):
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(*(_wide(value) for value in args), **{k: _wide(v) for k, v in (kwargs or {}).items()})


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value
