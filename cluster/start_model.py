"""``--start.model`` and ``--objective.teacher.model``: which encoder that is, what it expects of images, and where its
weights lie."""

import hashlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from eyespot.data_pipeline.augment.views import IMAGENET_MEAN, IMAGENET_STD
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import Run, StartConfig
from eyespot.pretrain.networks.encoders import EncoderConfig
from eyespot.pretrain.networks.fixed.fixed_teacher import RANDOM, TeacherConfig
from eyespot.pretrain.run_json import overlay
from eyespot.pretrain.run_record import RunRecord

OF_MODEL = ("name", "image_size", "patch_size", "small_stem")
"""Settings of the encoder that the model decides."""
NORMALIZATION = ("data.mean", "data.std", "data.normalize")


def with_model(run: Run, own: Collection[str]) -> Run:
    """The run with the encoder that ``start.model`` names, and the mean and deviation that this was trained with.

    A run that has begun keeps what it began with.

    Args:
        run: as its recipe, its files and flags made it.
        own: settings that the user has said: of these only ``encoder.name`` must not contradict the model.

    Raises:
        UserError: there is no such model, or no recipe could make its encoder.
    """
    if not run.start.model or "start.model" not in own:
        return run
    begun = _begun(run)
    found = begun if begun is not None else _resolved(run)
    if "encoder.name" in own and run.encoder.name != found.encoder.name:
        raise UserError(
            f"encoder.name {run.encoder.name}: start.model {run.start.model} is {found.encoder.name}; leave one out"
        )
    changes: dict[str, Any] = {name: getattr(found.encoder, name) for name in OF_MODEL if f"encoder.{name}" not in own}
    normalization: dict[str, Any] = {}
    of_others = len(found.data.mean or (0, 0, 0)) != run.encoder.channels
    if not {*NORMALIZATION} & {*own} and not of_others:  # else those of the shards, which are of as many
        normalization = {"mean": found.data.mean, "std": found.data.std, "normalize": found.data.normalize}
    return replace(
        run, encoder=replace(run.encoder, **changes), data=replace(run.data, **normalization), start=found.start
    )


def with_teacher(run: Run, own: Collection[str]) -> Run:
    """The run with what ``objective.teacher.model`` means, and the mean and deviation that this was trained with.

    A run that has begun keeps what it began with: its teacher lies in its folder.

    Args:
        run: as its recipe, its files and flags made it.
        own: settings that the user has said.

    Raises:
        UserError: there is no such model, no recipe could make it, or the user wants other normalisation than it.
    """
    objective: Any = run.objective
    teacher = getattr(objective, "teacher", None)
    if not isinstance(teacher, TeacherConfig) or teacher.model in ("", RANDOM):
        return run
    is_resolved = teacher.weights is not None or teacher.model.partition(".")[0] == teacher.name
    if "objective.teacher.model" not in own and is_resolved:
        return run
    if (begun := _taught(run)) is not None:
        return begun
    asked = StartConfig(**{name: getattr(teacher, name) for name in ("model", "weights", "prefix", "sha256", "origin")})
    try:
        found = _resolved(replace(run, start=asked, encoder=EncoderConfig(image_size=run.encoder.image_size)))
    except UserError as error:
        raise UserError(str(error).replace("start.", "objective.teacher.")) from error
    if (seen := len(found.data.mean or (0, 0, 0))) != run.encoder.channels:
        raise UserError(
            f"objective.teacher.model {teacher.model}: sees images of {seen} channels, and encoder.channels is"
            f" {run.encoder.channels}; teacher and students look at the same images: name one of as many"
        )
    said = {name: getattr(found.start, name) for name in ("weights", "prefix", "sha256", "origin")}
    said |= {name: getattr(found.encoder, name) for name in ("name", "patch_size", "small_stem")}
    normalization = {name: getattr(found.data, name) for name in ("mean", "std", "normalize")}
    fits = (run.data.mean, run.data.std) == (found.data.mean, found.data.std)
    fits = fits and (run.data.mean is not None or run.data.normalize == found.data.normalize)
    if (said_too := [name for name in NORMALIZATION if name in own]) and not fits:
        raise UserError(
            f"{said_too[0]} {getattr(run.data, said_too[0].partition('.')[2])}: the teacher {teacher.model} would see"
            " other images than it was trained on; leave it out, and all see what the teacher wants"
        )
    taught = replace(objective, teacher=replace(teacher, **said))
    return replace(run, objective=taught, data=replace(run.data, **normalization))


