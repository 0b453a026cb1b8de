"""Names and settings of encoders as transformers has them: every tensor is there once, and no other."""

import pytest
import timm
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release.transformers_layout.conversion import converted


def test_a_vision_transformer():
    encoder = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=2)
    found = converted(encoder)
    assert found.kind == "vit" and found.settings["num_hidden_layers"] == 2 and found.settings["image_size"] == 32
    tensors = found.tensors
    whole = torch.cat([tensors[f"layers.1.attention.{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(whole, encoder.blocks[1].attn.qkv.weight)
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler")}
    assert sum(tensor.numel() for tensor in own.values()) == sum(p.numel() for p in encoder.parameters())
    assert torch.equal(tensors["pooler.dense.weight"], torch.eye(192))


def test_a_resnet():
    encoder = timm.create_model("resnet18", num_classes=0)
    found = converted(encoder)
    assert found.settings["hidden_sizes"] == [64, 128, 256, 512] and found.settings["layer_type"] == "basic"
    assert len(found.tensors) == len(encoder.state_dict())
    assert found.tensors["encoder.stages.1.layers.0.shortcut.convolution.weight"] is not None


@pytest.mark.parametrize("name", ["convnext_atto", "vit_small_patch14_reg4_dinov2", "resnet18d", "seresnet18"])
def test_others(name: str):
    with torch.device("meta"):
        encoder = timm.create_model(name, num_classes=0)
    with pytest.raises(UserError, match="has no class"):
        converted(encoder)
