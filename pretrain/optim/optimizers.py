"""The optimiser and which parameters decay."""

import itertools
import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import nn

from eyespot.data_pipeline.augment.views import SAID_IF_SET
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.pretrain.networks.repeated_blocks import repeated_blocks
from eyespot.pretrain.optim.lars import LARS
from eyespot.pretrain.optim.learning_encoder import learning_encoder
from eyespot.pretrain.optim.muon import HIDDEN, Muon, hidden_matrices, with_hidden
from eyespot.pretrain.optim.schedule_free import ScheduleFreeAdamW
from eyespot.pretrain.optim.sgd import SGD
from eyespot.pretrain.optim.stages import stage_factor, staged

Kept = Annotated[float, Ge(0), Lt(1)]
"""Share of itself that a moving average keeps at each step."""
DECAYS = "decays"
"""Of a parameter group: its weight decay at the run's start and at its end, where that changes."""


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """The optimiser and its rate: linear warm-up, then cosine or stairs, per step."""

    name: Literal["adamw", "sgd", "lars", "muon", "schedulefree"] = "adamw"
    """sgd and lars have momentum; lars is for batches of thousands. muon = orthogonal steps for the matrices of blocks,
    adamw for all else, at adamw's rates. schedulefree = AdamW whose weights are averaged in place of a falling rate."""
    lr: Annotated[float, Gt(0)] = 1.5e-4
    """Base learning rate per 256 images; the effective rate is lr * data.batch_size / 256."""
    min_lr: Annotated[float, Ge(0)] = 0.0
    """Base learning rate at the end of the cosine, per 256 images."""
    warmup_steps: Annotated[int, Ge(0)] = 0
    """Steps of the linear rise."""
    decay_at: tuple[float, ...] = ()
    """Shares of the run after each of which the rate falls to a tenth, in place of the cosine."""
    weight_decay: Annotated[float, Ge(0)] = 0.05
    """Decay of matrices: added to the gradient in sgd and lars, decoupled in the others."""
    final_weight_decay: Annotated[float, Ge(0)] | None = field(default=None, metadata=SAID_IF_SET)
    """Decay at the run's end, where weight_decay is that of its start: half a cosine between them (DINO); None = it
    stays what it is."""
    decay_vectors: bool = False
    """Biases, norms and other vectors decay too. Not with lars."""
    betas: tuple[Kept, Kept] = (0.9, 0.95)
    """Decay rates of adamw's two moving averages; of schedulefree the first is the average's share of the weights that
    learn."""
    eps: Annotated[float, Gt(0)] = field(default=1e-8, metadata=SAID_IF_SET)
    """What adamw adds to the root of the second one before it divides by it."""
    momentum: Kept = 0.9
    """Share of the last step that sgd and lars take again; of muon's moving average (0.95 by its authors)."""
    nesterov: bool = False
    """sgd looks ahead: it steps along the gradient and the momentum of the step after (Nesterov 1983)."""
    layer_decay: Annotated[float, Gt(0), Le(1), "must be above 0 and at most 1; 1 = all layers alike"] = 1.0
    """Each block's rate is this share of the next one's, the head's being lr (BEiT, Bao et al. 2021): 1 = all alike."""
    trust: Annotated[float, Gt(0)] = 0.001
    """Norm of a lars step as a share of the tensor's norm, at an effective rate of 1 and without momentum."""
    stages: tuple[float, ...] = field(default=(), metadata=SAID_IF_SET)
    """Shares of the run: until the first the head learns alone, until the second the encoder's last blocks, too, then
    all; () = all from the start."""
    stage_blocks: Annotated[int, Ge(1)] = field(default=2, metadata=SAID_IF_SET)
    """How many last blocks learn in the second stage."""
    stage_scale: Annotated[float, Gt(0), Le(1)] = field(default=0.1, metadata=SAID_IF_SET)
    """Share of their rate that these blocks have in that stage."""
    ema: Kept = field(default=0.0, metadata=SAID_IF_SET)
    """Share of itself that a moving average of the encoder's weights keeps at each step, (1 + step) / (10 + step) at
    most. Checkpoints hold it beside the weights; eyespot eval RUN@ema judges it. 0 = none."""
    clip: Annotated[float, Gt(0), Le(math.inf), "must be above 0; leave it out for no clipping"] | None = None
    """Largest global gradient norm; None = not clipped."""

    def __post_init__(self) -> None:
        check_ranges(self, "optim.")
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise UserError("optim.nesterov True: is a kind of sgd's momentum; add --optim.name sgd, or leave it out")
        if self.decay_vectors and self.name == "lars":
            raise UserError("optim.decay_vectors True: lars leaves vectors alone; leave it out")
        if self.name == "schedulefree" and self.ema:
            raise UserError(f"optim.ema {self.ema}: schedulefree averages by itself; leave it out")
        for field_name in ("min_lr", "decay_at"):
            if self.name == "schedulefree" and (value := getattr(self, field_name)):
                raise UserError(
                    f"optim.{field_name} {value}: schedulefree's rate stays after its warm-up; leave it out"
                )
        self._check_stairs()
        rises = all(earlier < later for earlier, later in itertools.pairwise((0.0, *self.stages, 1.0)))  # also NaN
        if not rises or len(self.stages) > 2:
            raise UserError(f"optim.stages {self.stages}: must be one or two rising shares of the run between 0 and 1")

    def _check_stairs(self) -> None:
        if not all(earlier < later for earlier, later in itertools.pairwise((0.0, *self.decay_at, 1.0))):  # also NaN
            raise UserError(f"optim.decay_at {self.decay_at}: must be rising shares of the run between 0 and 1")
        if self.decay_at and self.min_lr:
            raise UserError(f"optim.min_lr {self.min_lr}: is the cosine's end, and optim.decay_at replaces the cosine")


