"""How other people's code names an encoder's tensors, brought to timm's names, shapes and no others.

Files of transformers, and torchvision's vision transformers, have their authors' names by now (``library_names``).
timm itself knows most of the rest: the filter that it reads the published files of an architecture with
(``checkpoint_filter_fn``: DINOv2, DINOv3, OpenCLIP, EVA, ConvNeXt, ...) is asked first. What it does not know is here:

    blocks.<chunk>.<block>.*       DINOv2's training checkpoints, whose blocks are in chunks
    0.weight, 1.*, 4.* to 7.*      a ResNet that was cut from torchvision's children (lightly, BYOL in PyTorch)
    gamma_1, gamma_2               LayerScale of DeiT III

Tensors of the right name and another shape are fitted by published rules: positions are resampled (bicubic, timm's
``resample_abs_pos_embed``), patches too (FlexiViT, Beyer et al. 2022, arXiv:2212.08013, timm's
``resample_patch_embed``), input channels are repeated and scaled, or summed (timm's ``adapt_input_conv``).
"""

import contextlib
import importlib
import inspect
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

_CHUNKED = re.compile(r"^blocks\.\d+\.(\d+\.)")
_CHILD = re.compile(r"^(\d+)\.")
_OF_RESNET = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_CONSUMED = re.compile(
    r"^(pos_embed|cls_token|register_tokens|storage_tokens)$|\.qkv\.bias(_mask)?$|^patch_embed\."
    r"|\.pwconv\d\.weight$|\.grn\.(gamma|beta)$"
)
"""What a filter of timm's makes other tensors of, under other names or in other shapes."""
_TOKENS = (
    ("cls_token", "cls_token", "without _gap"),
    ("register_tokens", "reg_token", "*_reg4_dinov2"),
    ("storage_tokens", "reg_token", "*_dinov3"),
    ("reg_token", "reg_token", "*_reg4_*"),
    ("dist_token", "dist_token", "*_distilled_*"),
    ("norm_pre.weight", "norm_pre.weight", "*_clip_*"),
)
"""How they are called in files and in timm, and which of its names have them."""
_COUNTER = "num_batches_tracked"
_FIRST = ("patch_embed.proj.weight", "conv1.weight", "0.weight", "downsample_layers.0.0.weight")
Filter = Callable[..., Mapping[str, Tensor]]


@dataclass(kw_only=True, slots=True)
class Translated:
    """Tensors of a file under an encoder's own names."""

    tensors: dict[str, Tensor]
    """All that may be the encoder's: if one is missing or too much, the file is of another one."""
    beside: list[str]
    """Names, in the file, of what is no part of any of its modules: classifiers, decoders, mask tokens."""
    changes: list[str] = field(default_factory=list)
    """In words, what was fitted to the encoder's shapes."""
    refusal: str = ""
    """Why they are not the encoder's, although they seem to be."""


def translated(found: Mapping[str, Tensor], encoder: nn.Module) -> Translated:
    """A file's tensors under the encoder's names, and in its shapes where a published rule leads there.

    Args:
        found: the file's, without what stands before the encoder's names.
        encoder: who is to have them.
    """
    wanted = encoder.state_dict()
    named = _renamed(found, encoder)
    if set(wanted) - set(named) or any(named[name].shape != wanted[name].shape for name in wanted):
        filtered = _filtered(named, encoder)
    else:
        filtered = dict(named)
    modules = {name.partition(".")[0] for name in wanted}
    own = {name: tensor for name, tensor in filtered.items() if name in wanted or _is_part(name, modules, encoder)}
    taken = {id(tensor) for tensor in own.values()}
    back = {new: old for old, new in zip(found, named, strict=True)}
    beside = [
        back[name]
        for name, tensor in named.items()
        if id(tensor) not in taken and not (filtered is not named and _CONSUMED.search(name))
    ]
    changes = _shape_changes(named, own, wanted)
    if count := _begin_counters(own, wanted):
        changes.append(f"{count} counters of batch norm, which files from before torch 0.4.1 lack, begin at 0")
    if (change := _fit_channels(own, wanted, encoder)) is not None:
        changes.append(change)
    return Translated(
        tensors=own,
        beside=beside,
        changes=changes,
        refusal=_lost_tokens({**named, **filtered}, wanted) or _lost_bias(named, own),
    )


def names_of(encoder: nn.Module) -> list[str]:
    """Names by which an encoder's place in a file is found: its own, and how others call its first layers."""
    return [
        *encoder.state_dict(),
        "patch_embed.proj.weight",
        "conv1.weight",
        "0.weight",
        "downsample_layers.0.0.weight",
    ]


def _is_part(name: str, modules: set[str], encoder: nn.Module) -> bool:
    """Whether a tensor that the encoder does not want would be a part of one of its modules: too much, then."""
    classifier = cast(Any, encoder).pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else classifier
    return name.partition(".")[0] in modules and not any(name.startswith(f"{head}.") for head in heads)


