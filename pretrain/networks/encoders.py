"""Encoders: timm's, by name, and the two things that timm's own forward does not give us.

An encoder is a plain timm module without classifier, so its state dict loads into ``timm.create_model`` unchanged
(with the small stem it fits a ``make_encoder`` of the same config only: timm knows no such ResNet).
Two kinds of our own, which timm gets to know by name, stand in ``split_encoder`` and ``pixel_transformer``.
"""

import difflib
import inspect
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
import timm
import torch
from annotated_types import Ge, Lt
from jaxtyping import Float, Float64, Int
from timm.layers.format import Format
from timm.layers.patch_embed import PatchEmbed
from timm.models import checkpoint_seq
from torch import Tensor, nn

import eyespot.pretrain.networks.pixel_transformer  # noqa: F401 - timm gets to know its names
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.pretrain.networks.split_encoder import SplitEncoder


@dataclass(kw_only=True, slots=True)
class EncoderConfig:
    """Which encoder is trained."""

    name: str = "vit_base_patch16_224"
    """timm's name of the architecture; also ours, split_resnet18 and pixel_transformer_small among them."""
    image_size: Annotated[int, Ge(1)] = 224
    """Height and width of what it sees, pixels."""
    patch_size: Annotated[int, Ge(1)] | None = None
    """Height and width of a patch, pixels; None = what the name says. Vision transformers only."""
    small_stem: bool = False
    """3x3 stem with stride 1 and no max-pool, for images of 32 pixels (SimCLR, appendix B.9). ResNets only."""
    drop_path: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability that a residual branch is dropped, in the last block (rising linearly from 0 in the first)."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self) -> None:
        check_ranges(self, "encoder.")


def make_encoder(config: EncoderConfig) -> nn.Module:
    """A freshly initialised encoder: ``encoder(images)`` gives features (B, encoder.num_features).

    Raises:
        UserError: timm does not know the name, or refuses the sizes.
    """
    if not timm.is_model(config.name):
        close = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        hint = f"; close names: {', '.join(close)}" if close else "; see timm.list_models()"
        raise UserError(f"encoder.name {config.name!r}: timm has no such architecture{hint}")
    sizes: dict[str, Any] = {}
    pretrained_cfg = timm.get_pretrained_cfg(config.name)
    if pretrained_cfg is not None and pretrained_cfg.fixed_input_size:
        sizes["img_size"] = config.image_size
    if config.patch_size is not None:
        sizes["patch_size"] = config.patch_size
        if config.image_size % config.patch_size:
            raise UserError(
                f"encoder.patch_size {config.patch_size}: does not divide encoder.image_size {config.image_size}"
            )
    try:
        encoder = timm.create_model(config.name, num_classes=0, drop_path_rate=config.drop_path, **sizes)
    except (TypeError, AssertionError, ValueError) as error:
        raise UserError(f"encoder {config.name!r} with {sizes}: timm refuses: {error}") from error
    if config.small_stem:
        _shrink_stem(encoder, config.name)
    if config.checkpointing:
        cast(Any, encoder).set_grad_checkpointing()
    return encoder


def _shrink_stem(encoder: nn.Module, name: str) -> None:
    """Lets a ResNet's first stage see the image's own resolution (SimCLR, Chen et al. 2020, appendix B.9).

    A deep stem keeps its 3x3 convolutions and loses the stride; the 7x7 one is made anew, initialised as timm does.
    """
    if isinstance(encoder, SplitEncoder):
        for half in encoder.children():
            _shrink_stem(half, name)
        return
    if not isinstance(encoder, timm.models.ResNet):
        raise UserError(
            f"encoder.small_stem True: {name} has no ResNet's stem to make small; leave it out or try resnet18"
        )
    first = cast(nn.Conv2d, encoder.conv1[0] if isinstance(encoder.conv1, nn.Sequential) else encoder.conv1)
    if first.kernel_size == (3, 3):
        first.stride = (1, 1)
    else:
        encoder.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
    encoder.maxpool = nn.Identity()


def require_vit(encoder: nn.Module, method: str) -> timm.models.VisionTransformer:
    """The encoder, if it is a plain vision transformer.

    Raises:
        UserError: it is something else, and ``method`` needs patches.
    """
    if not isinstance(encoder, timm.models.VisionTransformer):
        raise UserError(
            f"encoder {type(encoder).__name__}: {method} needs a plain vision transformer; try vit_base_patch16_224"
        )
    return encoder


