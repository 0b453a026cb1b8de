"""A vision transformer of some 4,000 parameters, which timm gets to know by name: its checkpoints can lie in git."""

from typing import Any

from timm.models import VisionTransformer, generate_default_cfgs, register_model

default_cfgs = generate_default_cfgs({"small_vit": {"input_size": (3, 16, 16), "fixed_input_size": True}})
"""Where timm looks for what it should know of it."""


@register_model
def small_vit(pretrained: bool = False, **options: Any) -> VisionTransformer:
    """One block of 16 channels."""
    options = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, **options}
    known = {"pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "features_only"}
    vit = VisionTransformer(**{name: value for name, value in options.items() if name not in known})
    vit.pretrained_cfg = default_cfgs["small_vit"].default.to_dict() | {"architecture": "small_vit"}
    return vit
