"""Whether a stranger's config.json asks for what its weights are, before anything is built or computed by it."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import timm
import torch
from torch import nn

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.bands.stored_bands import MOST_BANDS
from eyespot.eval.release.layout import CONFIG, SMALL_STEM, WEIGHTS

LARGEST_SIDE = 4096
"""Pixels of the images that a release may ask for."""
MAX_HEADER_BYTES = 100 << 20
"""That safetensors allows."""
_SPARE = 1_000_000
"""Parameters that an encoder may have beside its weights' (buffers are no parameters, a classifier is none of ours)."""

_LAYERS = frozenset({"depth", "depths", "layers", "num_layers", "num_blocks", "n_layers"})
"""Arguments of timm's architectures that count parts, of which each has tensors."""

_Side = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_SIDE)]
_Channels = Annotated[int, msgspec.Meta(ge=1, le=MOST_BANDS)]
_Color = tuple[float, ...]


@dataclass(kw_only=True, slots=True)
class _Arguments:
    """What timm's architecture may be given: no release has more."""

    img_size: _Side | None = None
    patch_size: _Side | None = None
    in_chans: _Channels | None = None


@dataclass(kw_only=True, slots=True)
class _Input:
    input_size: tuple[_Channels, _Side, _Side]
    mean: _Color
    std: _Color
    num_classes: Annotated[int, msgspec.Meta(ge=0, le=0)] = 0


@dataclass(kw_only=True, slots=True)
class _Config:
    architecture: str
    pretrained_cfg: _Input
    num_classes: Annotated[int, msgspec.Meta(ge=0, le=0)] = 0
    model_args: dict[str, Any] | None = None


def check_bounds(folder: Path, config: dict[str, Any], source: str) -> None:
    """Holds what config.json asks for against the number of weights that there are.

    Args:
        folder: of the release.
        config: config.json.
        source: what to call it in errors.

    Raises:
        UserError: a value of a wrong kind or out of all bounds, an unknown architecture or argument, or an encoder much
            larger than its weights.
    """
    asked = foreign_json.convert(config, _Config, f"{source}: {CONFIG}")
    arguments = asked.model_args or {}
    known = _Arguments.__dataclass_fields__
    if odd := sorted(set(arguments) - set(known)):
        raise UserError(f"{source}: {CONFIG}: model_args.{odd[0]}: no release has it; fetch the release anew")
    foreign_json.convert(arguments, _Arguments, f"{source}: {CONFIG}: model_args")
    of = asked.pretrained_cfg
    if not len(of.mean) == len(of.std) == of.input_size[0] == arguments.get("in_chans", 3):
        raise UserError(f"{source}: {CONFIG}: mean, std, input_size and in_chans are not of one number of channels")
    name = asked.architecture.removesuffix(SMALL_STEM)
    if not timm.is_model(name):
        raise UserError(
            f"{source}: timm {timm.__version__} cannot load it: has no architecture {name[:100]!r}; a newer one may"
        )
    _check_size(folder, name, arguments, source)


def check_folder(folder: Path, config: dict[str, Any]) -> None:
    """As ``check_bounds``, of a folder of timm's, whose encoder may have any arguments.

    Raises:
        UserError: as there.
    """
    source, arguments = f"model {folder}", config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise UserError(f"{source}: {CONFIG}: model_args is {type(arguments).__name__}, not an object")
    _check_size(folder, str(config["architecture"]), arguments, source)


def _check_size(folder: Path, name: str, arguments: dict[str, Any], source: str) -> None:
    num_tensors, there = _num_weights(folder / WEIGHTS, source)
    for layers in _LAYERS & arguments.keys():  # each takes time and memory, also where its weights take none
        if _total(arguments[layers]) > num_tensors:
            said = f"{arguments[layers]!r:.60}"
            raise UserError(f"{source}: {CONFIG}: model_args.{layers} {said}: {WEIGHTS} has {num_tensors:,} tensors")
    wanted = _num_parameters(name, arguments)
    if wanted > 2 * there + _SPARE:
        raise UserError(
            f"{source}: {CONFIG} asks for an encoder of {wanted:,} parameters, {WEIGHTS} holds {there:,} numbers;"
            " fetch it anew"
        )


def _total(value: Any) -> int | float:
    return sum(map(_total, value)) if isinstance(value, list) else value if isinstance(value, int | float) else 0


def _num_parameters(name: str, arguments: dict[str, Any]) -> int:
    """Of an encoder that takes no memory; 0 where timm builds it only in earnest, or refuses, which it says later."""
    try:
        with torch.device("meta"):
            encoder: nn.Module = timm.create_model(name, **{**arguments, "num_classes": 0})
    except Exception:  # whatever a stranger's arguments lead to
        return 0
    return sum(parameter.numel() for parameter in encoder.parameters())


def _num_weights(path: Path, source: str) -> tuple[int, int]:
    """Tensors and numbers in a safetensors file."""
    shapes = shapes_in(path, source)
    return len(shapes), sum(map(_product, shapes.values()))


def shapes_in(path: Path, source: str) -> dict[str, list[Any]]:
    """The shape of each tensor of a safetensors file, as its header has it: the file's size is the bound.

    Args:
        path: the file.
        source: what to call the release in errors.

    Raises:
        UserError: it has no such header, or says that it holds more than it has room for.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise UserError(
                f"{source}: {path.name} cannot be read (a header of {length:,} bytes, of {size:,}); fetch it anew"
            )
        header = foreign_json.parse(file.read(length), dict, f"{source}: {path.name}")
    found = {name: entry.get("shape") for name, entry in header.items() if isinstance(entry, dict)}
    shapes = {name: shape for name, shape in found.items() if isinstance(shape, list)}
    numbers = sum(map(_product, shapes.values()))
    if numbers > size:  # a number has a byte at least
        raise UserError(
            f"{source}: {path.name} says that it holds {numbers:.3g} numbers, in {size:,} bytes; fetch it anew"
        )
    return shapes


def _product(shape: list[Any]) -> int:
    product = 1
    for length in shape[:16]:
        if isinstance(length, int):
            product *= max(0, length)
    return product