def vary_sizes(encoder: nn.Module) -> None:
    """Lets an encoder see images of any size, in place; those of its own size give the very same features as before.

    A vision transformer resamples its position embedding (bicubic) to the patches that an image has, which must be
    whole; its parameters and their names stay. Convolutional encoders can do it anyway.

    Raises:
        UserError: it is of another kind, and bound to the size that it was made for.
    """
    patches = getattr(encoder, "patch_embed", None)
    if isinstance(encoder, timm.models.VisionTransformer) and type(patches) is PatchEmbed:
        encoder.dynamic_img_size = True  # what timm's constructor sets for this
        patches.strict_img_size, patches.flatten, patches.output_fmt = False, False, Format.NHWC
    elif cast(Any, encoder).pretrained_cfg.get("fixed_input_size"):
        raise _unfit(encoder, "sees images of one size only, its own")


def encode_visible(
    vit: timm.models.VisionTransformer, images: Float[Tensor, "b 3 h w"], visible: Int[Tensor, "b v"] | None = None
) -> Float[Tensor, "b t d"]:
    """Tokens of the visible patches only, after the last norm: the masked ones cost nothing.

    Args:
        vit: a timm vision transformer.
        images: (B, 3, H, W).
        visible: (B, V) patch numbers in row-major order; None = all, which equals ``vit.forward_features``.

    Returns:
        (B, P + V, D): the prefix tokens (class, registers), then the visible patches in the order given.
    """
    tokens = vit._pos_embed(vit.patch_embed(images))
    if visible is not None:
        num_prefix = vit.num_prefix_tokens
        index = (visible + num_prefix)[..., None].expand(-1, -1, tokens.shape[-1])
        tokens = torch.cat([tokens[:, :num_prefix], tokens.gather(1, index)], dim=1)
    tokens = vit.norm_pre(tokens)
    tokens = checkpoint_seq(vit.blocks, tokens) if vit.grad_checkpointing else vit.blocks(tokens)
    return vit.norm(tokens)


@dataclass(kw_only=True, slots=True)
class Tokens:
    """What one block of an encoder says of each image, after the encoder's final norm."""

    cls: Float[Tensor, "b d"] | None
    """The class token; None where the block has none."""
    patches: Float[Tensor, "b d h w"]
    """The patch tokens, each at its place in the image; of a convolutional encoder its feature map."""


def last_tokens(encoder: nn.Module, images: Float[Tensor, "b 3 h w"], num_blocks: int = 1) -> list[Tokens]:
    """The tokens of the last blocks of a timm encoder, those of the last block last.

    The last ones are what ``encoder.forward_features`` gives, bit for bit. Where an architecture is made of stages
    that shrink the image (ResNet, ConvNeXt, Swin), a block here is a stage: width and grid differ between them.

    Args:
        encoder: a timm encoder.
        images: (B, 3, H, W).
        num_blocks: how many; all where the encoder has fewer.

    Raises:
        UserError: timm does not hand out the blocks of this architecture.
    """
    features, blocks = _forward(encoder, images, num_blocks)
    height, width = blocks[-1].patches.shape[2:]
    if features.ndim == 3:
        patches = features[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))
    else:
        patches = features.permute(0, 3, 1, 2) if getattr(encoder, "output_fmt", None) == "NHWC" else features
    cls = features[:, 0] if _has_class_token(encoder) else None
    return [*blocks[:-1], Tokens(cls=cls, patches=patches)]


def _forward(encoder: nn.Module, images: Tensor, num_blocks: int) -> tuple[Tensor, list[Tokens]]:
    """What ``forward_features`` gives, and the last blocks as timm hands them out.

    Of the last block that may be less: a class token may join after it, a norm or a convolution may follow.
    """
    try:
        forward = cast(Any, encoder).forward_intermediates
        wanted: dict[str, Any] = {"indices": min(num_blocks, len(cast(Any, encoder).feature_info)), "norm": True}
        if "return_prefix_tokens" in inspect.signature(forward).parameters:
            wanted["return_prefix_tokens"] = True
        features, blocks = forward(images, **wanted)
        pairs = [block if isinstance(block, tuple) else (block, None) for block in blocks]
        if features.ndim == 3 and features.shape[1] < pairs[-1][0][0, 0].numel():
            raise AssertionError("its features hold no patch tokens")
    except (AttributeError, AssertionError, NameError, RuntimeError) as error:  # timm's refusals are of these kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise _unfit(encoder, f"timm does not hand out its blocks: {reason}") from error
    has_class = _has_class_token(encoder)
    return features, [Tokens(cls=p[:, 0] if has_class and p is not None else None, patches=m) for m, p in pairs]


