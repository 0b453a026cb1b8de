"""SplitEncoder: two encoders, one for an image's lightness and one for its colours; features of both side by side.

As in split-brain autoencoders (Zhang et al. 2017, arXiv:1611.09842, section 3.2), where neither half sees what the
other does. Each half is a whole encoder of timm's: ``split_resnet18`` holds two of resnet18, one with one channel of
input, one with two. They are registered with timm, so ``make_encoder`` knows their names; images are normalised by
ImageNet's mean and standard deviation, as lightness and colours are to be told from their numbers.
"""

from typing import Any, cast

import timm
import torch
from jaxtyping import Float
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import IMAGENET_MEAN, IMAGENET_STD
from eyespot.pretrain.images.lab_color import pixels, to_lab

HALVES = ("resnet10t", "resnet18", "resnet50", "vit_tiny_patch16_224", "vit_small_patch16_224")
HALVES_OF_TESTS = ("test_resnet", "test_vit")
MEAN_LIGHTNESS, UNITS = 50.0, 25.0
"""What is taken off L, and what L, a and b are divided by: about the deviation of L in photos."""


class SplitEncoder(nn.Module):
    """Both halves as one encoder.

    Args:
        lightness: a timm encoder of one channel.
        color: one of the same architecture, of two channels.
    """

    def __init__(self, lightness: nn.Module, color: nn.Module) -> None:
        super().__init__()
        self.lightness, self.color = lightness, color
        half = cast(Any, lightness)
        self.num_features: int = 2 * half.num_features
        self.feature_info = [dict(info) | {"num_chs": 2 * info["num_chs"]} for info in half.feature_info]
        self.num_prefix_tokens: int = getattr(half, "num_prefix_tokens", 0)

    @property
    def cls_token(self) -> Tensor | None:
        """Of the half for lightness: whether there are class tokens is what people ask for."""
        return getattr(self.lightness, "cls_token", None)

    def seen(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b 2 h w"]]:
        """What each half sees of normalised images: L, and a and b."""
        lab = to_lab(pixels(images))
        return (lab[:, :1] - MEAN_LIGHTNESS) / UNITS, lab[:, 1:] / UNITS

    def forward_features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b ..."]:
        """Feature maps, or tokens, of twice as many channels as one half has."""
        lightness, color = self.seen(images)
        return _joined(
            cast(Any, self.lightness).forward_features(lightness), cast(Any, self.color).forward_features(color)
        )

    def forward_intermediates(self, images: Float[Tensor, "b 3 h w"], **wanted: Any) -> tuple[Tensor, list[Tensor]]:
        """As timm's: the features, and maps of earlier blocks."""
        (one, maps), (other, others) = (
            cast(Any, half).forward_intermediates(part, **wanted)
            for half, part in zip((self.lightness, self.color), self.seen(images), strict=True)
        )
        return _joined(one, other), [torch.cat(pair, dim=1) for pair in zip(maps, others, strict=True)]

    def forward_head(self, features: Float[Tensor, "b ..."], pre_logits: bool = True) -> Float[Tensor, "b d"]:
        """Each half's features pooled as its architecture does."""
        parts = features.chunk(2, dim=_channels(features))
        halves = (self.lightness, self.color)
        pooled = [cast(Any, half).forward_head(part, pre_logits=True) for half, part in zip(halves, parts, strict=True)]
        return torch.cat(pooled, dim=1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of images, pooled as each half's architecture does."""
        return self.forward_head(self.forward_features(images))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass."""
        for half in (self.lightness, self.color):
            cast(Any, half).set_grad_checkpointing(enable)


def _channels(features: Tensor) -> int:
    return 2 if features.ndim == 3 else 1


def _joined(one: Tensor, other: Tensor) -> Tensor:
    return torch.cat([one, other], dim=_channels(one))


def _register(name: str) -> None:
    def make(pretrained: bool = False, **sizes: Any) -> SplitEncoder:
        if pretrained:
            raise RuntimeError(f"split_{name} has no published weights")
        own = {key: value for key, value in sizes.items() if not key.startswith(("pretrained_", "cache_"))}
        encoder = SplitEncoder(*(timm.create_model(name, in_chans=channels, **own) for channels in (1, 2)))
        cast(Any, encoder).pretrained_cfg = default_cfgs[make.__name__].default.to_dict() | {
            "architecture": make.__name__
        }
        return encoder

    make.__name__ = f"split_{name}"
    register_model(make)


def _default_cfg(name: str) -> dict[str, Any]:
    known = cast(Any, timm.get_pretrained_cfg(name))
    return {
        "input_size": known.input_size,
        "fixed_input_size": known.fixed_input_size,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }


default_cfgs = generate_default_cfgs({f"split_{name}": _default_cfg(name) for name in (*HALVES, *HALVES_OF_TESTS)})
"""Where timm looks for what it should know of them."""
for _name in (*HALVES, *HALVES_OF_TESTS):
    _register(_name)


def see_channels(encoder: nn.Module, channels: int) -> None:
    """Notes how many channels images have, if not three, where timm says it of the published encoder."""
    known: Any = cast(Any, encoder).pretrained_cfg
    if channels == 3:
        return
    cast(Any, encoder).pretrained_cfg = {**known, "input_size": (channels, *known["input_size"][1:])}


def seen_channels(encoder: nn.Module) -> int:
    """Of the images that an encoder sees, as timm or ``see_channels`` noted it."""
    return (getattr(encoder, "pretrained_cfg", None) or {}).get("input_size", (3,))[0]
