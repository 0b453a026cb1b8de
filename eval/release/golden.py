"""Golden input and output: a few images, what the encoder is given of them, and the features that it must answer.

A flipped bit in the weights loads silently, and so does another version of timm that computes something else, or a
config.json with another mean. These few numbers show all of it, wherever the release goes.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.bounds import check_bounds
from eyespot.eval.release.layout import CONFIG, GOLDEN, SMALL_STEM, WEIGHTS, read_json
from eyespot.pretrain.networks.encoders import EncoderConfig, encode, make_encoder

NUM_IMAGES = 2
TOLERANCE = 1e-3
"""Largest difference of a feature, as a share of the largest feature: other processors and versions of torch round
differently; another image, mean or weight is far off."""
MAX_VIEWS = 16
"""Images, captions, sounds or maps that may be golden; 2 are."""
TOWERS_PREFIX = "towers."
"""Begins the names of what the towers of one space are given and must answer; the rest is the encoder's alone."""
INT8_PREFIX = "int8."
"""Begins the names of what the encoder answers in 8 bits, which nobody computes anew who verifies."""
INPUT_TOLERANCE = 1e-5
"""Of normalised pixels, absolute."""


def golden_images(size: int, channels: int = 3) -> UInt8[Tensor, "n c size size"]:
    """Smooth random pictures, always the same.

    Args:
        size: height and width, pixels.
        channels: of the encoder's images; bands are as bright as if they had 8 bits.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(NUM_IMAGES, channels, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)
    return (smooth * 255).round().to(torch.uint8)


def normalized(images: UInt8[Tensor, "n c h w"], mean: list[float], std: list[float]) -> Float[Tensor, "n c h w"]:
    """What the encoder is given: (pixel / 255 - mean) / std for each channel."""
    shape = (1, -1, 1, 1)
    return (images.float() / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def golden_of(encoder: nn.Module, config: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of golden.safetensors: "images", "input" and a matrix for each kind of features ("cls", "mean").

    Args:
        encoder: in evaluation mode.
        config: the release's config.json.
    """
    asked = config["pretrained_cfg"]
    images = golden_images(asked["input_size"][-1], len(asked["mean"]))
    pixels = normalized(images, asked["mean"], asked["std"])
    with torch.inference_mode():
        found = encode(encoder, pixels)
    return {"images": images, "input": pixels, **{kind: rows.clone() for kind, rows in found.items()}}


def load_encoder(folder: Path, source: str = "") -> nn.Module:
    """The encoder of a release, as the model card says it is loaded: by timm, from its own format.

    Args:
        folder: of the release; ``verified`` before.
        source: what to call it in errors.

    Raises:
        UserError: timm cannot build it, or the weights do not fit exactly.
    """
    source = source or f"release {folder}"
    config: Any = read_json(folder / CONFIG, source)
    check_bounds(folder, config, source)
    try:
        weights = load_file(folder / WEIGHTS)
        architecture = str(config["architecture"])
        if architecture.endswith(SMALL_STEM):
            size = config["pretrained_cfg"]["input_size"][-1]
            name = architecture.removesuffix(SMALL_STEM)
            seen = config["pretrained_cfg"]["input_size"][0]
            encoder = make_encoder(EncoderConfig(name=name, image_size=size, small_stem=True, channels=seen))
            encoder.load_state_dict(weights)
        else:
            encoder = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{source}: {WEIGHTS} cannot be read ({_brief(error)}); fetch the release anew") from error
    except UserError:
        raise
    except Exception as error:  # timm raises whatever a stranger's arguments lead to
        raise UserError(f"{source}: timm {timm.__version__} cannot load it: {_brief(error)}") from error
    state = encoder.state_dict()
    odd = sorted(state.keys() ^ weights.keys()) or [name for name in state if not same(state[name], weights[name])]
    if odd:
        raise UserError(
            f"{source}: timm {timm.__version__} loads only a part of it ({odd[0]} is not as in {WEIGHTS});"
            f" {CONFIG} and {WEIGHTS} do not belong together, or this timm is too old"
        )
    return encoder.eval().requires_grad_(False)


def check_golden(folder: Path, encoder: nn.Module, config: dict[str, Any], source: str) -> None:
    """Computes the golden output anew and compares.

    Raises:
        UserError: mean, standard deviation, size, or a feature is another than when the release was written.
    """
    try:
        held = load_file(folder / GOLDEN)
        golden = {name: tensor for name, tensor in held.items() if not name.startswith((TOWERS_PREFIX, INT8_PREFIX))}
        asked = config["pretrained_cfg"]
        mean, std, size = asked["mean"], asked["std"], asked["input_size"][-1]
        images, pixels = golden.pop("images"), golden.pop("input")
        _check_images(images, source)
        again = normalized(images, mean, std)
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{source}: {GOLDEN} or {CONFIG} makes no sense ({_brief(error)}); fetch it anew") from error
    if images.shape[-2:] != (size, size):
        raise UserError(f"{source}: {CONFIG} says {size} pixels, {GOLDEN} has {images.shape[-1]}; fetch it anew")
    check_kind(pixels, again, "input", source)
    if again.shape != pixels.shape or not torch.allclose(again, pixels, rtol=0, atol=INPUT_TOLERANCE):
        raise UserError(
            f"{source}: with mean {mean} and std {std} of {CONFIG} the golden images do not become the golden input;"
            " they are not what the encoder was trained with"
        )
    with torch.inference_mode():
        found = encode(encoder, pixels)
    if not golden or not golden.keys() <= found.keys():  # older versions did not keep "pool"
        raise UserError(f"{source}: {GOLDEN} holds the features {sorted(golden)}, the encoder has {sorted(found)}")
    for kind, wanted in golden.items():
        check_kind(wanted, found[kind], kind, source)
        far = distance(found[kind], wanted)
        if not far <= TOLERANCE:
            raise UserError(
                f"{source}: {kind} features of the golden input are off by {far:.1e} of the largest one (at most"
                f" {TOLERANCE:.0e}); the weights are others, or this timm ({timm.__version__}) computes something else"
            )


def _check_images(images: Tensor, source: str) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or not 1 <= len(images) <= MAX_VIEWS:
        raise UserError(
            f"{source}: {GOLDEN}: images is {tuple(images.shape)!s:.100} {images.dtype}, not 1 to {MAX_VIEWS} images of"
            " bytes; fetch it anew"
        )


def check_kind(golden: Tensor, computed: Tensor, name: str, source: str) -> None:
    """Raises a UserError unless golden numbers are of the kind that is computed; no others can be compared."""
    if golden.dtype != computed.dtype:
        raise UserError(f"{source}: {GOLDEN}: {name} is {golden.dtype}, not {computed.dtype}; fetch it anew")


def distance(found: Tensor, wanted: Tensor) -> float:
    """Largest difference as a share of the largest wanted value; infinite where shapes differ."""
    if found.shape != wanted.shape:
        return float("inf")
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))


def same(a: Tensor, b: Tensor) -> bool:
    """Whether kind, shape and all numbers are."""
    return a.dtype == b.dtype and torch.equal(a, b)


def _brief(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
