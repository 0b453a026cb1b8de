"""Parameter groups as MAE's authors make them; AdamW and SGD against their formulas; what an engine may rely on."""

import math

import pytest
import torch
from torch import nn

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.classify import Classify
from eyespot.pretrain.objectives.dino import DINO
from eyespot.pretrain.objectives.mae import MAE
from eyespot.pretrain.optim.optimizers import OptimConfig, layers, make_optimizer, parameter_groups, set_rate


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


def test_adamw_is_torchs_fused_one():
    (optimizer,) = [make_optimizer(nn.Linear(3, 2), OptimConfig())]
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["fused"]


@pytest.mark.parametrize("decay_vectors", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_follows_its_formula(momentum, decay_vectors):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    config = OptimConfig(name="sgd", weight_decay=0.1, momentum=momentum, decay_vectors=decay_vectors)
    optimizer = make_optimizer(layer, config)
    slow = [(p.detach().double().clone(), torch.zeros_like(p).double()) for p in layer.parameters()]
    for rate in (0.1, 0.3, 0.0, 0.2):
        for number, parameter in enumerate(layer.parameters()):
            parameter.grad = torch.randn_like(parameter)
            weight, buffer = slow[number]
            decay = 0.1 if parameter.ndim > 1 or decay_vectors else 0.0
            buffer = momentum * buffer + parameter.grad.double() + decay * weight
            slow[number] = weight - rate * buffer, buffer
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    for parameter, (weight, _) in zip(layer.parameters(), slow, strict=True):
        assert torch.allclose(parameter.detach().double(), weight, rtol=1e-5, atol=1e-6)


def test_lars_trusts_matrices_only():
    groups = make_optimizer(nn.Linear(3, 2), OptimConfig(name="lars", trust=0.02, weight_decay=1e-6)).param_groups
    assert [(group["trust"], group["weight_decay"]) for group in groups] == [(0.02, 1e-6), (None, 0.0)]


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_slots_made_by_a_void_step_and_zeroed_are_a_fresh_start(name):
    """What engines do so that a checkpoint finds its slots: a step at rate 0 without gradient, then all slots to 0."""

    def run(void_step: bool) -> tuple[nn.Module, list[str]]:
        torch.manual_seed(0)
        layer = nn.Linear(5, 4)
        optimizer = make_optimizer(layer, OptimConfig(name=name, weight_decay=0.1))
        if void_step:
            before = [p.detach().clone() for p in layer.parameters()]
            take(optimizer, layer, rate=0.0, scale=0.0)
            assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), before, strict=True))
            for state in optimizer.state.values():
                for slot in state.values():
                    slot.zero_()
        for rate in (0.1, 0.2, 0.05):
            take(optimizer, layer, rate=rate, scale=1.0)
        return layer, sorted(optimizer.state[layer.weight])

    (fresh, slots), (prepared, same_slots) = run(False), run(True)
    assert slots == same_slots == (["exp_avg", "exp_avg_sq", "step"] if name == "adamw" else ["momentum_buffer"])
    for ours, theirs in zip(prepared.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def take(optimizer: torch.optim.Optimizer, layer: nn.Module, *, rate: float, scale: float) -> None:
    torch.manual_seed(round(1000 * rate))
    for parameter in layer.parameters():
        parameter.grad = scale * torch.randn_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224"])
def test_layer_decay_scales_as_maes_code_does(name):
    """Written out by names: patches, class token and positions are layer 0, block i is i + 1, all else is the last."""
    encoder = make_encoder(EncoderConfig(name=name, image_size=16, patch_size=4))
    classifier = Classify.Config(num_classes=3, head="attentive").build(encoder, 16)
    depth, expected = len(encoder.blocks), {}
    for parameter_name, parameter in classifier.named_parameters():
        parts, layer = parameter_name.split("."), depth + 1
        if parts[0] == "encoder" and parts[1] in ("cls_token", "pos_embed", "reg_token", "patch_embed"):
            layer = 0
        elif parts[:2] == ["encoder", "blocks"]:
            layer = int(parts[2]) + 1
        expected[parameter_name] = (0.65 ** (depth + 1 - layer), 0.05 if parameter.ndim > 1 else 0.0)
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    optimizer = make_optimizer(classifier, OptimConfig(layer_decay=0.65, weight_decay=0.05))
    set_rate(optimizer, 2.0)
    found = {
        names[id(parameter)]: (group["lr"] / 2, group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found.keys() == expected.keys()
    assert all(found[name] == pytest.approx(expected[name]) for name in expected)


def test_layers_of_a_convolutional_encoder_rise_from_stem_to_head():
    encoder = make_encoder(EncoderConfig(name="resnet18"))
    classifier = Classify.Config(num_classes=3).build(encoder, 224)
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    found = [{names[id(parameter)] for parameter in layer} for layer in layers(classifier)]
    assert found[0] == {"encoder.conv1.weight", "encoder.bn1.weight", "encoder.bn1.bias"}
    assert [sorted({name.split(".")[1:3][0] for name in layer}) for layer in found[1:-1]] == [
        [f"layer{stage}"] for stage in (1, 1, 2, 2, 3, 3, 4, 4)
    ]
    assert found[-1] == {"head.weight", "head.bias"}


def test_nesterov_is_torchs():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 4), nn.Linear(5, 4)
    theirs.load_state_dict(ours.state_dict())
    optimizer = make_optimizer(ours, OptimConfig(name="sgd", nesterov=True, weight_decay=0.1, decay_vectors=True))
    reference = torch.optim.SGD(theirs.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1, nesterov=True)
    for rate in (0.1, 0.3, 0.2):
        take(optimizer, ours, rate=rate, scale=1.0)
        take(reference, theirs, rate=rate, scale=1.0)
    assert all(torch.allclose(p, q, rtol=1e-6) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 0.0},
        {"trust": 0.0},
        {"min_lr": -1.0},
        {"warmup_steps": -1},
        {"weight_decay": -0.1},
        {"momentum": 1.0},
        {"clip": 0.0},
        {"decay_vectors": True, "name": "lars"},
        {"layer_decay": 0.0},
        {"layer_decay": 1.1},
        {"nesterov": True},
        {"nesterov": True, "name": "sgd", "momentum": 0.0},
        {"decay_at": (0.8, 0.6)},
        {"decay_at": (0.6, 1.0)},
        {"decay_at": (0.0, 0.5)},
        {"decay_at": (math.nan,)},
        {"decay_at": (0.5, math.inf)},
        {"min_lr": 1e-3, "decay_at": (0.6, 0.8)},
        {"stages": (0.3, 0.1)},
        {"stages": (0.0,)},
        {"stages": (0.1, 1.0)},
        {"stages": (0.1, 0.2, 0.3)},
        {"stages": (math.nan,)},
        {"stage_blocks": 0},
        {"stage_scale": 0.0},
    ],
)
def test_wrong_numbers_name_their_field(changes):
    with pytest.raises(UserError, match=rf"optim\.{next(iter(changes))}"):
        OptimConfig(**changes)


