from typing import Any

import pytest
import timm
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.report.attention import class_attention


@pytest.mark.parametrize("registers", [0, 4])
def test_it_is_the_softmax_of_queries_and_keys(registers):
    torch.manual_seed(0)
    vit: Any = timm.create_model("test_vit", num_classes=0, img_size=32, patch_size=8, reg_tokens=registers).double()
    vit.eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    inputs: list[torch.Tensor] = []
    attention = vit.blocks[-1].attn
    attention.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    found = class_attention(vit, images)
    heads, dim = attention.num_heads, attention.head_dim
    queries, keys, _ = attention.qkv(inputs[0]).split(heads * dim, dim=2)
    for image in range(2):
        for head in range(heads):
            part = slice(head * dim, (head + 1) * dim)
            weights = (keys[image, :, part] @ queries[image, 0, part] / dim**0.5).softmax(0)
            torch.testing.assert_close(found[image, head].flatten(), weights[1 + registers :])
    assert found.shape == (2, heads, 4, 4)


def test_the_encoder_stays_as_it_was():
    vit: Any = timm.create_model("test_vit", num_classes=0, img_size=32, patch_size=8).eval()
    for fused in (True, False):
        vit.blocks[-1].attn.fused_attn = fused
        class_attention(vit, torch.zeros(1, 3, 32, 32))
        assert vit.blocks[-1].attn.fused_attn == fused
    assert not vit.blocks[-1].attn.attn_drop._forward_pre_hooks


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet10t", {}, "no class token"),
        ("test_vit", {"class_token": False, "global_pool": "avg"}, "no class token"),
    ],
)
def test_an_encoder_without_class_token_has_none(name, options, message):
    encoder = timm.create_model(name, num_classes=0, **options).eval()
    with pytest.raises(UserError, match=message):
        class_attention(encoder, torch.zeros(1, 3, 160, 160))
