"""Names that model libraries give to encoders' tensors, brought to those of the encoders' authors or of timm.

Hubs hold most published encoders as transformers saves them: DINOv2, DINOv3, MAE, I-JEPA, CLIP, SigLIP, ViT, DeiT,
ResNet, ConvNeXt. There a block's queries, keys and values are three layers, and names differ from class to class and
from release to release. torchvision has its own for vision transformers. What the authors named otherwise than timm is
left to timm's reader of their files (``foreign_names``).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> _Rules:
    return tuple((re.compile(pattern), name) for pattern, name in pairs)


_VIT = _rules(
    (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings?(\.weight)?$", "pos_embed"),
    (r"^embeddings\.patch_embeddings?\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.(mask_token|register_tokens)$", r"\1"),
    (r"^(encoder\.|model\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"^(blocks\.\d+)\.(layernorm_before|layer_norm1)\.", r"\1.norm1."),
    (r"^(blocks\.\d+)\.(layernorm_after|layer_norm2)\.", r"\1.norm2."),
    (r"^(blocks\.\d+)\.attention\.attention\.([qkv])(uery|ey|alue)\.", r"\1.attn.\2."),
    (r"^(blocks\.\d+)\.(attention|self_attn)\.([qkv])_proj\.", r"\1.attn.\3."),
    (r"^(blocks\.\d+)\.(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^(blocks\.\d+)\.mlp\.weights_in\.", r"\1.mlp.w12."),
    (r"^(blocks\.\d+)\.mlp\.weights_out\.", r"\1.mlp.w3."),
    (r"^(blocks\.\d+)\.layer_scale([12])\.lambda1$", r"\1.ls\2.gamma"),
    (r"^(layernorm|post_layernorm)\.", "norm."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.attention\.in_proj_(weight|bias)$", r"attn_pool.in_proj.\1"),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.fc([12])\.", r"attn_pool.mlp.fc\1."),
)
_RESNET = _rules(
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^(encoder\.stages\.\d+\.layers\.\d+)\.shortcut\.convolution\.", r"\1.downsample.0."),
    (r"^(encoder\.stages\.\d+\.layers\.\d+)\.shortcut\.normalization\.", r"\1.downsample.1."),
)
_CONVNEXT = _rules(
    (r"^embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
    (r"^embeddings\.layernorm\.", "downsample_layers.0.1."),
    (r"^(encoder\.|model\.)?stages\.(\d+)\.downsampl(ing_layer|e_layers)\.(\d+)\.", r"downsample_layers.\2.\4."),
    (r"^(encoder\.|model\.)?stages\.(\d+)\.layers\.(\d+)\.", r"stages.\2.\3."),
    (r"^(stages\.\d+\.\d+)\.layer_?norm\.", r"\1.norm."),
    (r"^(stages\.\d+\.\d+)\.layer_scale_parameter$", r"\1.gamma"),
    (r"^(stages\.\d+\.\d+)\.depthwise_conv\.", r"\1.dwconv."),
    (r"^(stages\.\d+\.\d+)\.pointwise_conv([12])\.", r"\1.pwconv\2."),
    (r"^(stages\.\d+\.\d+)\.grn\.weight$", r"\1.grn.gamma"),
    (r"^(stages\.\d+\.\d+)\.grn\.bias$", r"\1.grn.beta"),
    (r"^layer_?norm\.", "norm."),
)
_TORCHVISION = _rules(
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
    (r"^(blocks\.\d+)\.self_attention\.in_proj_(weight|bias)$", r"\1.attn.qkv.\2"),
    (r"^(blocks\.\d+)\.self_attention\.out_proj\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.mlp\.(linear_1|0)\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.mlp\.(linear_2|3)\.", r"\1.mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
)
_MARKS: tuple[tuple[str, str, _Rules], ...] = (
    ("embedder.embedder.convolution.weight", "embedder.embedder.normalization.weight", _RESNET),
    ("stages.0.downsample_layers.0.weight", "stages.0.downsample_layers.1.weight", _CONVNEXT),
    ("embeddings.patch_embeddings.weight", "embeddings.layernorm.weight", _CONVNEXT),
    ("embeddings.patch_embeddings.projection.weight", "embeddings.position_embeddings", _VIT),
    ("embeddings.patch_embeddings.weight", "embeddings.register_tokens", _VIT),
    ("embeddings.patch_embedding.weight", "embeddings.position_embedding.weight", _VIT),
    ("conv_proj.weight", "class_token", _TORCHVISION),
)
"""Two tensors that tell a layout, and the rules of the names behind the same prefix."""
_MOST_ENCODERS = 16
"""Of one layout in one file."""
_AUTHORS = ("blocks.", "attn_pool.", "storage_tokens", "downsample_layers.", "layer1.")
"""How names begin that are of the authors, or timm's, already."""
_UNKNOWN = re.compile(r"^embeddings\.(?!position_ids$)")
_OF_RESNET = re.compile(
    r"^encoder\.stages\.(\d{1,4})\.layers\.(\d{1,4})\.(?:layer\.(\d{1,4})\.(convolution|normalization)\.)?"
)
_QUERY = re.compile(r"^(blocks\.\d+\.attn)\.q\.weight$")
_KEY_BIAS = re.compile(r"^blocks\.\d+\.attn\.k\.bias$")
_GATED = re.compile(r"^(blocks\.\d+\.mlp)\.(gate|up|down)_proj\.")