def _renamed(found: Mapping[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    resnet = isinstance(encoder, timm.models.ResNet) and "0.weight" in found

    def one(name: str) -> str:
        if resnet and (child := _CHILD.match(name)) is not None and child[1] in _OF_RESNET:
            return f"{_OF_RESNET[child[1]]}.{name[child.end() :]}"
        return _CHUNKED.sub(r"blocks.\1", name)

    named = {one(name): tensor for name, tensor in found.items()}
    return named if len(named) == len(found) else dict(found)


def _filtered(named: Mapping[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """What timm's own reader of published files makes of it; the tensors themselves where it cannot say."""
    place = importlib.import_module(type(encoder).__module__)
    known: Filter | None = getattr(place, "checkpoint_filter_fn", None)
    if known is None:
        return dict(named)
    options: dict[str, Any] = {}
    if any("gamma_" in name for name in named) and "adapt_layer_scale" in inspect.signature(known).parameters:
        options["adapt_layer_scale"] = True
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            made = known(dict(named), encoder, **options)
    except Exception:  # it was written for files that are as it thinks
        return dict(named)
    return {name: tensor for name, tensor in made.items() if isinstance(tensor, Tensor)}


def _begin_counters(own: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> int:
    """Gives batch norms their counter of batches as torch does, where a file has none of any; how many.

    torchvision's published ResNets are of that age. A file that lacks some only is damaged.
    """
    counters = [name for name in wanted if name.endswith(_COUNTER)]
    means = [name.removesuffix(_COUNTER) + "running_mean" for name in counters]
    if any(name in own for name in counters) or not all(name in own for name in means):
        return 0
    own.update({name: torch.zeros(wanted[name].shape, dtype=wanted[name].dtype) for name in counters})
    return len(counters)


def _lost_tokens(named: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What an encoder would compute without, if it has no place for it: registers, a second class token, a norm."""
    for name, own, like in _TOKENS:
        if name in named and own not in wanted:
            return f"{name} is there, and the encoder has none; name one that has: timm's {like}"
    return ""


def _lost_bias(named: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """DINOv3's distilled models have biases of zero, and timm's architectures leave them out: if they are."""
    for name, tensor in named.items():
        if not name.endswith(".qkv.bias") or name in own or tensor.numel() < 3:
            continue
        mask = named.get(f"{name}_mask")
        counted = (
            tensor
            if mask is None or mask.shape != tensor.shape
            else torch.where(mask.nan_to_num(0) == 0, torch.zeros_like(tensor), tensor)
        )
        split = name.replace("qkv.bias", "q_bias") in own
        left = counted.chunk(3)[1] if split else counted
        if bool(left.count_nonzero()):
            advice = "" if split else "; try a timm name with _qkvb"
            return f"{name} is not zero there, and the encoder has no such tensor{advice}"
    return ""


def _shape_changes(named: Mapping[str, Tensor], own: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    changes: list[str] = []
    before, after = named.get("pos_embed"), wanted.get("pos_embed")
    if before is not None and before.ndim == 3 and after is not None and _shape_of(own, "pos_embed") == after.shape:
        prefix = before.shape[1] - own["pos_embed"].shape[1]
        registers = any(name in named for name in ("register_tokens", "storage_tokens"))
        if own["pos_embed"] is not before and not (registers and prefix == 1):
            changes.append(f"positions resampled from {before.shape[1]} to {after.shape[1]}")
    before, after = named.get("patch_embed.proj.weight"), wanted.get("patch_embed.proj.weight")
    if before is not None and after is not None and before.ndim == 4 and before.shape[2:] != after.shape[2:]:
        changes.append(f"patches resampled from {before.shape[-1]} to {after.shape[-1]} pixels")
    return changes


def _shape_of(tensors: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None


def _fit_channels(own: dict[str, Tensor], wanted: Mapping[str, Tensor], encoder: nn.Module) -> str | None:
    """Kernels that see n channels made of kernels that see m: summed for one, else repeated and scaled by m / n."""
    first = cast(Any, encoder).pretrained_cfg.get("first_conv") or ""
    name = f"{first}.weight"
    if not isinstance(first, str) or name not in own or name not in wanted or own[name].ndim != 4:
        return None
    tensor, shape = own[name], wanted[name].shape
    seen, sees = tensor.shape[1], shape[1]
    if seen == sees or not seen or (tensor.shape[0], *tensor.shape[2:]) != (shape[0], *shape[2:]):
        return None
    if sees == 1:
        own[name] = tensor.float().sum(1, keepdim=True).to(tensor.dtype)
        return f"first kernels summed over {seen} channels"
    own[name] = tensor.repeat(1, -(-sees // seen), 1, 1)[:, :sees] * (seen / sees)
    return f"first kernels of {seen} channels repeated for {sees}, and scaled by {seen}/{sees}"
