"""Where an encoder comes from that no run here trained: a timm name, a timm folder on this disk, a release."""

import difflib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.config import resolve_data_config
from torch import nn

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.augment.views import CenterView, Interpolation, Mode, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.bounds import check_folder
from eyespot.eval.release.fetch import cached, cached_from_hub
from eyespot.eval.release.hub.address import is_hub
from eyespot.eval.release.layout import CONFIG, SMALL_STEM, WEIGHTS
from eyespot.eval.release.registry import is_registered
from eyespot.pretrain.checkpoints.published import hub_failure, published_encoder
from eyespot.pretrain.checkpoints.weight_files import Weights, check_tensors, read_weights
from eyespot.pretrain.networks.encoders import EncoderConfig, encode, make_encoder

LOCAL = "local-dir:"
HUB = ("hf-hub:", "hf_hub:")
LARGEST_CONFIG = 16 * 2**20
"""Bytes that config.json may have."""
MIN_CROP = 0.05
"""Share of an image's side that a view shows at least: the images are made so much larger before they are cut."""
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".tar")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A random generator of its own; the caller's stays where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def check_name(name: str) -> None:
    """Raises a UserError unless timm knows the name, or looks it up on the hub."""
    if name.startswith(HUB) or timm.is_model(name):
        return
    close = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f"; close names: {', '.join(close)}" if close else ""
    raise UserError(
        f"model {name!r}: no such folder, nor a name that timm knows, nor models:/NAME@ALIAS of a registry,"
        f" nor hf://ORG/NAME of a hub{hint}"
    )


def untrained(name: str, seed: int) -> nn.Module:
    """timm's encoder of that name with random weights.

    Args:
        name: timm's, or "local-dir:FOLDER".
        seed: of the weights.

    Raises:
        UserError: it is the hub's, which has none of that name.
        Outage: the hub does not answer.
    """
    try:
        with seeded(seed):
            return timm.create_model(name, pretrained=False, num_classes=0)
    except Exception as error:
        if not name.startswith(HUB):
            raise
        raise hub_failure(error)(
            f"model {name!r}: cannot be had from the hub ({_brief(error)}); name a folder instead"
        ) from error


def published(name: str) -> nn.Module:
    """The encoder with its published weights, downloaded where they are not on this machine yet.

    Raises:
        UserError: there are none, or this machine has no network.
        Outage: the hub does not answer.
    """
    return published_encoder(name, "model", "without a network try --no-pretrained")


def of_file(name: str, path: Path) -> tuple[nn.Module, Weights]:
    """The encoder with the weights of a file, whatever its authors call them; and what was loaded.

    Raises:
        UserError: the file cannot be read, or its weights are not those of timm's encoder of that name.
        Outage: the file system does not give it.
    """
    encoder = untrained(name, 0)
    try:
        weights = read_weights(path, encoder.state_dict(), encoder=encoder, setting="model")
    except UserError as error:
        said = str(error).replace("choose the encoder.* that", f"{name} is not the encoder that")
        raise UserError(said.replace("model ", f"model {name}@", 1)) from error
    encoder.load_state_dict(weights.tensors)
    return encoder, weights


def in_folder(folder: Path) -> nn.Module:
    """The encoder in a folder of timm's local format; a classifier that was saved with it is left out.

    All other weights must be there and fit. Nothing is unpickled.

    Raises:
        UserError: the folder cannot be read, or its weights are not those of the encoder that it describes.
    """
    weights = _weights(folder)
    check_folder(folder, read_config(folder))
    try:
        encoder: Any = untrained(f"{LOCAL}{folder.resolve()}", 0)
        size = views_of(encoder.pretrained_cfg).images[0].size
    except Exception as error:  # config.json can say anything, and timm raises whatever that leads to
        raise UserError(
            f"model {folder}: timm {timm.__version__} cannot build what {CONFIG} says ({_brief(error)})"
        ) from error
    names = encoder.pretrained_cfg.get("classifier") or ()
    classifiers = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    own = {name: weight for name, weight in weights.items() if not name.startswith(classifiers)}
    try:
        encoder.load_state_dict(own)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"model {folder}: {WEIGHTS} does not fit the encoder of {CONFIG}: {reason}") from error
    check_tensors(encoder.state_dict(), own, f"model {folder}: {WEIGHTS}", "save them anew")
    try:
        with torch.inference_mode():
            encode(encoder.eval(), torch.zeros(1, len(encoder.pretrained_cfg["mean"]), size, size))
    except (AssertionError, RuntimeError) as error:
        raise UserError(
            f"model {folder}: its encoder takes no images of the size that {CONFIG} says, {size} ({_brief(error)})"
        ) from error
    return encoder


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    if not (folder / WEIGHTS).is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        if pickles:
            raise UserError(
                f"model {folder}: its weights are {pickles[0]}, a pickle, which could run code when it is read; save"
                f" them as {WEIGHTS}, with timm.models.save_for_hf(..., safe_serialization=True)"
            )
        raise UserError(f"model {folder}: has a {CONFIG} but no {WEIGHTS} beside it")
    try:
        return load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"model {folder}: {WEIGHTS} is damaged, or is no safetensors file at all ({_brief(error)})"
        ) from error


