"""What a run begins with: a freshly drawn objective, or one whose encoder has somebody's weights already."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.published import published_encoder
from eyespot.pretrain.checkpoints.weight_files import Weights, check_tensors, fitted, read_weights
from eyespot.pretrain.networks.encoders import check_patches, make_encoder
from eyespot.pretrain.networks.memory_bank import SampleIds
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.unread_parameters import freeze_unread

if TYPE_CHECKING:
    from eyespot.pretrain.config import Run


_SPARE = 1_000_000
"""Numbers that a tensor, or all together, may have beside the stored ones; a smaller difference is found on loading."""

HOW_TO_GIVE = (
    "without a network get its model.safetensors from the hub elsewhere (https://huggingface.co/timm) and give it by"
    " --start.weights FILE"
)
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
        _begin(objective, run)
    _leave_out_unread(objective)
    return objective


def start_weights(run: "Run", encoder: nn.Module) -> Weights | None:
    """What the run's encoder begins with, in its own names and shapes; None = it is drawn.

    Args:
        run: whose ``start`` says it.
        encoder: like the run's.

    Raises:
        UserError: they cannot be read, or do not fit.
        Outage: the file system, or the hub, does not give them.
    """
    start = run.start
    if start.weights is not None:
        return read_weights(
            start.weights, encoder.state_dict(), sha256=start.sha256, prefix=start.prefix, encoder=encoder
        )
    if not start.model:
        return None
    held = published_encoder(start.model, "start.model", HOW_TO_GIVE).state_dict()
    return fitted(held, encoder.state_dict(), f"start.model {start.model}", prefix="", encoder=encoder)


def _begin(objective: Objective, run: "Run") -> None:
    """Gives every copy of the encoder the weights that the run begins with, and says so."""
    copies = encoder_copies(objective)
    if (weights := start_weights(run, copies[0])) is None:
        return
    for encoder in copies:
        encoder.load_state_dict(weights.tensors)
    copied = f", in each of {len(copies)} copies of the encoder" if len(copies) > 1 else ""
    source = str(run.start.weights or run.start.model)
    model = {"model": run.start.model} if run.start.model else {}
    objective.began = {
        **model,
        "weights": str(run.start.weights or ""),
        "sha256": weights.sha256,
        "loaded": weights.said(),
        "copies": len(copies),
    }
    if run.start.model:
        log.info("start: %s", _model_in_words(run))
    log.info("start: %s from %s%s", weights.said(), source, copied)


def _model_in_words(run: "Run") -> str:
    encoder, data = run.encoder, run.data
    patch = f", patches of {encoder.patch_size}" if encoder.patch_size else ""
    colors = f"mean {data.mean}, std {data.std}" if data.mean else f"normalised by {data.normalize}"
    return f"model {run.start.model}: encoder {encoder.name} at {encoder.image_size} pixels{patch}; {colors}"


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