def layers(module: nn.Module) -> list[list[nn.Parameter]]:
    """The trainable parameters layer by layer: those before the encoder's first block, each block, all the rest.

    It is the cut of BEiT's and MAE's code for vision transformers (patches, class token and positions; blocks; norm
    and head), drawn by the order of the encoder's parameters: what lies between two stages goes with the block before.
    Where the objective's encoder is a teacher, it is the student that learns.
    """
    encoder = learning_encoder(module)
    blocks = repeated_blocks(encoder)
    owner = {id(parameter): place for place, block in enumerate(blocks, 1) for parameter in block.parameters()}
    found: list[list[nn.Parameter]] = [[] for _ in range(len(blocks) + 2)]
    current, in_encoder = 0, set[int]()
    for parameter in encoder.parameters():
        current = owner.get(id(parameter), len(blocks) + 1 if current >= len(blocks) else current)
        found[current].append(parameter)
        in_encoder.add(id(parameter))
    found[-1] += [parameter for parameter in module.parameters() if id(parameter) not in in_encoder]
    return [[parameter for parameter in layer if parameter.requires_grad] for layer in found]


def parameter_groups(
    module: nn.Module, weight_decay: float, *, decay_vectors: bool = False, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices and tokens decay; vectors (biases, norms) where told to.

    It is the grouping of MAE's authors: by the number of dimensions, so class and mask tokens decay, but where an
    objective counts them among its ``undecayed``. MoCo's authors decay everything. With a ``layer_decay`` below 1 there
    are two groups for each layer, whose ``lr_scale`` is layer_decay^(layers after it): an engine multiplies the rate by
    it. So it is for what an objective's ``slower`` names, the share of the rate by the name of a part.
    """
    cut = [list(module.parameters())] if layer_decay == 1 else layers(module)
    spared = {id(module.get_parameter(name)) for name in getattr(module, "undecayed", ())}
    slower: dict[str, float] = getattr(module, "slower", {})
    share = {id(p): rate for part, rate in slower.items() for p in module.get_submodule(part).parameters()}
    groups: list[dict[str, Any]] = []
    for after, layer in zip(reversed(range(len(cut))), cut, strict=True):
        trainable = [parameter for parameter in layer if parameter.requires_grad]
        for rate in sorted({1.0, *share.values()}, reverse=True):
            alike = [parameter for parameter in trainable if share.get(id(parameter), 1.0) == rate]
            scale = {} if layer_decay == rate == 1 else {"lr_scale": rate * layer_decay**after}
            matrices = [parameter for parameter in alike if parameter.ndim > 1 and id(parameter) not in spared]
            vectors = [parameter for parameter in alike if parameter.ndim <= 1 or id(parameter) in spared]
            groups.append({"params": matrices, "weight_decay": weight_decay, **scale})
            groups.append({"params": vectors, "weight_decay": weight_decay if decay_vectors else 0.0, **scale})
    return groups


def make_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of the module's parameters; the engine sets the rate before each step."""
    groups = parameter_groups(
        module, config.weight_decay, decay_vectors=config.decay_vectors, layer_decay=config.layer_decay
    )
    if config.name == "lars":
        for matrices, vectors in zip(groups[::2], groups[1::2], strict=True):
            matrices["trust"], vectors["trust"] = config.trust, None
    if config.final_weight_decay is not None:
        for group in groups if config.decay_vectors else groups[::2]:
            group[DECAYS] = (config.weight_decay, config.final_weight_decay)
    if config.name == "muon":
        groups = with_hidden(groups, hidden_matrices(module))
    if config.stages:
        groups = staged(groups, module, config.stages, config.stage_blocks, config.stage_scale)
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)
    if config.name == "sgd":
        return SGD(groups, momentum=config.momentum, nesterov=config.nesterov)
    if config.name == "muon":
        if not any(group[HIDDEN] for group in groups):
            raise UserError("optim.name 'muon': no matrix in a repeated block learns here; take adamw")
        return Muon(groups, momentum=config.momentum, betas=config.betas, eps=config.eps)
    if config.name == "schedulefree":
        return ScheduleFreeAdamW(groups, betas=config.betas, eps=config.eps)
    return LARS(groups, momentum=config.momentum)


def set_rate(optimizer: torch.optim.Optimizer, lr: float, done: float = 1.0) -> None:
    """Every group's rate for the next step: ``lr`` times the group's own ``lr_scale``, and what its stage makes of it.

    And its weight decay, where that changes: half a cosine, w_end + (w_start - w_end) * (1 + cos(pi * done)) / 2.

    Args:
        optimizer: whose groups.
        lr: learning rate.
        done: share of the run that lies behind.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0) * stage_factor(group, done)
        if DECAYS in group:
            first, last = group[DECAYS]
            group["weight_decay"] = last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))
