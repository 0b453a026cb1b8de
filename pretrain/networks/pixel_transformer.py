"""PixelTransformer: an image as a sentence of colours, read from left to right and from top to bottom.

iGPT's network (Chen et al. 2020, section 2.2 and 3): each pixel is the nearest of 512 colours, the image is made small
before, and a causal transformer with norms before its parts says at each pixel what it makes of all those before:

    h_0 = [start, embed(c_1), ..., embed(c_n-1)] + positions,
    h_l+1 = g + mlp(norm(g)),  g = h_l + attention(norm(h_l)).

Its features are the mean over pixels of norm(h_l) for the middle l: from there on the network prepares its prediction
of the next colour. They are registered with timm, so ``make_encoder`` knows their names; images are normalised by
ImageNet's mean and standard deviation, as the colours of pixels are to be told from their numbers.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.layers.drop import DropPath
from timm.models import checkpoint_seq, generate_default_cfgs, register_model
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import IMAGENET_MEAN, IMAGENET_STD
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.images.color_palette import PALETTE
from eyespot.pretrain.images.lab_color import pixels

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "test_pixel_transformer": {"dim": 32, "depth": 2, "num_heads": 2},
    "pixel_transformer_tiny": {"dim": 96, "depth": 6, "num_heads": 3},
    "pixel_transformer_small": {"dim": 512, "depth": 24, "num_heads": 8},
    "pixel_transformer_medium": {"dim": 1024, "depth": 36, "num_heads": 8},
    "pixel_transformer_large": {"dim": 1536, "depth": 48, "num_heads": 16},
}
"""Small, medium and large are iGPT-S, -M and -L (table 1 of the paper's appendix)."""
CONTEXT_SIDE = 32
"""Height and width of the small image, pixels, where the patch size says nothing else."""
_PIXELS_AT_ONCE = 32768


class Past:
    """Keys and values of the pixels that a block has seen."""

    def __init__(self) -> None:
        self.pairs: tuple[Tensor, Tensor] | None = None

    def grown(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All of them, with these at the end."""
        if self.pairs is not None:
            keys, values = (torch.cat(pair, dim=2) for pair in zip(self.pairs, (keys, values), strict=True))
        self.pairs = keys, values
        return self.pairs


class CausalBlock(nn.Module):
    """Attention to the pixels up to one's own, then a multi-layer perceptron, each after a norm and added on top."""

    def __init__(self, dim: int, num_heads: int, drop_path: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = (nn.LayerNorm(dim) for _ in range(2))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop_path = DropPath(drop_path)

    def forward(
        self, tokens: Float[Tensor, "b n d"], past: Past | None = None, *, only_norm: bool = False
    ) -> Float[Tensor, "b n d"]:
        """The tokens after this block.

        Args:
            tokens: of all pixels; with ``past``, of those that it does not hold: all at first, one at a time later.
            past: what earlier calls left; grows.
            only_norm: no more than what the attention would see. (A block's parts cannot be called from outside
                where an engine has cut up its parameters.)
        """
        normed = self.norm1(tokens)
        if only_norm:
            return normed
        q, k, v = self.qkv(normed).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        k, v = (k, v) if past is None else past.grown(k, v)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
        tokens = tokens + self.drop_path(self.proj(seen.transpose(1, 2).flatten(2)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class PixelTransformer(nn.Module):
    """The encoder.

    Args:
        dim: channels of a token.
        depth: blocks.
        num_heads: of each block's attention.
        img_size: height and width of the images, pixels.
        patch_size: height and width of the squares that become one pixel each, their mean colour; None = as many as
            leave ``CONTEXT_SIDE`` in a row.
        drop_path_rate: probability that a residual branch is dropped, in the last block.
        palette: the colours, sRGB, 0..1.

    Raises:
        ValueError: the sizes do not fit.
    """

    palette: Float[Tensor, "k 3"]

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        num_heads: int,
        img_size: int = CONTEXT_SIDE,
        patch_size: int | None = None,
        drop_path_rate: float = 0.0,
        palette: Float[Tensor, "k 3"] | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size or max(1, img_size // CONTEXT_SIDE)
        if img_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide img_size {img_size}")
        self.side = img_size // self.patch_size
        self.num_features, self.middle, self.grad_checkpointing = dim, depth // 2, False
        self.feature_info = [{"num_chs": dim, "reduction": self.patch_size}] * self.middle
        colors = torch.frombuffer(bytearray(PALETTE), dtype=torch.uint8).view(-1, 3) / 255
        self.register_buffer("palette", colors if palette is None else palette)
        self.embed = nn.Embedding(len(self.palette), dim)
        self.start = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.positions = nn.Parameter(0.01 * torch.randn(1, self.side**2, dim))
        rates = [drop_path_rate * place / max(1, depth - 1) for place in range(depth)]
        self.blocks = nn.ModuleList(CausalBlock(dim, num_heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim)
        self._initialise()

    def _initialise(self) -> None:
        """As GPT-2: N(0, 0.02); less for what is added to the residual stream, the more is added."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                added = name.endswith((".proj", ".mlp.2"))
                nn.init.normal_(module.weight, std=0.02 / (2 * len(self.blocks)) ** 0.5 if added else 0.02)
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.bias)

    @torch.no_grad()
    def colors(self, images: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """The number of the palette's nearest colour at each pixel of the images made small, row by row.

        Raises:
            UserError: the images are not as large as the encoder was made for.
        """
        small = F.avg_pool2d(pixels(images), self.patch_size)
        if small.shape[2:] != (self.side, self.side):
            raise UserError(
                f"encoder.image_size {self.side * self.patch_size}: a pixel transformer sees images of this size only,"
                f" not {images.shape[2]} x {images.shape[3]}"
            )
        rows, palette = small.permute(0, 2, 3, 1).reshape(-1, 3), self.palette.to(small.dtype)
        exact = "donot_use_mm_for_euclid_dist"
        near = [torch.cdist(part, palette, compute_mode=exact).argmin(1) for part in rows.split(_PIXELS_AT_ONCE)]
        return torch.cat(near).view(len(images), -1)

    def painted(self, colors: Int[Tensor, "b n"]) -> Float[Tensor, "b 3 h w"]:
        """sRGB values in 0..1 of images with these colours, as large as those that the encoder sees."""
        small = self.palette[colors].transpose(1, 2).unflatten(2, (self.side, self.side))
        return small.repeat_interleave(self.patch_size, 2).repeat_interleave(self.patch_size, 3)

    def last(self, colors: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """What the last block makes, for each pixel, of the colours before it."""
        return self.norm(self._run(self._beginning(colors), len(self.blocks)))

    def following(self, colors: Int[Tensor, "b m"], pasts: list[Past]) -> Float[Tensor, "b d"]:
        """The same for the pixel that follows the given ones, the last of which is new to ``pasts``."""
        place = colors.shape[1]
        tokens = torch.cat([self.start.expand(len(colors), -1, -1), self.embed(colors)], dim=1)
        tokens = tokens + self.positions[:, : place + 1]
        tokens = tokens if pasts[0].pairs is None else tokens[:, -1:]
        for block, past in zip(self.blocks, pasts, strict=True):
            tokens = block(tokens, past)
        return self.norm(tokens[:, -1])

    def forward_features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """norm(h_l) of the middle block, for each pixel."""
        tokens = self._run(self._beginning(self.colors(images)), self.middle)
        return self.blocks[self.middle](tokens, only_norm=True)

    def forward_intermediates(
        self, images: Float[Tensor, "b 3 h w"], indices: int, norm: bool = True
    ) -> tuple[Float[Tensor, "b n d"], list[Float[Tensor, "b d side side"]]]:
        """norm(h_l) of the middle block, and as maps of the last ``indices`` blocks up to it."""
        tokens, maps = self._beginning(self.colors(images)), []
        normed = tokens
        for place in range(1, self.middle + 1):
            tokens = self.blocks[place - 1](tokens)
            if place > self.middle - indices:
                normed = self.blocks[place](tokens, only_norm=True)
                maps.append(normed.transpose(1, 2).unflatten(2, (self.side, self.side)))
        return normed, maps

    def forward_head(self, features: Float[Tensor, "b n d"], pre_logits: bool = True) -> Float[Tensor, "b d"]:
        """The mean over pixels."""
        return features.mean(1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of images."""
        return self.forward_head(self.forward_features(images))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass."""
        self.grad_checkpointing = enable

    def _beginning(self, colors: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """h_0: the last colour is never read, only said."""
        return torch.cat([self.start.expand(len(colors), -1, -1), self.embed(colors[:, :-1])], dim=1) + self.positions

    def _run(self, tokens: Float[Tensor, "b n d"], num_blocks: int) -> Float[Tensor, "b n d"]:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint_seq(list(self.blocks[:num_blocks]), tokens)
        for block in self.blocks[:num_blocks]:
            tokens = block(tokens)
        return tokens


def _register(name: str) -> None:
    def make(
        pretrained: bool = False, img_size: int = CONTEXT_SIDE, patch_size: int | None = None, **rest: Any
    ) -> PixelTransformer:
        if pretrained:
            raise RuntimeError(f"{name} has no published weights")
        rate = rest.get("drop_path_rate", 0.0)
        encoder = PixelTransformer(**ARCHITECTURES[name], img_size=img_size, patch_size=patch_size, drop_path_rate=rate)
        cast(Any, encoder).pretrained_cfg = default_cfgs[name].default.to_dict() | {"architecture": name}
        return encoder

    make.__name__ = name
    register_model(make)


default_cfgs = generate_default_cfgs(
    {
        name: {
            "input_size": (3, CONTEXT_SIDE, CONTEXT_SIDE),
            "fixed_input_size": True,
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
        }
        for name in ARCHITECTURES
    }
)
"""Where timm looks for what it should know of them."""
for _name in ARCHITECTURES:
    _register(_name)
