"""Subject: what is judged. The encoder that MODEL names, its randomly initialised twin, or the bare pixels."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from eyespot.data_pipeline.augment.views import ViewSpec, center_view
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.encoders import timm_sources
from eyespot.eval.release.golden import load_encoder
from eyespot.eval.release.layout import CONFIG, PROVENANCE, SUMS, digest_of, read_json
from eyespot.eval.release.verify import verified
from eyespot.eval.results.result import Role
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.folders import PARTIAL, PREFIX, newest
from eyespot.pretrain.checkpoints.weight_files import EMA
from eyespot.pretrain.loop.initial_weights import encoder_config, fresh_objective, trained_encoder
from eyespot.pretrain.networks.encoders import encode, last_tokens
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.run_json import load_run, to_values
from eyespot.pretrain.run_record import RunRecord

MAX_PIXEL_SIDE = 18
"""Raw pixels are a baseline at up to this size: about a thousand values, as many as an encoder's features."""


PATCHES = "patches"
"""How the kind is called that has all patches of all frames of a clip, before their number."""

HEAD = "head"
"""How the kind is called that a run's own head makes of frames."""


class OneKind(nn.Module):
    """What is judged like an encoder and gives features of one kind, under a name of its own."""

    kind: str


class RawPixels(OneKind):
    """The encoder that does nothing, but for shrinking what has more than ``MAX_PIXEL_SIDE`` rows."""

    kind = "pixels"

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The image as one long vector."""
        return self.shrunk(images)

    def shrunk(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Whatever it is, as one long vector."""
        if max(images.shape[2:]) > MAX_PIXEL_SIDE:
            images = interpolate(images, (MAX_PIXEL_SIDE, MAX_PIXEL_SIDE), mode="bilinear", antialias=True)
        return images.flatten(1)


class OfClips(nn.Module):
    """An encoder of images that looks at each frame of a clip by itself: its features of all frames, in a row."""

    def __init__(
        self, encoder: nn.Module, *, patches: bool = False, head: Objective | None = None, cameras: int = 1
    ) -> None:
        """Wraps an encoder.

        Args:
            encoder: of images.
            patches: whether those of all frames are one more kind, whose name says how many a frame has.
            head: what makes one more kind of the frames: a method that embeds them.
            cameras: whose frames follow each other; the head sees those of each by themselves.
        """
        super().__init__()
        self.encoder, self.patches, self.head, self.cameras = encoder, patches, head, cameras

    def kinds(self, clips: Float[Tensor, "b t c h w"], num_blocks: int = 1) -> dict[str, Float[Tensor, "b _"]]:
        """Every kind of features of the clips."""
        frames = encode_all(self.encoder, clips.flatten(0, 1), num_blocks)
        if self.patches:
            maps = last_tokens(self.encoder, clips.flatten(0, 1))[-1].patches.flatten(2)
            frames[f"{PATCHES}{maps.shape[2]}"] = maps.transpose(1, 2).flatten(1)
        found = {kind: rows.unflatten(0, clips.shape[:2]).flatten(1) for kind, rows in frames.items()}
        if self.head is not None:
            apart = self.head.embed_frames(clips.unflatten(1, (self.cameras, -1)).flatten(0, 1))
            found[HEAD] = apart.unflatten(0, (-1, self.cameras)).flatten(1)
        return found


