"""GatedPixelCNN: an image as numbers that follow each other, each told from those before by masked convolutions.

The network of van den Oord et al. 2016 (arXiv:1606.05328, section 2 and figure 2). A vertical stack v knows all rows
above a pixel, a horizontal one h what is left of it in its own row, and all that v knows; so nothing that came before
is out of sight, as it was where one stack did both. With * masked convolutions and one-by-one ones for U,

    v' = gate(V * v),    h' = h + B * gate(H * h + U V * v),    gate([a, b]) = tanh(a) sigmoid(b).

Features are the mean over pixels of h in the middle of the network: as in iGPT, for the end prepares the prediction.
The encoders are registered with timm, so ``make_encoder`` knows their names; images are normalised by ImageNet's mean
and standard deviation, as the levels of pixels are to be told from their numbers. They may have any size.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from timm.models import checkpoint_seq, generate_default_cfgs, register_model
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import IMAGENET_MEAN, IMAGENET_STD
from eyespot.pretrain.images.lab_color import pixels
from eyespot.pretrain.networks.pixel_cnn.masked_convolution import COLORS, AboveConv, LeftConv

ARCHITECTURES: dict[str, dict[str, int]] = {
    "test_gated_pixel_cnn": {"dim": 24, "depth": 4, "kernel_size": 3},
    "gated_pixel_cnn_tiny": {"dim": 48, "depth": 8, "kernel_size": 3},
    "gated_pixel_cnn": {"dim": 384, "depth": 20, "kernel_size": 5},
}
"""The last is the paper's for ImageNet (section 3.1)."""
FIRST_KERNEL = 7
"""Of the first layer, in ``PixelRNN`` (van den Oord et al. 2016, arXiv:1601.06759, table 1) as here."""
LEVELS = 256
USUAL_SIZE = 32


class GatedLayer(nn.Module):
    """Both stacks by one layer, side by side as channels: v, then h.

    Args:
        dim: channels of each stack; of the first layer's input there are three.
        kernel_size: odd.
        first: it sees the image itself, which has no stacks yet, and nothing to be added to.
    """

    def __init__(self, dim: int, kernel_size: int, *, first: bool = False) -> None:
        super().__init__()
        width, self.first = COLORS if first else dim, first
        self.vertical = AboveConv(width, 2 * dim, kernel_size, first=first)
        self.horizontal = LeftConv(width, 2 * dim, kernel_size, mask="A" if first else "B", parts=2)
        self.downwards = nn.Conv2d(2 * dim, 2 * dim, 1)
        self.added = LeftConv(dim, dim, mask="B")

    def forward(self, stacks: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """(B, 3, H, W) of the first layer, else (B, 2 dim, H, W), in; (B, 2 dim, H, W) out."""
        vertical, horizontal = (stacks, stacks) if self.first else stacks.chunk(2, dim=1)
        above = self.vertical(vertical)
        beside = self.added(_gate(self.horizontal(horizontal) + self.downwards(above)))
        return torch.cat([_gate(above), beside if self.first else horizontal + beside], dim=1)


class GatedPixelCNN(nn.Module):
    """The encoder.

    Args:
        dim: channels of each stack, a multiple of three.
        depth: layers.
        kernel_size: odd; of all but the first layer.
    """

    def __init__(self, *, dim: int, depth: int, kernel_size: int) -> None:
        super().__init__()
        self.num_features, self.middle, self.grad_checkpointing = dim, depth // 2, False
        self.feature_info = [{"num_chs": dim, "reduction": 1}] * self.middle
        self.blocks = nn.ModuleList(
            GatedLayer(dim, kernel_size if place else FIRST_KERNEL, first=not place) for place in range(depth)
        )
        for part in self.modules():  # torch's own beginning lets a gated signal die out within a few layers
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
                nn.init.zeros_(cast(nn.Parameter, part.bias))

    @staticmethod
    def levels(images: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b 3 h w"]:
        """Of each number of normalised images which of 256 it is."""
        return (pixels(images) * (LEVELS - 1)).round().long()

    def last(self, levels: Int[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h w"]:
        """What h is at the end: for each pixel, in three groups, what is known of red, of green and of blue."""
        return self._run(self.scaled(levels), len(self.blocks))

    def scaled(self, levels: Int[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """From -1 to 1, in the network's own type."""
        return levels.to(next(self.parameters()).dtype) / ((LEVELS - 1) / 2) - 1

    def forward_features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h w"]:
        """h in the middle of the network."""
        return self._run(self.scaled(self.levels(images)), self.middle)

    def forward_intermediates(
        self, images: Float[Tensor, "b 3 h w"], indices: int, norm: bool = True
    ) -> tuple[Float[Tensor, "b d h w"], list[Float[Tensor, "b d h w"]]]:
        """h in the middle, and of the last ``indices`` layers up to it."""
        stacks, maps = self.scaled(self.levels(images)), []
        for layer in self.blocks[: self.middle]:
            stacks = layer(stacks)
            maps.append(stacks.chunk(2, dim=1)[1])
        return maps[-1], maps[-indices:]

    def forward_head(self, features: Float[Tensor, "b d h w"], pre_logits: bool = True) -> Float[Tensor, "b d"]:
        """The mean over pixels."""
        return features.mean((2, 3))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of images."""
        return self.forward_head(self.forward_features(images))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass."""
        self.grad_checkpointing = enable

    def _run(self, stacks: Float[Tensor, "b 3 h w"], num_layers: int) -> Float[Tensor, "b d h w"]:
        layers = list(self.blocks[:num_layers])
        if self.grad_checkpointing and torch.is_grad_enabled():
            stacks = checkpoint_seq(layers, stacks)
        else:
            for layer in layers:
                stacks = layer(stacks)
        return stacks.chunk(2, dim=1)[1]


def _gate(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
    signal, share = maps.chunk(2, dim=1)
    return signal.tanh() * share.sigmoid()


def _register(name: str) -> None:
    def make(pretrained: bool = False, drop_path_rate: float = 0.0, **rest: Any) -> GatedPixelCNN:
        if pretrained:
            raise RuntimeError(f"{name} has no published weights")
        if "patch_size" in rest:
            raise TypeError("a PixelCNN has no patches: leave encoder.patch_size out")
        encoder = GatedPixelCNN(**ARCHITECTURES[name])
        cast(Any, encoder).pretrained_cfg = default_cfgs[name].default.to_dict() | {"architecture": name}
        return encoder

    make.__name__ = name
    register_model(make)


default_cfgs = generate_default_cfgs(
    {
        name: {"input_size": (3, USUAL_SIZE, USUAL_SIZE), "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        for name in ARCHITECTURES
    }
)
"""Where timm looks for what it should know of them."""
for _name in ARCHITECTURES:
    _register(_name)
