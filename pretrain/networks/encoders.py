"""Encoders: timm's, by name, and the two things that timm's own forward does not give us.

An encoder is a plain timm module without classifier, so its state dict loads into ``timm.create_model`` unchanged
(with the small stem it fits a ``make_encoder`` of the same config only: timm knows no such ResNet). Three kinds of our
own, which timm gets to know by name, stand in ``split_encoder``, ``pixel_transformer`` and ``pixel_cnn``.
"""

import difflib
import inspect
from dataclasses import dataclass, field
from typing import Annotated, Any, cast
from weakref import WeakKeyDictionary

import timm
import torch
from annotated_types import Ge, Lt
from jaxtyping import Float, Int
from timm.layers.format import Format
from timm.layers.patch_embed import PatchEmbed
from timm.models import checkpoint_seq
from torch import Tensor, nn

import eyespot.pretrain.networks.pixel_cnn.gated_pixel_cnn
import eyespot.pretrain.networks.pixel_transformer  # noqa: F401 - timm gets to know the names of both
from eyespot.data_pipeline.augment.views import SAID_IF_SET
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.pretrain.networks.split_encoder import SplitEncoder, see_channels, seen_channels


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
    channels: Annotated[int, Ge(1)] = field(default=3, metadata=SAID_IF_SET)
    """Of the images that it sees: 3 of RGB, or as many as the shards have bands."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self) -> None:
        check_ranges(self, "encoder.")


def make_encoder(config: EncoderConfig, channels: int | None = None) -> nn.Module:
    """A freshly initialised encoder: ``encoder(images)`` gives what timm pools of them.

    Args:
        config: which.
        channels: of what is no image: 1 of depth maps and spectrograms; None = the config's.

    Raises:
        UserError: timm does not know the name, or refuses the sizes.
    """
    channels = channels or config.channels
    if not timm.is_model(config.name):
        close = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        hint = f"; close names: {', '.join(close)}" if close else "; see timm.list_models()"
        raise UserError(f"encoder.name {config.name!r}: timm has no such architecture{hint}")
    if channels != 3 and timm.model_entrypoint(config.name).__module__.startswith("eyespot."):
        raise UserError(f"encoder.name {config.name!r}: sees images of 3 channels only; try resnet18")
    size, patch, known = config.image_size, config.patch_size, timm.get_pretrained_cfg(config.name)
    own_size = int(known.input_size[-1]) if known else 0
    options: dict[str, Any] = {"drop_path_rate": config.drop_path} | ({"in_chans": channels} if channels != 3 else {})
    options |= {"img_size": size} if known is not None and known.fixed_input_size else {}
    if patch is not None:
        options["patch_size"] = patch
        if size % patch:
            raise UserError(f"encoder.patch_size {patch}: does not divide encoder.image_size {size}")
    encoder = _created(config, options, own_size)
    see_channels(encoder, config.channels)
    if config.small_stem:
        _shrink_stem(encoder, config.name)
    if config.checkpointing:
        cast(Any, encoder).set_grad_checkpointing()
    return encoder


def _created(config: EncoderConfig, options: dict[str, Any], own_size: int) -> nn.Module:
    """timm's encoder with those options that its architecture takes; one that would change nothing is left out."""
    neutral = {"drop_path_rate": 0.0, "img_size": own_size, "in_chans": 3, "patch_size": None}
    refused = {
        "in_chans": f"encoder.name {config.name!r}: sees 3 channels only; try resnet18",
        "drop_path_rate": f"encoder.drop_path {config.drop_path}: {config.name} has no branches to drop; leave it out",
        "img_size": f"encoder.image_size {config.image_size}: {config.name} sees images of {own_size} pixels only",
        "patch_size": f"encoder.patch_size {config.patch_size}: {config.name} has no patches; set it to None",
    }
    while True:
        try:
            encoder = timm.create_model(config.name, num_classes=0, **options)
            break
        except TypeError as error:
            said = str(error) if "unexpected keyword argument" in str(error) else ""
            unknown = next((name for name in refused if name in options and f"'{name}'" in said), None)
            if unknown is None:
                raise _refusal(config, options, error) from error
            if options.pop(unknown) != neutral[unknown]:
                raise UserError(refused[unknown]) from error
        except Exception as error:  # whatever a stranger's architecture says to sizes that it was not made for
            raise _refusal(config, options, error) from error
    if config.drop_path and not any(getattr(part, "drop_prob", None) for part in encoder.modules()):
        raise UserError(refused["drop_path_rate"])  # it takes the option and does nothing with it
    return encoder