@pytest.mark.parametrize("decay_vectors", [False, True])
def test_weight_decay_goes_along_half_a_cosine(decay_vectors):
    """Of what decays at all; it is a function of the step, so nothing of it is saved."""
    config = OptimConfig(weight_decay=0.04, final_weight_decay=0.4, decay_vectors=decay_vectors)
    optimizer = make_optimizer(nn.Linear(3, 2), config)
    for done, expected in ((0.0, 0.04), (0.25, 0.4 - 0.36 * (2 + 2**0.5) / 4), (0.5, 0.22), (1.0, 0.4)):
        set_rate(optimizer, 1e-3, done)
        found = [group["weight_decay"] for group in optimizer.param_groups]
        assert found == pytest.approx([expected, expected if decay_vectors else 0.0])


def test_a_decay_that_stays_is_not_touched():
    optimizer = make_optimizer(nn.Linear(3, 2), OptimConfig(weight_decay=0.04))
    set_rate(optimizer, 1e-3, 0.5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.04, 0.0]


def test_the_layers_are_the_students_where_the_encoder_is_a_teacher():
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=16, patch_size=4))
    dino = DINO.Config(num_small=0, hidden_dim=8, bottleneck_dim=4, out_dim=5).build(encoder, 16)
    found = layers(dino)
    assert len(found) == len(dino.student.blocks) + 2
    first = {id(parameter) for parameter in found[1]}
    assert first == {id(parameter) for parameter in dino.student.blocks[0].parameters()}
    assert {id(p) for p in dino.student_head.parameters()} <= {id(p) for p in found[-1]}
