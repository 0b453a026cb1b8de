"""The encoder that a training on labels starts from, kept in the run's folder.

RUN/start.json            what it is and where it came from
RUN/start.safetensors     its weights, fitted to the size of the images; not there when training from scratch
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import save
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.augment.views import Color
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.patience import words
from eyespot.eval.encoders.subject import subjects_of
from eyespot.eval.results.result import Role
from eyespot.pretrain.config import StartConfig
from eyespot.pretrain.distributed.collectives import agreed, gather_objects
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.networks.split_encoder import seen_channels
from eyespot.pretrain.redaction import masked, masked_values

WEIGHTS = "start.safetensors"
RECORD = "start.json"
SCRATCH = "scratch"
"""Tag of an encoder with random weights."""


@dataclass(kw_only=True, slots=True)
class StartEncoder:
    """An encoder before it is trained on labels."""

    target: str
    """MODEL, as the caller named it."""
    name: str
    """For tables: "mae_tiny, step 600"."""
    tag: str
    """For file names: "step-00000600", "scratch"."""
    role: Role
    encoder: EncoderConfig
    mean: Color
    std: Color
    origin: dict[str, str | int] = field(default_factory=dict)
    """Where it comes from, for the result's JSON."""
    sha256: str = ""
    """Of the file of weights, once there is one."""
    weights: dict[str, Tensor] | None = field(default=None, repr=False)
    """None = random ones; or they lie in the run's folder."""


def start_encoder(target: str, *, scratch: bool, pretrained: bool) -> StartEncoder:
    """The encoder that ``target`` names.

    Args:
        target: MODEL of any kind.
        scratch: the same encoder, but with random weights, which the run's own seed will draw.
        pretrained: timm names: with their published weights.

    Raises:
        UserError: there is no such encoder, or a recipe could not make it.
    """
    subject = subjects_of(target, seed=0, pretrained=pretrained and not scratch)[0]
    config = config_of(subject.encoder, subject.views.images[0].size, target)
    known: dict[str, Any] = dict(
        target=masked(target), encoder=config, mean=tuple(subject.views.mean), std=tuple(subject.views.std)
    )
    if scratch:
        origin: dict[str, str | int] = {"encoder": config.name}
        return StartEncoder(name="from scratch", tag=SCRATCH, role="random", origin=origin, **known)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in subject.encoder.state_dict().items()}
    return StartEncoder(
        name=subject.name, tag=subject.tag, role=subject.role, origin=subject.origin, weights=weights, **known
    )


def config_of(encoder: nn.Module, image_size: int, target: str) -> EncoderConfig:
    """The settings with which ``make_encoder`` makes an encoder like this one.

    Raises:
        UserError: no settings do.
    """
    vit = encoder if isinstance(encoder, timm.models.VisionTransformer) else None
    config = EncoderConfig(
        name=cast(Any, encoder).pretrained_cfg["architecture"],
        image_size=image_size,
        patch_size=vit.patch_embed.patch_size[0] if vit is not None else None,
        channels=seen_channels(encoder),
        small_stem=isinstance(encoder, timm.models.ResNet) and isinstance(encoder.maxpool, nn.Identity),
    )
    with torch.device("meta"):
        made = make_encoder(config).state_dict()
    if other := _unlike(made, encoder.state_dict()):
        raise UserError(
            f"model {target!r}: its {config.name} has options that encoder.* cannot say (see {other});"
            " name a run, or an encoder as timm makes it"
        )
    return config


def fitted(weights: dict[str, Tensor], before: EncoderConfig, after: EncoderConfig) -> dict[str, Tensor]:
    """The weights for images of another size: a vision transformer's position embedding is resampled (bicubic).

    Raises:
        UserError: another encoder is asked for, or its weights depend on the size in another way.
    """
    for name in ("name", "patch_size", "small_stem", "channels"):
        if getattr(before, name) != getattr(after, name):
            raise UserError(f"encoder.{name} {getattr(after, name)}: MODEL's is {getattr(before, name)}; leave it out")
    with torch.device("meta"):
        wanted = make_encoder(after)
    shapes = wanted.state_dict()
    if _unlike(shapes, weights) == "pos_embed" and isinstance(wanted, timm.models.VisionTransformer):
        num_prefix = 0 if wanted.no_embed_class else wanted.num_prefix_tokens
        grid = list(wanted.patch_embed.grid_size)
        positions = resample_abs_pos_embed(weights["pos_embed"], new_size=grid, num_prefix_tokens=num_prefix)
        weights = {**weights, "pos_embed": positions.contiguous()}
    if other := _unlike(shapes, weights):
        raise UserError(
            f"encoder.image_size {after.image_size}: the weights are for {before.image_size} pixels and {other} does"
            f" not fit; use --encoder.image-size {before.image_size}"
        )
    return weights


def keep(start: StartEncoder, config: EncoderConfig, run_dir: Path, world: World) -> StartConfig:
    """Puts the start into the run's folder, unless one is there; what the run is told of it. All ranks call it.

    Raises:
        UserError: the folder cannot be written, or the weights do not fit ``config``.
    """
    with agreed():
        if world.rank == 0 and (before := kept(run_dir)) is not None:
            start = before
        elif world.rank == 0:
            _write(start, config, run_dir)
    if start.tag == SCRATCH:
        return StartConfig()
    sha256 = gather_objects(start.sha256)[0]
    return StartConfig(weights=run_dir / WEIGHTS, sha256=sha256, origin=start.target)


def kept(run_dir: Path) -> StartEncoder | None:
    """The start that lies in a run's folder; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        return foreign_json.read(run_dir / RECORD, StartEncoder)
    except FileNotFoundError:
        return None
    except foreign_json.ForeignJsonError as error:
        raise UserError(f"{run_dir / RECORD}: damaged ({error.why}); choose another --run-dir") from error
    except OSError as error:
        raise UserError(f"{run_dir / RECORD}: cannot be read ({words(error)})") from error


def _write(start: StartEncoder, config: EncoderConfig, run_dir: Path) -> None:
    weights = fitted(start.weights, start.encoder, config) if start.weights is not None else None
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if weights is not None:
            content = save(weights)
            write_bytes(run_dir / WEIGHTS, content)
            start.sha256 = hashlib.sha256(content).hexdigest()
        record = masked_values(asdict(replace(start, weights=None)))
        write_bytes(run_dir / RECORD, (json.dumps(record, indent=1) + "\n").encode())
    except OSError as error:
        raise UserError(f"run_dir {run_dir}: cannot be written ({error.strerror}); choose another --run-dir") from error


def _unlike(wanted: dict[str, Any], given: dict[str, Any]) -> str | None:
    """The first tensor that one of them lacks or has in another shape."""
    for name in [*wanted, *given]:
        if name not in wanted or name not in given or wanted[name].shape != given[name].shape:
            return name
    return None
