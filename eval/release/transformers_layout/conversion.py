"""Which class of transformers an encoder of timm is, with which settings, and how its tensors are called there."""

import re
from dataclasses import dataclass
from typing import Any, cast

import timm
import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError

_VIT = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "norm": "layernorm",
}


@dataclass(kw_only=True, slots=True, frozen=True)
class Conversion:
    """Of one encoder."""

    kind: str
    """The class's name in short, as AutoModel knows it: "vit"."""
    settings: dict[str, Any]
    """Of its config."""
    tensors: dict[str, Tensor]
    """By the class's own names."""
    pooled: str
    """What its ``pooler_output`` is, in words."""


def converted(encoder: Any) -> Conversion:
    """The encoder as transformers has it.

    Args:
        encoder: of timm, without classifier.

    Raises:
        UserError: transformers has no class that computes the same.
    """
    found: Conversion | None = None
    if type(encoder) is timm.models.VisionTransformer:
        found = _vision_transformer(encoder)
    elif type(encoder) is timm.models.ResNet:
        found = _resnet(encoder)
    if found is None:
        name = cast(Any, encoder.pretrained_cfg)["architecture"]
        raise UserError(
            f"--transformers: it has no class that computes what timm's {name} does, but those of plain vision"
            " transformers with a class token and of plain ResNets; leave it out: AutoModel loads the release by timm"
        )
    return found


def _vision_transformer(encoder: Any) -> Conversion | None:
    blocks, tensors = encoder.blocks, dict[str, Tensor]()
    first = blocks[0]
    plain = (
        type(encoder.patch_embed) is PatchEmbed,
        encoder.num_prefix_tokens == 1 and not encoder.no_embed_class,
        isinstance(first.mlp.act, nn.GELU) and first.mlp.act.approximate == "none",
        isinstance(encoder.norm, nn.LayerNorm),
        first.attn.qkv.bias is not None,
        encoder.global_pool == "token",
    )
    if not all(plain):
        return None
    for name, tensor in encoder.state_dict().items():
        block, inner = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)", name).groups()  # type: ignore[union-attr]
        before = f"layers.{block}." if block is not None else ""
        stem, _, last = inner.rpartition(".")
        if stem == "attn.qkv":
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                tensors[f"{before}attention.{part}_proj.{last}"] = third.clone()
        elif inner in _VIT:
            tensors[_VIT[inner]] = tensor
        elif stem in _VIT:
            tensors[f"{before}{_VIT[stem]}.{last}"] = tensor
        else:
            return None
    dim = encoder.embed_dim
    tensors |= {"pooler.dense.weight": torch.eye(dim), "pooler.dense.bias": torch.zeros(dim)}
    settings = {
        "hidden_size": dim,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": first.attn.num_heads,
        "intermediate_size": first.mlp.fc1.out_features,
        "hidden_act": "gelu",
        "layer_norm_eps": encoder.norm.eps,
        "image_size": encoder.patch_embed.img_size[0],
        "patch_size": encoder.patch_embed.patch_size[0],
        "pooler_act": "linear",
    }
    pooled = "the class token: its pooler is the identity"
    return Conversion(kind="vit", settings=settings, tensors=tensors, pooled=pooled)


def _resnet(encoder: Any) -> Conversion | None:
    stages = [encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4]
    block, tensors = type(stages[0][0]), dict[str, Tensor]()
    if block not in (BasicBlock, Bottleneck) or not isinstance(encoder.conv1, nn.Conv2d):
        return None
    if encoder.conv1.kernel_size != (7, 7) or not isinstance(encoder.maxpool, nn.MaxPool2d):
        return None
    parts = {"conv": "convolution", "bn": "normalization"}
    for name, tensor in encoder.state_dict().items():
        if found := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
            tensors[f"embedder.embedder.{parts[found[1]]}.{found[2]}"] = tensor
        elif found := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)", name):
            stage, place, part, number, last = found.groups()
            where = f"encoder.stages.{int(stage) - 1}.layers.{place}.layer.{int(number) - 1}"
            tensors[f"{where}.{parts[part]}.{last}"] = tensor
        elif found := re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.([01])\.(\w+)", name):
            stage, place, number, last = found.groups()
            where = f"encoder.stages.{int(stage) - 1}.layers.{place}.shortcut"
            tensors[f"{where}.{'convolution' if number == '0' else 'normalization'}.{last}"] = tensor
        else:
            return None
    last_norm = "bn3" if block is Bottleneck else "bn2"
    settings = {
        "embedding_size": encoder.conv1.out_channels,
        "hidden_sizes": [getattr(stage[-1], last_norm).num_features for stage in stages],
        "depths": [len(stage) for stage in stages],
        "layer_type": "bottleneck" if block is Bottleneck else "basic",
    }
    pooled = "the average over the image, with two axes of length 1 behind"
    return Conversion(kind="resnet", settings=settings, tensors=tensors, pooled=pooled)