def _taught(run: Run) -> Run | None:
    """The run with the teacher that it began with, where its folder says so."""
    path = RunRecord.path(run.run_dir)
    try:
        values = RunRecord.read(path).run
        teacher = values["objective"]["teacher"]
        if teacher["model"] != getattr(run.objective, "teacher").model:  # noqa: B009 - of one method only
            return None
        data = {name: values["data"].get(name) for name in ("mean", "std", "normalize")}
        return overlay(run, {"objective": {"teacher": teacher}, "data": data}, str(path), partial=True)
    except (UserError, OSError, KeyError, TypeError):
        return None  # who opens the folder says what is wrong with it


def _begun(run: Run) -> Run | None:
    """The run with what it began with, where its folder says so."""
    path = RunRecord.path(run.run_dir)
    try:
        values = RunRecord.read(path).run
        if values["start"]["model"] != run.start.model:
            return None
        data = {name: values["data"].get(name) for name in ("mean", "std", "normalize")}
        kept = {"encoder": values["encoder"], "data": data, "start": values["start"]}
        return overlay(run, kept, str(path), partial=True)
    except (UserError, OSError, KeyError, TypeError):
        return None  # who opens the folder says what is wrong with it


def _resolved(run: Run) -> Run:
    from eyespot.eval.encoders import timm_sources
    from eyespot.eval.encoders.subject import split_part

    target = run.start.model
    if timm_sources.is_remote(target):
        return _of_folder(run, timm_sources.remote(target)[0])
    place, student = split_part(target.removeprefix(timm_sources.LOCAL))
    return _of_folder(run, Path(place), student) if Path(place).is_dir() else _of_timm(run)


def _of_folder(run: Run, folder: Path, student: str = "") -> Run:
    """Of a run or a checkpoint of one, also a further student of it; of a release, or a folder that timm saved."""
    from eyespot.eval.encoders.start_weights import start_encoder
    from eyespot.eval.encoders.subject import run_of
    from eyespot.eval.release.layout import WEIGHTS
    from eyespot.pretrain.checkpoints.folders import newest
    from eyespot.pretrain.checkpoints.weight_files import part_prefix

    if run.start.weights is not None:
        raise UserError(
            f"start.weights {run.start.weights}: start.model {run.start.model} has weights of its own; leave one out"
        )
    run_dir = run_of(str(folder))
    if run_dir is not None and run_dir == folder:
        folder = newest(run_dir) or folder  # one that has none is refused now
    start = start_encoder(f"{folder}@{student}" if student else str(folder), scratch=False, pretrained=False)
    weights = folder if run_dir is not None else folder / WEIGHTS
    content = (weights / "meta.json" if run_dir is not None else weights).read_bytes()
    sha256, origin = hashlib.sha256(content).hexdigest(), run.start.origin or start.name
    said = replace(run.start, weights=weights, sha256=run.start.sha256 or sha256, origin=origin)
    if student:
        said.prefix = part_prefix(student)
    return _with(run, start.encoder, start.mean, start.std, said)


def _of_timm(run: Run) -> Run:
    import timm

    from eyespot.eval.encoders import timm_sources
    from eyespot.eval.encoders.start_weights import config_of

    name = run.start.model
    if Path(name).is_file():
        raise UserError(
            f"start.model {name!r}: is a file; name it by --start.weights, and by --start.model, or --encoder.name,"
            " the architecture that it is of"
        )
    try:
        timm_sources.check_name(name)
    except UserError as error:
        raise UserError(f"start.{error}") from error
    if name.startswith(timm_sources.HUB):
        encoder: Any = timm_sources.untrained(name, 0)
        known, fixed = encoder.pretrained_cfg, True
    else:
        try:
            found = timm.get_pretrained_cfg(name)
        except RuntimeError:  # what it says of a tag that it does not know
            found = None
        if found is None:
            known = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*")) or "none"
            raise UserError(f"start.model {name!r}: timm knows no such tag; those of this architecture: {known}")
        if not (found.has_weights or run.start.weights):
            raise UserError(f"start.model {name!r}: timm publishes no weights of it; add --start.weights FILE")
        encoder, known, fixed = None, found.to_dict(), found.fixed_input_size
    views = timm_sources.views_of({**known, "architecture": known.get("architecture") or name})
    size = views.images[0].size if fixed else run.encoder.image_size
    if encoder is not None:
        config = config_of(encoder, size, name)
    else:
        architecture = name.partition(".")[0]
        config = replace(run.encoder, name=architecture, image_size=size, patch_size=None, small_stem=False)
    return _with(run, config, tuple(views.mean), tuple(views.std), run.start)


def _with(run: Run, encoder: Any, mean: Any, std: Any, start: Any) -> Run:
    if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
        data = replace(run.data, mean=None, std=None, normalize="imagenet")
    else:
        data = replace(run.data, mean=mean, std=std)
    return replace(run, encoder=encoder, data=data, start=start)