def twin_of(folder: Path, config: dict[str, Any], seed: int) -> nn.Module:
    """The encoder that a timm folder or a release describes, with random weights as timm draws them.

    Args:
        folder: with a config.json.
        config: what that says.
        seed: of the weights.
    """
    name = str(config["architecture"])
    if not name.endswith(SMALL_STEM):
        return untrained(f"{LOCAL}{folder.resolve()}", seed)
    size = config["pretrained_cfg"]["input_size"][-1]
    with seeded(seed):
        bare, seen = name.removesuffix(SMALL_STEM), config["pretrained_cfg"]["input_size"][0]
        return make_encoder(EncoderConfig(name=bare, image_size=size, small_stem=True, channels=seen))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder.

    Raises:
        UserError: it is not a JSON object.
    """
    try:
        found: dict[str, Any] = foreign_json.read(folder / CONFIG, dict, LARGEST_CONFIG)
    except foreign_json.ForeignJsonError as error:
        raise UserError(f"model {folder}: {CONFIG} cannot be read ({error.why})") from error
    except OSError as error:
        raise UserError(f"model {folder}: {CONFIG} cannot be read ({_brief(error)})") from error
    if "architecture" not in found:
        advice = (
            "; it is transformers': a run starts from it by --start.model NAME, timm's of the same encoder, with"
            f" --start.weights {folder}/model.safetensors"
        )
        raise UserError(
            f"model {folder}: {CONFIG} names no architecture, so it is not timm's" + advice * ("model_type" in found)
        )
    return found


def views_of(wanted: dict[str, Any]) -> ViewSpec:
    """How an encoder of timm wants its images: size, crop, interpolation, and what is subtracted and divided by.

    Args:
        wanted: timm's ``pretrained_cfg``.

    Raises:
        UserError: it wants what the data pipeline cannot make.
    """
    asked = resolve_data_config(pretrained_cfg=wanted)
    name, (channels, height, width) = wanted.get("architecture") or "encoder", asked["input_size"]
    if height != width or not channels == len(asked["mean"]) == len(asked["std"]):
        raise UserError(f"model {name}: wants images of {channels} x {height} x {width}; views are square")
    mode, interpolation = asked["crop_mode"], asked["interpolation"]
    if mode not in get_args(Mode) or interpolation not in get_args(Interpolation):
        raise UserError(
            f"model {name}: wants crop_mode {mode!r} and interpolation {interpolation!r}; views are made with"
            f" {', '.join(get_args(Mode))} and {', '.join(get_args(Interpolation))}"
        )
    mean, std = (tuple(map(float, asked[key])) for key in ("mean", "std"))
    if not MIN_CROP <= asked["crop_pct"] <= height:
        raise UserError(f"model {name}: wants crop_pct {asked['crop_pct']}; views have {MIN_CROP} or more")
    view = CenterView(resize=int(height / asked["crop_pct"]), size=int(height), mode=mode, interpolation=interpolation)
    return ViewSpec(views=(view,), mean=mean, std=std)


def is_remote(target: str) -> bool:
    """Whether it is the address of a release in MLflow's registry or on a hub."""
    return is_registered(target) or is_hub(target)


def remote(address: str) -> tuple[Path, dict[str, str]]:
    """The folder of a release in MLflow's registry or on a hub, downloaded where it is not on this machine yet.

    It is verified either way. The processes of this machine come one after the other, so that one of them downloads.

    Args:
        address: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``hf://ORG/NAME@REVISION``.

    Returns:
        The folder; of a hub's, under "hub", the address with the commit.

    Raises:
        UserError: there is none, it is not what the registry says, or MLflow does not answer.
        Outage: the hub does not answer.
    """
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eyespot" / "releases"
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = (place / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}.lock").open("w")
    except OSError as error:
        raise UserError(
            f"{place}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_registered(address):
            return cached(address, place), {}
        folder, at = cached_from_hub(address, place)
        return folder, {"hub": str(at)}


def _brief(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