@dataclass(kw_only=True, slots=True)
class Subject:
    """An encoder, how it wants its images, and what to call it."""

    name: str
    """For tables: "mae_tiny, step 600"."""
    tag: str
    """For file names: "step-00000600", "random-seed0", "pixels"."""
    role: Role
    encoder: nn.Module
    views: ViewSpec
    architecture: str = ""
    """What, besides the weights, determines what the encoder computes: its name and options."""
    noise_level: int = 0
    """Time of the noise that images get before it sees them (``noise_level.at_noise``); 0 = none."""
    origin: dict[str, str | int] = field(default_factory=dict)
    """Where it comes from, for the result's JSON."""

    def digest(self) -> str:
        """sha256 of everything that determines its features of an image: weights, architecture, transform."""
        digest = hashlib.sha256(repr((self.architecture, type(self.encoder).__qualname__, self.views)).encode())
        for name, tensor in sorted(self.encoder.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        if self.noise_level:
            digest.update(f"noise {self.noise_level}".encode())
        return digest.hexdigest()


def encode_all(
    encoder: nn.Module, images: Float[Tensor, "b *t c h w"], num_blocks: int = 1
) -> dict[str, Float[Tensor, "b _"]]:
    """Every kind of features of a subject's encoder, as ``encode`` names them; of what has one kind only, that."""
    if isinstance(encoder, OfClips):
        return encoder.kinds(images, num_blocks)
    return {encoder.kind: encoder(images)} if isinstance(encoder, OneKind) else encode(encoder, images, num_blocks)


def pooling_in_words(encoder: nn.Module, kinds: Collection[str]) -> str:
    """What "pool" is, where an encoder has features of that kind; empty where it has none."""
    if "pool" not in kinds:
        return ""
    encoder = encoder.encoder if isinstance(encoder, OfClips) else encoder
    own = [type(part).__name__ for name, part in encoder.named_children() if name in ("attn_pool", "fc_norm")]
    parts = ", ".join(name for name in own if name != "Identity")
    return "pool = what the encoder's own head makes of its tokens" + (f" ({parts})" if parts else "")


AVERAGE = f"@{EMA}"
"""Behind a run or a checkpoint: the moving average of its encoder's weights (``--optim.ema``)."""


def split_part(target: str) -> tuple[str, str]:
    """Run or checkpoint, and which encoder of it is meant: empty = its own.

    "ema" is the moving average of its own one's weights (``--optim.ema``), any other name a further student that it
    trained: "runs/small@conv".
    """
    place, at, name = target.rpartition("@")
    return (place, name) if at and place and Path(place).is_dir() and not Path(target).exists() else (target, "")


def run_of(target: str) -> Path | None:
    """The run folder, if MODEL is one or one of its checkpoints, or another encoder of either."""
    folder = Path(split_part(target)[0])
    if RunRecord.path(folder).is_file():
        return folder
    place = folder.absolute()
    named = place.name.startswith(PREFIX) and place.suffix != PARTIAL
    inside = named and (place / "meta.json").is_file() and RunRecord.path(place.parents[1]).is_file()
    return place.parents[1] if inside else None


def subjects_of(target: str, *, seed: int, pretrained: bool = True) -> list[Subject]:
    """What one command judges: the encoder that ``target`` names, its random twin and raw pixels.

    Args:
        target: a run folder (its newest checkpoint counts) or one of its checkpoints, with @ema the average of its
            weights, with @NAME the further student of that name; a release, a folder of timm's local format,
            ``models:/NAME@ALIAS`` of MLflow's registry, ``hf://ORG/NAME`` of a hub, or a timm name, behind which
            @FILE names a file of its weights.
        seed: of the random twin's weights.
        pretrained: for timm names: with published weights (needs a network the first time).

    Raises:
        UserError: there is no such thing, no checkpoint yet, a damaged one, or no network.
    """
    found = _found(target, seed, pretrained)
    views = found[0].views
    shrunk = f" at {MAX_PIXEL_SIDE} px" if views.images[0].size > MAX_PIXEL_SIDE else ""
    found.append(_raw_pixels(views, shrunk))
    for subject in found:
        subject.encoder.eval().requires_grad_(False)
    return found


def _raw_pixels(views: ViewSpec, shrunk: str) -> Subject:
    known = {"views": views, "architecture": shrunk, "encoder": RawPixels()}
    return Subject(name=f"raw pixels{shrunk}", tag="pixels", role="pixels", **known)


def _found(target: str, seed: int, pretrained: bool) -> list[Subject]:
    if timm_sources.is_remote(target):
        folder, place = timm_sources.remote(target)
        return _of_release(folder, seed, place)
    place, part = split_part(target.removeprefix(timm_sources.LOCAL))
    folder = Path(place)
    if not folder.is_dir():
        return _of_timm(target, seed, pretrained)
    if (run_dir := run_of(str(folder))) is not None:
        return _of_run(run_dir, None if run_dir == folder else folder, seed, part)
    if part:
        raise UserError(f"model {target}: {folder} is no run, so it has no @{part}; name the folder alone")
    if (folder / SUMS).exists() or (folder / PROVENANCE).exists():  # what wants to be a release must be a whole one
        verified(folder)
        return _of_release(folder, seed)
    if (folder / CONFIG).is_file():
        return _of_folder(folder, seed)
    raise UserError(
        f"model {target}: this folder is not a run folder (no run.json), nor a run's checkpoint (no meta.json), nor a"
        f" release (no {SUMS}), nor a timm folder (no {CONFIG})"
    )


def _of_run(run_dir: Path, folder: Path | None, seed: int, part: str) -> list[Subject]:
    recipe, run = load_run(run_dir)
    averaged, student = part == EMA, "" if part == EMA else part
    if averaged and not run.optim.ema:
        raise UserError(f"model {run_dir}{AVERAGE}: this run keeps no average of its weights; leave {AVERAGE} out")
    folder = folder or newest(run_dir)
    if folder is None:
        raise UserError(f"run {run_dir}: has no complete checkpoint yet; wait for the first one or train on")
    record = RunRecord.read(RunRecord.path(run_dir))
    mean, std = record.mean_and_std(run_dir)
    config = encoder_config(run, part)
    views = ViewSpec(views=(center_view(config.image_size),), mean=mean, std=std)
    trained = trained_encoder(run, folder, part)
    with timm_sources.seeded(seed):  # the method's own initialisation: what training began with, but for the seed
        objective: Any = fresh_objective(run)
    untrained = objective.students[student] if student else objective.encoder
    step, tag = checkpoint.read_meta(folder).step, folder.absolute().name
    origin: dict[str, str | int] = {"run": str(run_dir), "checkpoint": tag, "step": step, "encoder": config.name}
    name = f"{recipe}, step {step:,}"
    if student:
        name, tag, origin["student"] = f"{recipe}, {student}, step {step:,}", f"{tag}-{student}", student
    if averaged:
        name, tag, origin["weights"] = f"{name}, weights averaged", f"{tag}-{EMA}", EMA
    if record.start is not None and not student:
        origin |= {"start": str(record.start.get("loaded")), "start_sha256": str(record.start.get("sha256"))}
    if record.teacher is not None:
        origin |= {"teacher": str(record.teacher.get("origin")), "teacher_sha256": str(record.teacher.get("sha256"))}
    architecture = json.dumps(to_values(config), sort_keys=True)
    known = {"views": views, "architecture": architecture}
    twin = _random(config.name, untrained, views, seed, architecture)
    if student:
        twin.tag = f"{twin.tag}-{student}"
    return [Subject(name=name, tag=tag, role="encoder", encoder=trained, origin=origin, **known), twin]


def _of_release(folder: Path, seed: int, place: Mapping[str, str] | None = None) -> list[Subject]:
    """Of a verified release; ``place`` says where it was fetched from."""
    config, provenance = timm_sources.read_config(folder), cast(Any, read_json(folder / PROVENANCE, str(folder)))
    digest, step = digest_of(folder), int(provenance["step"])
    origin: dict[str, str | int] = {
        "release": str(provenance["name"]),
        "release_sha256": digest,
        "checkpoint": str(provenance["checkpoint"]),
        "step": step,
        "encoder": str(config["architecture"]),
        **(place or {}),
    }
    name, tag = f"{provenance['name']}, step {step:,}", f"release-{digest[:8]}"
    encoder, views = load_encoder(folder), timm_sources.views_of(config["pretrained_cfg"])
    return _with_twin(folder, config, encoder, views, name=name, tag=tag, origin=origin, seed=seed)


def _of_folder(folder: Path, seed: int) -> list[Subject]:
    config, encoder = timm_sources.read_config(folder), timm_sources.in_folder(folder)
    origin: dict[str, str | int] = {"folder": str(folder), "encoder": str(config["architecture"])}
    name = f"{folder.absolute().name} ({config['architecture']})"
    views = timm_sources.views_of(cast(Any, encoder).pretrained_cfg)
    return _with_twin(folder, config, encoder, views, name=name, tag="published", origin=origin, seed=seed)


def _with_twin(
    folder: Path,
    config: dict[str, Any],
    encoder: nn.Module,
    views: ViewSpec,
    *,
    name: str,
    tag: str,
    origin: dict[str, str | int],
    seed: int,
) -> list[Subject]:
    """The encoder of a folder whose config.json says how it is built, and its twin."""
    architecture = json.dumps({name: config.get(name) for name in ("architecture", "model_args")}, sort_keys=True)
    twin = _random(str(config["architecture"]), timm_sources.twin_of(folder, config, seed), views, seed, architecture)
    known = {"views": views, "architecture": architecture}
    return [Subject(name=name, tag=tag, role="encoder", encoder=encoder, origin=origin, **known), twin]


def _of_timm(target: str, seed: int, pretrained: bool) -> list[Subject]:
    """timm's encoder of that name with its published weights; of NAME@FILE with those of a file."""
    name, _, file = (target, "", "") if target.startswith(timm_sources.HUB) else target.partition("@")
    timm_sources.check_name(name)
    untrained, architecture = timm_sources.untrained(name, seed), f"timm {name}"
    views = timm_sources.views_of(cast(Any, untrained).pretrained_cfg)
    twin = _random(name, untrained, views, seed, architecture)
    if not pretrained:
        return [twin]
    origin: dict[str, str | int] = {"encoder": name}
    told, tag = name, "published"
    if file:
        encoder, weights = timm_sources.of_file(name, Path(file))
        origin |= {"weights": file, "weights_sha256": weights.sha256, "loaded": weights.said()}
        told, tag = f"{name}, {Path(file).name}", f"file-{weights.sha256[:8]}"
    else:
        encoder = timm_sources.published(name)
        views = timm_sources.views_of(cast(Any, encoder).pretrained_cfg)
    known = {"views": views, "architecture": architecture, "origin": origin}
    return [Subject(name=told, tag=tag, role="encoder", encoder=encoder, **known), twin]


def _random(name: str, encoder: nn.Module, views: ViewSpec, seed: int, architecture: str) -> Subject:
    return Subject(
        name=f"random weights (seed {seed})",
        tag=f"random-seed{seed}",
        role="random",
        encoder=encoder,
        views=views,
        architecture=architecture,
        origin={"encoder": name, "seed": seed},
    )
