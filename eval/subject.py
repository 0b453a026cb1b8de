"""Subject: what is judged. A run's encoder, a timm encoder, its randomly initialised twin, or the bare pixels."""

import difflib
import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch
from jaxtyping import Float
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.views import CenterView, Color, ViewSpec
from eyespot.eval.result import Role
from eyespot.pretrain import checkpoint
from eyespot.pretrain.config import load_run, to_values
from eyespot.pretrain.encoders import encode, make_encoder

MAX_PIXEL_VALUES = 1024
"""Raw pixels are a baseline for images of up to this many values."""


class OneKind(nn.Module):
    """What is judged like an encoder and gives features of one kind, under a name of its own."""

    kind: str


class RawPixels(OneKind):
    """The encoder that does nothing."""

    kind = "pixels"

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The image as one long vector."""
        return images.flatten(1)


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
    origin: dict[str, str | int] = field(default_factory=dict)
    """Where it comes from, for the result's JSON."""

    def digest(self) -> str:
        """sha256 of everything that determines its features of an image: weights, architecture, transform."""
        digest = hashlib.sha256(repr((self.architecture, type(self.encoder).__qualname__, self.views)).encode())
        for name, tensor in sorted(self.encoder.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


def encode_all(
    encoder: nn.Module, images: Float[Tensor, "b 3 h w"], num_blocks: int = 1
) -> dict[str, Float[Tensor, "b _"]]:
    """Every kind of features of a subject's encoder, as ``encode`` names them; of what has one kind only, that."""
    return {encoder.kind: encoder(images)} if isinstance(encoder, OneKind) else encode(encoder, images, num_blocks)


def is_run(target: str) -> bool:
    """Whether MODEL names a folder on this disk rather than a timm encoder."""
    return Path(target).is_dir()


def subjects_of(target: str, *, seed: int, pretrained: bool = True) -> list[Subject]:
    """What one command judges: the encoder that ``target`` names, its random twin and, for small images, raw pixels.

    Args:
        target: a run folder or a timm name.
        seed: of the random twin's weights.
        pretrained: for timm names: with published weights (needs a network the first time).

    Raises:
        UserError: there is no such run or name, no checkpoint yet, a damaged one, or no network.
    """
    found = _of_run(Path(target), seed) if is_run(target) else _of_timm(target, seed, pretrained)
    views = found[0].views
    if 3 * views.views[0].size ** 2 <= MAX_PIXEL_VALUES:
        found.append(Subject(name="raw pixels", tag="pixels", role="pixels", encoder=RawPixels(), views=views))
    for subject in found:
        subject.encoder.eval().requires_grad_(False)
    return found


def center_view(size: int, crop_share: float = 0.875) -> CenterView:
    """The evaluation view: small images whole, larger ones cut to their central ``crop_share``."""
    return CenterView(resize=size if size <= 64 else int(size / crop_share), size=size)


def _of_run(run_dir: Path, seed: int) -> list[Subject]:
    recipe, run = load_run(run_dir)
    folder = checkpoint.newest(run_dir)
    if folder is None:
        raise UserError(f"run {run_dir}: has no complete checkpoint yet; wait for the first one or train on")
    mean, std = _normalization(run_dir)
    views = ViewSpec(views=(center_view(run.encoder.image_size),), mean=mean, std=std)
    trained = make_encoder(run.encoder)
    try:
        trained.load_state_dict(checkpoint.read_encoder(folder))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"checkpoint {folder}: does not fit encoder {run.encoder.name} of run.json: {reason}"
        ) from error
    with _seeded(seed):  # the method's own initialisation: what training began with, but for the seed
        untrained = run.objective.build(make_encoder(run.encoder), run.encoder.image_size).encoder
    step = checkpoint.read_meta(folder).step
    architecture = json.dumps(to_values(run.encoder), sort_keys=True)
    return [
        Subject(
            name=f"{recipe}, step {step:,}",
            tag=folder.name,
            role="encoder",
            encoder=trained,
            views=views,
            architecture=architecture,
            origin={"run": str(run_dir), "checkpoint": folder.name, "step": step, "encoder": run.encoder.name},
        ),
        _random(run.encoder.name, untrained, views, seed, architecture),
    ]


def _of_timm(name: str, seed: int, pretrained: bool) -> list[Subject]:
    hosted = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not hosted and not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise UserError(f"model {name!r}: neither a run folder nor a name that timm knows{hint}")
    encoder = _published(name) if pretrained else _untrained(name, seed)
    wanted = resolve_model_data_config(encoder)
    size = wanted["input_size"][-1]
    view = CenterView(resize=int(size / wanted["crop_pct"]), size=size)
    views = ViewSpec(views=(view,), mean=tuple(wanted["mean"]), std=tuple(wanted["std"]))
    twin = _random(name, _untrained(name, seed), views, seed, f"timm {name}")
    if not pretrained:
        return [twin]
    published = Subject(
        name=name,
        tag="published",
        role="encoder",
        encoder=encoder,
        views=views,
        architecture=f"timm {name}",
        origin={"encoder": name},
    )
    return [published, twin]


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


def _untrained(name: str, seed: int) -> nn.Module:
    with _seeded(seed):
        return timm.create_model(name, pretrained=False, num_classes=0)


def _published(name: str) -> nn.Module:
    """The encoder with its published weights, downloaded where they are not on this machine yet."""
    silenced = [logging.getLogger(place) for place in ("timm", "huggingface_hub", "httpx")]
    levels = [logger.level for logger in silenced]
    try:
        for logger in silenced:
            logger.setLevel(logging.CRITICAL)
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises a dozen kinds, of three libraries, without a common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"model {name!r}: no published weights could be had ({reason}); without a network try --no-pretrained"
        ) from error
    finally:
        for logger, level in zip(silenced, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _normalization(run_dir: Path) -> tuple[Color, Color]:
    """The mean and standard deviation that the run was trained with."""
    record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    try:
        return tuple(record["normalization"]["mean"]), tuple(record["normalization"]["std"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{run_dir / 'run.json'}: no field normalization; train the run anew") from error