def _unfit(encoder: nn.Module, reason: str) -> UserError:
    return UserError(f"encoder {type(encoder).__name__}: {reason}; try a ViT or a ResNet")


def _has_class_token(encoder: nn.Module) -> bool:
    return getattr(encoder, "cls_token", None) is not None


def encode(
    encoder: nn.Module, images: Float[Tensor, "b 3 h w"], num_blocks: int = 1
) -> dict[str, Float[Tensor, "b _"]]:
    """Every kind of features that an encoder has, of whole images, from one forward pass.

    A vision transformer gives "cls", its class token, and "mean", the mean of its patch tokens; an encoder without
    class token gives "mean" only, a convolutional one its own pooling under that name. The block before the last gives
    "cls-2" and "mean-2", and so on.

    Args:
        encoder: a timm encoder.
        images: (B, 3, H, W).
        num_blocks: of how many blocks, counted from the last; all where the encoder has fewer.

    Raises:
        UserError: timm does not hand out the features, or the earlier blocks, of this architecture.
    """
    if num_blocks == 1:
        features, earlier = cast(Any, encoder).forward_features(images), []
    else:
        features, blocks = _forward(encoder, images, num_blocks)
        earlier = blocks[-2::-1]
    if not isinstance(features, Tensor):
        raise _unfit(encoder, f"timm gives a {type(features).__name__} as its features")
    kinds = {"cls": features[:, 0]} if _has_class_token(encoder) else {}
    if features.ndim == 3:
        num_prefix = getattr(encoder, "num_prefix_tokens", len(kinds))
        kinds["mean"] = features[:, num_prefix:].mean(1)
    else:  # a feature map; each architecture knows how to pool its own
        kinds["mean"] = cast(Any, encoder).forward_head(features, pre_logits=True).flatten(1)
    for place, tokens in enumerate(earlier, start=2):
        if tokens.cls is not None:
            kinds[f"cls-{place}"] = tokens.cls
        kinds[f"mean-{place}"] = tokens.patches.mean((2, 3))
    return kinds


def features(encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
    """What a head gets: the class token, or the pooled features where there is none; ``encoder.num_features`` wide."""
    return next(iter(encode(encoder, images).values()))


def choose_attention(module: nn.Module, device: torch.device) -> None:
    """Fused attention on a GPU, plain matrix products on a CPU, in every timm block of ``module``.

    On a CPU torch's fused kernel takes longer: benchmarks/mae_step.py shows by how much.
    """
    for block in module.modules():
        if isinstance(getattr(block, "fused_attn", None), bool):
            cast(Any, block).fused_attn = device.type != "cpu"


def fix_positions(vit: timm.models.VisionTransformer, method: str) -> None:
    """Puts the sine-cosine table where the learned position embedding was, and freezes it; prefix tokens have none.

    Raises:
        UserError: the encoder has no absolute position embedding, and ``method`` needs one.
    """
    positions = vit.pos_embed
    if positions is None:
        raise UserError(f"encoder: {method} needs an absolute position embedding, and this encoder has none")
    height, width = vit.patch_embed.grid_size
    with torch.no_grad():
        positions.zero_()
        positions[0, -height * width :] = torch.from_numpy(sincos_positions(positions.shape[-1], height, width))
    positions.requires_grad_(False)


def sincos_positions(dim: int, height: int, width: int) -> Float64[np.ndarray, "n dim"]:
    """Fixed sine-cosine position embedding of a grid of patches, row-major (MAE, He et al. 2021, A.1).

    The first half of the channels encodes the column, the second the row, as in the authors' code; each half is
    sin(p w_i), cos(p w_i) with w_i = 10000^(-i / (dim / 4)) (Vaswani et al. 2017).
    """
    if dim % 4:
        raise UserError(f"position embedding of dim {dim}: must be a multiple of 4")
    frequencies = 10000.0 ** (-np.arange(dim // 4) / (dim / 4))
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    angles = [position[:, None] * frequencies for position in (columns, rows)]
    return np.concatenate([part for angle in angles for part in (np.sin(angle), np.cos(angle))], axis=1)
