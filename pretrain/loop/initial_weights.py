"""What a run begins with: a freshly drawn objective, or one whose encoder has somebody's weights already."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.published import published_encoder
from eyespot.pretrain.checkpoints.stored_teacher import FILE as STORED_TEACHER
from eyespot.pretrain.checkpoints.stored_teacher import read_teacher, write_teacher
from eyespot.pretrain.checkpoints.weight_files import EMA, Weights, check_tensors, fitted, holder_of, read_weights
from eyespot.pretrain.networks.adapters.lora import adapt
from eyespot.pretrain.networks.encoders import EncoderConfig, check_patches, make_encoder
from eyespot.pretrain.networks.fixed.fixed_teacher import RANDOM, FixedTeacher, TeacherConfig, fixed_teacher_of
from eyespot.pretrain.networks.memory_bank import SampleIds
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.optim.learning_encoder import learning_encoder
from eyespot.pretrain.optim.unread_parameters import freeze_unread
from eyespot.pretrain.run_record import RunRecord

if TYPE_CHECKING:
    from eyespot.pretrain.config import Run


_SPARE = 1_000_000
"""Numbers that a tensor, or all together, may have beside the stored ones; a smaller difference is found on loading."""

_SMALL_TEACHER = 500_000_000
"""Numbers of a teacher that may be made although its file is not there."""

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
    objective = run.objective.build(make_encoder(run.encoder), run.encoder.image_size)
    if run.optim.ema:
        objective.keep_average(learning_encoder(objective), run.optim.ema)
    return objective


def encoder_config(run: "Run", part: str = "") -> EncoderConfig:
    """How the run's encoder is made, or that of one of its further students.

    Args:
        run: which.
        part: as in ``trained_encoder``.

    Raises:
        UserError: the method trains no student of that name.
    """
    if part in ("", EMA):
        return run.encoder
    others = run.objective.further_encoders(run.encoder.image_size)
    if part not in others:
        known = f"its further students are {', '.join(others)}" if others else "it trained one encoder only"
        known += f", and @{EMA} is the average of its weights" if run.optim.ema else ""
        raise UserError(f"student {part} (RUN@{part}): the run has none of that name; {known}")
    return others[part]


def trained_encoder(run: "Run", folder: Path, part: str = "") -> nn.Module:
    """An encoder of a run's checkpoint, all of its tensors and no other.

    Args:
        run: whose checkpoint it is.
        folder: the checkpoint.
        part: empty = the run's own encoder; "ema" = the moving average of its weights; else the name of a further
            student.

    Raises:
        UserError: timm has no such encoder; the checkpoint is damaged, is of another run, or holds what is no weight.
    """
    config = encoder_config(run, part)
    prefix = {"": "model.encoder.", EMA: "model.averaged."}.get(part, f"model.students.{part}.")
    weights = checkpoint.read_module(folder, prefix)
    check_size(run, folder)
    encoder = make_encoder(config)
    source, advice = f"checkpoint {folder}", f"it does not fit encoder {config.name} of run.json"
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
    if (teacher := fixed_teacher_of(objective)) is not None:
        _check_teachers_size(teacher, folder)
    asked = {name: tensor.numel() for name, tensor in objective.state_dict().items()}
    all_of_it = ("it", sum(stored.values()), sum(asked.values()))
    for name, there, wanted in [*((name, stored.get(name, 0), asked[name]) for name in asked), all_of_it]:
        if wanted > there + _SPARE:
            raise UserError(
                f"checkpoint {folder}: {name} has {there:,} numbers there and {wanted:,} by run.json; it was written by"
                " another run"
            )


def _check_teachers_size(teacher: FixedTeacher, folder: Path) -> None:
    """The teacher is in no checkpoint: it may be as large as the run's file of it, or small enough for any machine."""
    path, wanted = folder.absolute().parents[1] / STORED_TEACHER, sum(p.numel() for p in teacher.parameters())
    there = path.stat().st_size // 4 if path.is_file() else 0
    if wanted > max(there, _SMALL_TEACHER):
        raise UserError(
            f"checkpoint {folder}: its teacher has {wanted:,} numbers by run.json and {there:,} in {STORED_TEACHER};"
            " put that file back, or it was written by another run"
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
        _fill_given(objective)
    _leave_out_unread(objective, run.encoder.channels)
    if (teacher := fixed_teacher_of(objective)) is not None:
        objective.taught = _teach(teacher, run)
    if run.start.lora_rank:
        _add_low_rank(objective, run.start.lora_rank)
    return objective


def check_first_weights(objective: Objective, run: "Run") -> None:
    """Whether the weights that a new run begins with are there, and are its encoders': all of them, and finite.

    Args:
        objective: fresh, also without numbers, on torch's meta device; it is left as it is.
        run: of whom it is.

    Raises:
        UserError: they cannot be read, do not fit, or nobody is named as teacher.
        Outage: the file system, or the hub, does not give them.
    """
    check_patches(objective.encoder, run.encoder)
    start_weights(run, encoder_copies(objective)[0])
    for setting, (path, encoder) in objective.given.items():
        _read_given(setting, path, encoder)
    if (teacher := fixed_teacher_of(objective)) is not None:
        _weights_of_teacher(teacher)


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
    return _given(start.model, start.weights, start.sha256, start.prefix, encoder)


def _given(model: str, path: Path | None, sha256: str, prefix: str, encoder: nn.Module) -> Weights | None:
    if path is not None:
        return read_weights(path, encoder.state_dict(), sha256=sha256, prefix=prefix, encoder=encoder)
    if not model:
        return None
    held = published_encoder(model, "start.model", HOW_TO_GIVE).state_dict()
    return fitted(held, encoder.state_dict(), f"start.model {model}", prefix="", encoder=encoder)


def _teach(teacher: FixedTeacher, run: "Run") -> dict[str, str]:
    """Gives the teacher its weights: those that the run began with, or, at its beginning, those that its config names.

    Returns:
        What run.json says of it.
    """
    config, goes_on = teacher.config, RunRecord.path(run.run_dir).is_file()
    branches = run.resume not in ("never", "auto") and not goes_on
    home = Path(run.resume).absolute().parents[1] if branches else run.run_dir
    before = (RunRecord.read(RunRecord.path(home)).teacher or {}) if RunRecord.path(home).is_file() else {}
    begun = bool(before) and (goes_on or before.get("model") == config.model)
    if begun:
        tensors = read_teacher(home, teacher.encoder.state_dict(), str(before.get("sha256")))
        said = {name: str(value) for name, value in before.items()}
    else:
        tensors, loaded = _weights_of_teacher(teacher)
        said = {"model": config.model, "origin": config.origin or config.model, "loaded": loaded, "sha256": ""}
        said["architecture"] = config.name
    teacher.encoder.load_state_dict(tensors)
    first = not dist.is_initialized() or dist.get_rank() == 0
    if first and run.run_dir.is_dir() and not goes_on:
        said["sha256"] = write_teacher(run.run_dir, teacher.encoder.state_dict())
    log.info("teacher: %s, %s; %s", said["origin"], said["architecture"], said["loaded"])
    if config.model == RANDOM and config.weights is None:
        log.warning("teacher: has random weights, from which nothing is learned; name one by --objective.teacher.model")
    return said


def _weights_of_teacher(teacher: FixedTeacher) -> tuple[dict[str, torch.Tensor], str]:
    """Its tensors, and in words how many they are."""
    config = teacher.config
    if config.model == RANDOM and config.weights is None:
        return teacher.encoder.state_dict(), "drawn by the seed"
    check_named(config)
    try:
        weights = _given(config.model, config.weights, config.sha256, config.prefix, teacher.encoder)
    except UserError as error:
        raise UserError(
            re.sub(r"\bstart\.(?=model|weights|prefix|sha256)", "objective.teacher.", str(error))
        ) from error
    assert weights is not None
    return weights.tensors, weights.said()


def check_named(config: TeacherConfig) -> None:
    """Raises a UserError where nobody is named as teacher."""
    if not config.model and config.weights is None:
        raise UserError(
            "objective.teacher.model '': who teaches? Name a run, a release or a timm model (random = drawn by the"
            " seed, to try a machine)"
        )


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


def _fill_given(objective: Objective) -> None:
    """Gives further encoders the weights of their own files (``Objective.given``), and says so."""
    for setting, (path, encoder) in objective.given.items():
        weights = _read_given(setting, path, encoder)
        encoder.load_state_dict(weights.tensors)
        log.info("%s: %s from %s, sha256 %s", setting, weights.said(), holder_of(path)[0], weights.sha256)


def _read_given(setting: str, path: Path, encoder: nn.Module) -> Weights:
    holder, prefix = holder_of(path)
    if prefix and not any(name.startswith(prefix) for name in checkpoint.sizes(holder)):
        raise UserError(
            f"{setting} {path}: checkpoint {holder.name} has no tensors named {prefix}*; leave out"
            f" @{str(path).rpartition('@')[2]} for the run's encoder"
        )
    return read_weights(holder, encoder.state_dict(), prefix=prefix, encoder=encoder, setting=setting)


def _model_in_words(run: "Run") -> str:
    encoder, data = run.encoder, run.data
    patch = f", patches of {encoder.patch_size}" if encoder.patch_size else ""
    colors = f"mean {data.mean}, std {data.std}" if data.mean else f"normalised by {data.normalize}"
    return f"model {run.start.model}: encoder {encoder.name} at {encoder.image_size} pixels{patch}; {colors}"


def _leave_out_unread(objective: Objective, channels: int) -> None:
    """Freezes what the method reads of no encoder, and says so."""
    for encoder in encoder_copies(objective):
        if names := freeze_unread(encoder, objective.read, (channels, objective.image_size, objective.image_size)):
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            log.info(
                "encoder: %d of %d parameters are not read by this method and stay as they are: %s",
                *(len(names), len(list(encoder.parameters())), shown),
            )


def _add_low_rank(objective: Objective, rank: int) -> None:
    """Lets low-rank steps learn in place of the encoder, and says so."""
    encoder = learning_encoder(objective)
    whole = sum(parameter.numel() for parameter in encoder.parameters())
    count = adapt(encoder, rank)
    if names := freeze_unread(encoder, objective.read, objective.image_size):
        why = "stay zero, for blocks read those layers' weights themselves"
        log.info("lora: %d of its parameters %s: %s, ...", len(names), why, names[0])
    learning = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
    log.info(
        "lora: rank %d in %d linear layers; of the encoder %s numbers learn, and %s stay as they were",
        *(rank, count, f"{learning:,}", f"{whole:,}"),
    )


def encoder_copies(objective: Objective) -> list[nn.Module]:
    """The encoder and what is one like it: students and teachers, which all begin with the same weights."""
    encoder, teacher = objective.encoder, fixed_teacher_of(objective)
    own = _shapes(encoder)
    alike = [part for part in objective.modules() if type(part) is type(encoder) and _shapes(part) == own]
    return [part for part in alike if teacher is None or part is not teacher.encoder]


def _shapes(encoder: nn.Module) -> dict[str, torch.Size]:
    """By these a tower of spectrograms is told from a copy of the encoder."""
    return {name: tensor.shape for name, tensor in encoder.state_dict().items()}
