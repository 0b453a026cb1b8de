"""Parameter groups as MAE's authors make them, and AdamW against its own formula."""

import pytest
import torch
from torch import nn

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.mae import MAE
from eyespot.pretrain.optim import OptimConfig, make_optimizer, parameter_groups


def test_matrices_decay_and_vectors_do_not():
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=16, patch_size=4))
    mae = MAE.Config(decoder_dim=24, decoder_depth=1, decoder_heads=3).build(encoder, 16)
    names = {id(parameter): name for name, parameter in mae.named_parameters()}
    decayed, plain = ({names[id(p)] for p in group["params"]} for group in parameter_groups(mae, 0.05))
    assert {"encoder.cls_token", "mask_token", "encoder.blocks.0.attn.qkv.weight"} <= decayed
    assert {"encoder.blocks.0.attn.qkv.bias", "encoder.norm.weight", "decoder_norm.bias"} <= plain
    assert "encoder.pos_embed" not in decayed | plain  # fixed
    assert len(decayed) + len(plain) == sum(p.requires_grad for p in mae.parameters())


def test_adamw_follows_its_formula():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    weight = layer.weight.detach().double().clone()
    optimizer = make_optimizer(layer, OptimConfig(weight_decay=0.1, betas=(0.9, 0.95)))
    first, second, rate = torch.zeros(2, 3).double(), torch.zeros(2, 3).double(), 1e-2
    for step in range(1, 6):
        gradient = torch.randn(2, 3)
        layer.weight.grad, layer.bias.grad = gradient, torch.zeros(2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        first = 0.9 * first + 0.1 * gradient
        second = 0.95 * second + 0.05 * gradient.double() ** 2
        weight -= rate * 0.1 * weight
        weight -= rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-8)
    assert torch.allclose(layer.weight.detach().double(), weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("changes", [{"lr": 0.0}, {"warmup_steps": -1}, {"clip": 0.0}])
def test_wrong_numbers_name_their_field(changes):
    with pytest.raises(UserError, match=rf"optim\.{next(iter(changes))}"):
        OptimConfig(**changes)
