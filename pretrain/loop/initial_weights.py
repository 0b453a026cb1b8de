"""What a run begins with: a freshly drawn objective, or one whose encoder has somebody's weights already."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.networks.encoders import make_encoder
from eyespot.pretrain.objective import Objective

if TYPE_CHECKING:
    from eyespot.pretrain.config import Run


log = logging.getLogger("eyespot")


def fresh_objective(run: "Run", ids: Int[Tensor, " n"] | None = None) -> Objective:
    """The run's objective, drawn from torch's generator.

    Args:
        run: names method and encoder.
        ids: of the samples that it learns from, or as many: what some methods keep of each is part of them. None = it
            is asked for its encoder, its views or its name alone.

    Raises:
        UserError: the encoder cannot be made, or the method cannot work with it or with so many samples.
    """
    objective = run.objective.build(make_encoder(run.encoder), run.encoder.image_size)
    if ids is not None:
        objective.prepare(ids)
    return objective


def first_objective(run: "Run", ids: Int[Tensor, " n"]) -> Objective:
    """The run's objective as it is before step 0.

    The file of weights is asked for only where the run has no checkpoint that it could go on from.

    Args:
        run: of whom it is.
        ids: of the samples that it learns from, ascending.

    Raises:
        UserError: it cannot be made (see ``fresh_objective``), or its first weights cannot be read or do not fit.
    """
    torch.manual_seed(run.seed)
    objective = fresh_objective(run, ids)
    goes_on = run.resume not in ("never", "auto") or (run.resume == "auto" and checkpoint.newest(run.run_dir))
    if run.start.weights is not None and not goes_on:
        copies = encoder_copies(objective)
        tensors = load_weights(copies, run.start.weights, run.start.sha256)
        copied = f", in each of {len(copies)} copies of the encoder" if len(copies) > 1 else ""
        log.info("start: %d of %d tensors from %s%s", len(tensors), len(tensors), run.start.weights, copied)
    return objective


def encoder_copies(objective: Objective) -> list[nn.Module]:
    """The encoder and what is one like it: students and teachers, which all begin with the same weights."""
    encoder = objective.encoder
    names = encoder.state_dict().keys()
    return [part for part in objective.modules() if type(part) is type(encoder) and part.state_dict().keys() == names]


def load_weights(copies: Sequence[nn.Module], path: Path, sha256: str) -> dict[str, Tensor]:
    """Reads a file of weights into each copy of the encoder: all of its tensors, in their shapes, and no other.

    Returns:
        The file's tensors.

    Raises:
        UserError: it cannot be read, is another file than was meant, or holds other tensors.
    """
    try:
        content = path.read_bytes()
        tensors = load(content)
    except (OSError, SafetensorError, KeyError) as error:  # KeyError: of a type that torch lacks
        raise UserError(f"start.weights {path}: cannot be read as safetensors ({error})") from error
    if sha256 and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise UserError(f"start.weights {path}: has sha256 {found[:12]}..., not start.sha256 {sha256[:12]}...")
    wanted = copies[0].state_dict()
    for name in [*wanted, *tensors]:
        shapes = [tuple(held[name].shape) if name in held else None for held in (wanted, tensors)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"start.weights {path}: {name} is {shapes[1] or 'missing'} there and {shapes[0] or 'missing'} in the"
                " encoder; choose the encoder.* that it was saved from"
            )
    for encoder in copies:
        encoder.load_state_dict(tensors)
    return tensors