def authors_names(held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, those of encoders that a library named under their authors' or timm's names.

    Args:
        held: all that the file holds; what stands before an encoder's names stays before them.
    """
    found = dict(held)
    for mark, beside, rules in _MARKS:
        roots = [name.removesuffix(mark) for name in found if f".{name}".endswith(f".{mark}")]
        for root in roots if len(roots) <= _MOST_ENCODERS else ():
            if root + beside in found and found[root + mark].ndim == 4:  # SigLIP 2 has patches in another order, in 2
                found = _renamed(found, root, rules)
    return found


def _renamed(held: Mapping[str, Tensor], root: str, rules: _Rules) -> dict[str, Tensor]:
    """Those behind the prefix by the rules, each one after the other.

    All stay as they were where names of both kinds stand side by side, and where the encoder adds up more than the
    rules know: kinds of tokens, say, of ViLT and YOLOS.
    """
    names = [name for name in held if name.startswith(root)]
    inner = {name: _one(name[len(root) :], rules) for name in names}
    mixed = any(name.startswith(_AUTHORS, len(root)) for name in names) or len(set(inner.values())) < len(inner)
    if mixed or any(_UNKNOWN.match(new) for new in inner.values()):
        return dict(held)
    tensors = {new: held[name] for name, new in inner.items()}
    if rules is _VIT:
        _join(tensors)
        _shape(tensors)
    outside = {name: tensor for name, tensor in held.items() if name not in inner}
    return {**outside, **{root + name: tensor for name, tensor in tensors.items()}}


def _one(name: str, rules: _Rules) -> str:
    for pattern, new in rules:
        name = pattern.sub(new, name)
    if rules is not _RESNET or (place := _OF_RESNET.match(name)) is None:
        return name
    stage, block, layer, kind = place.groups()
    before = f"layer{int(stage) + 1}.{block}."
    part = "" if layer is None else f"{'conv' if kind == 'convolution' else 'bn'}{int(layer) + 1}."
    return before + part + name[place.end() :]


def _join(tensors: dict[str, Tensor]) -> None:
    """Queries, keys and values of a block to one layer; where no block's keys have a bias, as in DINOv3, it is zeros.

    What does not fit together is left.
    """
    without = not any(_KEY_BIAS.match(name) for name in tensors)
    for stem in [found[1] for name in tensors if (found := _QUERY.match(name)) is not None]:
        for last in ("weight", "bias"):
            names = [f"{stem}.{part}.{last}" for part in "qkv"]
            if last == "bias" and without and names[0] in tensors:
                tensors[names[1]] = torch.zeros_like(tensors[names[0]])
            parts = [tensors[name] for name in names if name in tensors]
            alike = len(parts) == 3 and len({(part.shape, part.dtype) for part in parts}) == 1 and parts[0].ndim > 0
            if alike and all(part.nbytes <= part.untyped_storage().nbytes() for part in parts):  # no number repeated
                tensors[f"{stem}.qkv.{last}"] = torch.cat(parts)
                for name in names:
                    del tensors[name]


def _shape(tensors: dict[str, Tensor]) -> None:
    """What classes have in other pieces or with other axes: gated layers, registers, positions, a pooling head."""
    gated = any(".mlp.gate_proj." in name for name in tensors)
    numbers = {"gate": "w1", "up": "w2" if gated else "fc1", "down": "w3" if gated else "fc2"}
    for name in [name for name in tensors if _GATED.match(name)]:
        tensors[_GATED.sub(lambda found: f"{found[1]}.{numbers[found[2]]}.", name)] = tensors.pop(name)
    if "register_tokens" in tensors and "pos_embed" not in tensors:  # timm knows DINOv3 by its authors' name of them
        tensors["storage_tokens"] = tensors.pop("register_tokens")
    for name, ndim in (("cls_token", 1), ("pos_embed", 2)):
        if name in tensors and tensors[name].ndim == ndim:
            tensors[name] = tensors[name][(None,) * (3 - ndim)]
    for last in ("weight", "bias"):
        whole = tensors.get(f"attn_pool.in_proj.{last}")
        if whole is not None and whole.ndim and len(whole) % 3 == 0:
            del tensors[f"attn_pool.in_proj.{last}"]
            third = len(whole) // 3
            tensors[f"attn_pool.q.{last}"], tensors[f"attn_pool.kv.{last}"] = whole[:third], whole[third:]
