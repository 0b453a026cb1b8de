"""What a run begins with: a freshly drawn objective, or one whose encoder has somebody's weights already."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.weight_files import check_tensors, read_weights
from eyespot.pretrain.networks.encoders import check_patches, make_encoder
from eyespot.pretrain.networks.memory_bank import SampleIds
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.unread_parameters import freeze_unread

if TYPE_CHECKING:
    from eyespot.pretrain.config import Run


_SPARE = 1_000_000
"""Numbers that a tensor, or all together, may have beside the stored ones; a smaller difference is found on loading."""

log = logging.getLogger("eyespot")


def fresh_objective(run: "Run", ids: SampleIds | None = None) -> Objective:
    """The run's objective, drawn from torch's generator.

    Args:
        run: names method and encoder.
        ids: of the samples that it learns from, or as many: what some methods keep of each is part of them. None = it
            is asked for its encoder, its views or its name alone.

    Raises:
        UserError: the encoder cannot be made, is too large, or the method cannot work with it or with so many samples.
    """
    try:
        objective = _built(run)
        if ids is not None:
            objective.prepare(ids)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or re.search("allocate memory|overflow", str(error)):
            why = " ".join(str(error).split())[:200]
            raise UserError(f"objective: too large for this machine's memory ({why}); make it smaller") from error
        raise
    return objective


def _built(run: "Run") -> Objective:
    return run.objective.build(make_encoder(run.encoder), run.encoder.image_size)


def trained_encoder(run: "Run", folder: Path) -> nn.Module:
    """The encoder of a run's checkpoint, all of its tensors and no other.

    Raises:
        UserError: timm has no such encoder; the checkpoint is damaged, is of another run, or holds what is no weight.
    """
    weights = checkpoint.read_encoder(folder)
    check_size(run, folder)
    encoder = make_encoder(run.encoder)
    source, advice = f"checkpoint {folder}", f"it does not fit encoder {run.encoder.name} of run.json"
    check_tensors(encoder.state_dict(), weights, source, advice)
    encoder.load_state_dict(weights)
    return encoder


def trained_objective(run: "Run", folder: Path) -> Objective:
    """The objective of a run's checkpoint, heads included.

    Raises:
        UserError: it cannot be made; the checkpoint is damaged, is of another run, or holds what is no weight.
    """
    weights = checkpoint.read_module(folder)
    check_size(run, folder)
    objective = fresh_objective(run)
    advice = "it does not fit the objective of run.json"
    check_tensors(objective.state_dict(), weights, f"checkpoint {folder}", advice)
    objective.load_state_dict(weights)
    return objective


def check_size(run: "Run", folder: Path) -> None:
    """Holds the run's objective against a checkpoint before it takes memory: a stranger may have written ``run.json``.

    Args:
        run: what that says.
        folder: the checkpoint, which was read before.

    Raises:
        UserError: the objective is larger than what was trained.
    """
    stored = checkpoint.sizes(folder)
    try:
        with torch.device("meta"):
            objective = _built(run)
    except Exception as error:
        if isinstance(error, MemoryError) or "overflow" in str(error):  # a tensor of more numbers than can be counted
            why = f"run.json asks for more memory than there is ({' '.join(str(error).split())[:200]})"
            raise UserError(f"checkpoint {folder}: {why}; it was written by another run") from error
        return  # some are built in earnest only; what is wrong with the settings is said then
    asked = {name: tensor.numel() for name, tensor in objective.state_dict().items()}
    all_of_it = ("it", sum(stored.values()), sum(asked.values()))
    for name, there, wanted in [*((name, stored.get(name, 0), asked[name]) for name in asked), all_of_it]:
        if wanted > there + _SPARE:
            raise UserError(
                f"checkpoint {folder}: {name} has {there:,} numbers there and {wanted:,} by run.json; it was written by"
                " another run"
            )


def first_objective(run: "Run", ids: SampleIds) -> Objective:
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
    if not goes_on:
        check_patches(objective.encoder, run.encoder)
    if run.start.weights is not None and not goes_on:
        copies = encoder_copies(objective)
        weights = read_weights(
            run.start.weights, copies[0].state_dict(), sha256=run.start.sha256, prefix=run.start.prefix
        )
        for encoder in copies:
            encoder.load_state_dict(weights.tensors)
        copied = f", in each of {len(copies)} copies of the encoder" if len(copies) > 1 else ""
        objective.began = {
            "weights": str(run.start.weights),
            "sha256": weights.sha256,
            "loaded": weights.said(),
            "copies": len(copies),
        }
        log.info("start: %s from %s%s", weights.said(), run.start.weights, copied)
    _leave_out_unread(objective)
    return objective


def _leave_out_unread(objective: Objective) -> None:
    """Freezes what the method reads of no encoder, and says so."""
    for encoder in encoder_copies(objective):
        if names := freeze_unread(encoder, objective.read, objective.image_size):
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            log.info(
                "encoder: %d of %d parameters are not read by this method and stay as they are: %s",
                *(len(names), len(list(encoder.parameters())), shown),
            )


def encoder_copies(objective: Objective) -> list[nn.Module]:
    """The encoder and what is one like it: students and teachers, which all begin with the same weights."""
    encoder = objective.encoder
    own = _shapes(encoder)
    return [part for part in objective.modules() if type(part) is type(encoder) and _shapes(part) == own]


def _shapes(encoder: nn.Module) -> dict[str, torch.Size]:
    """By these a tower of spectrograms is told from a copy of the encoder."""
    return {name: tensor.shape for name, tensor in encoder.state_dict().items()}