def _refusal(config: EncoderConfig, options: dict[str, Any], error: Exception) -> UserError:
    reason, given = " ".join(str(error).split())[:200] or type(error).__name__, {k: v for k, v in options.items() if v}
    given["image_size"] = config.image_size
    return UserError(f"encoder {config.name!r} with {given}: timm refuses: {reason}")


def check_patches(encoder: nn.Module, config: EncoderConfig) -> None:
    """Raises a UserError where patches do not fill the image, unless it is of the architecture's own size.

    Else its last rows and columns would be left out without a word.
    """
    own_size = cast(Any, encoder).pretrained_cfg["input_size"][-1]
    size, patches = config.image_size, getattr(encoder, "patch_embed", None)
    patch = getattr(patches, "patch_size", (1,))[0] if isinstance(patches, PatchEmbed) else 1
    if size % patch and size != own_size:
        fits = " or ".join(str(count * patch) for count in (size // patch, size // patch + 1) if count)
        raise UserError(
            f"encoder.image_size {size}: is no multiple of the {patch} pixels of {config.name}'s patches; try {fits}"
        )


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
    """The encoder, if it is a plain vision transformer whose patches fill the image; else a UserError."""
    is_vit = isinstance(encoder, timm.models.VisionTransformer)
    if not is_vit or type(encoder.patch_embed) is not PatchEmbed:
        name = type(encoder.patch_embed if is_vit else encoder).__name__
        raise UserError(f"encoder {name}: {method} needs a plain vision transformer; try vit_base_patch16_224")
    patches = cast(Any, encoder.patch_embed)
    size, patch = patches.img_size, patches.patch_size
    if size is not None and any(side % step for side, step in zip(size, patch, strict=True)):
        said = f"encoder.image_size {size[0]}: is no multiple of the {patch[0]} pixels of its patches"
        raise UserError(f"{said}, and {method} needs all pixels; try {size[0] // patch[0] * patch[0]}")
    return encoder


def vary_sizes(encoder: nn.Module) -> None:
    """Lets an encoder see images of any size, in place; those of its own size give the very same features as before.

    A vision transformer resamples its position embedding (bicubic) to the patches that an image has, which must be
    whole; its parameters and their names stay. Convolutional encoders can do it anyway.

    Raises:
        UserError: it is of another kind, and bound to the size that it was made for.
    """
    patches = getattr(encoder, "patch_embed", None)
    if isinstance(encoder, timm.models.VisionTransformer | timm.models.Eva) and type(patches) is PatchEmbed:
        cast(Any, encoder).dynamic_img_size = True  # what timm's constructor sets for this
        patches.strict_img_size, patches.flatten, patches.output_fmt = False, False, Format.NHWC
        if hasattr(rope := getattr(encoder, "rope", None), "_use_cached_embed"):
            cast(Any, rope)._use_cached_embed = False
    elif cast(Any, encoder).pretrained_cfg.get("fixed_input_size"):
        raise _unfit(encoder, "sees images of one size only, its own")


def encode_visible(
    vit: timm.models.VisionTransformer, images: Float[Tensor, "b c h w"], visible: Int[Tensor, "b v"] | None = None
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


def last_tokens(encoder: nn.Module, images: Float[Tensor, "b c h w"], num_blocks: int = 1) -> list[Tokens]:
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
    encoder: nn.Module, images: Float[Tensor, "b c h w"], num_blocks: int = 1
) -> dict[str, Float[Tensor, "b _"]]:
    """Every kind of features that an encoder has, of whole images, from one forward pass.

    A vision transformer gives "cls", its class token, and "mean", the mean of its patch tokens; an encoder without
    class token gives "mean" only, one that gives a feature map its own pooling under that name. Where timm's own head
    makes something else of the tokens (attention pooling, a norm after the mean), that is "pool". The block before the
    last gives "cls-2" and "mean-2", and so on.

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
    has_tokens = _has_tokens(features)
    kinds = _kinds_of_tokens(encoder, features) if has_tokens else {"mean": pooled(encoder, features)}
    if has_tokens and _pools_itself(encoder, features):
        kinds["pool"] = pooled(encoder, features)
    for place, tokens in enumerate(earlier, start=2):
        if tokens.cls is not None:
            kinds[f"cls-{place}"] = tokens.cls
        kinds[f"mean-{place}"] = tokens.patches.mean((2, 3))
    return kinds


def features(encoder: nn.Module, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
    """What a head gets: the class token, or what timm's own head pools where there is none; ``feature_width`` wide."""
    found = cast(Any, encoder).forward_features(images)
    return found[:, 0] if _has_tokens(found) and _has_class_token(encoder) else pooled(encoder, found)


def mean_features(encoder: nn.Module, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
    """The features "mean" of ``encode``, alone.

    Raises:
        UserError: it hands out no patch tokens.
    """
    found = cast(Any, encoder).forward_features(images)
    kinds = _kinds_of_tokens(encoder, found) if _has_tokens(found) else {"mean": pooled(encoder, found)}
    if "mean" not in kinds:
        raise _unfit(encoder, "its features hold no patch tokens")
    return kinds["mean"]


def feature_width(encoder: nn.Module) -> int:
    """Of ``features``: a head of timm's may widen what the last block gives (MobileNetV3)."""
    known = cast(Any, encoder)
    head_width = getattr(encoder, "head_hidden_size", None) or known.num_features
    if _has_class_token(encoder) or (head_width != known.num_features and _headless(encoder)):
        return known.num_features
    return head_width


def _head_of(encoder: nn.Module, found: Any) -> Any:
    """What timm's head makes of it; None of the image half of a language model, which has none."""
    try:
        return cast(Any, encoder).forward_head(found, pre_logits=True)
    except (NotImplementedError, TypeError) as error:
        if isinstance(error, TypeError) and "'pre_logits'" not in str(error):
            raise
        return None


def _headless(encoder: nn.Module) -> bool:
    try:
        return _head_of(encoder, torch.empty(0)) is None
    except Exception:  # a head, which knows no such features
        return False


def pooled(encoder: nn.Module, found: Any) -> Float[Tensor, "b d"]:
    """What timm's head, which each architecture has of its own, makes of ``forward_features``, before a classifier."""
    rows = _head_of(encoder, found)
    if rows is None:
        if found.ndim == 3:
            return found[:, getattr(encoder, "num_prefix_tokens", 0) :].mean(1)
        return found.mean((1, 2) if found.shape[-1] == cast(Any, encoder).num_features else (2, 3))
    if not isinstance(rows, Tensor):
        raise _unfit(encoder, f"timm gives a {type(rows).__name__} as its features")
    return rows.flatten(1)


def _has_tokens(found: Any) -> bool:
    return isinstance(found, Tensor) and found.ndim == 3


def _kinds_of_tokens(encoder: nn.Module, tokens: Float[Tensor, "b t d"]) -> dict[str, Tensor]:
    kinds = {"cls": tokens[:, 0]} if _has_class_token(encoder) else {}
    num_prefix = getattr(encoder, "num_prefix_tokens", len(kinds))
    if tokens.shape[1] > num_prefix:  # PiT hands out its class token only
        kinds["mean"] = tokens[:, num_prefix:].mean(1)
    return kinds


_OWN_POOLING: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def pools_itself(encoder: nn.Module, image_size: int) -> bool:
    """Whether ``encode`` gives "pool": timm's head makes something of its own of the encoder's tokens."""
    if encoder not in _OWN_POOLING:
        with torch.no_grad():
            blank = next(encoder.parameters()).new_zeros(1, seen_channels(encoder), image_size, image_size)
            _OWN_POOLING[encoder] = "pool" in encode(encoder, blank)
    return _OWN_POOLING[encoder]


def _pools_itself(encoder: nn.Module, tokens: Float[Tensor, "b t d"]) -> bool:
    """Whether timm's head makes something of tokens that is neither class token nor mean, tried once with noise."""
    if encoder not in _OWN_POOLING:
        noise = torch.randn(1, *tokens.shape[1:], generator=torch.Generator().manual_seed(0)).to(tokens)
        with torch.no_grad():
            own = pooled(encoder, noise)
            kinds = _kinds_of_tokens(encoder, noise).values()
        _OWN_POOLING[encoder] = not any(kind.shape == own.shape and kind.allclose(own, atol=1e-4) for kind in kinds)
    return _OWN_POOLING[encoder]
