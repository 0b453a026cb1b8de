"""Published files' own names, as their authors' code writes them: brought to timm's names, all or none."""

from typing import Any, cast

import pytest
import timm
import torch
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints.weight_files import fitted

SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 2}
MODELS = {
    "vit": ("vit_small_patch16_224", {**SMALL, "img_size": 32}),
    "dinov2": ("vit_small_patch14_dinov2", {**SMALL, "img_size": 28}),
    "registers": ("vit_small_patch14_reg4_dinov2", {**SMALL, "img_size": 28}),
    "deit3": ("deit3_small_patch16_224", {**SMALL, "img_size": 32}),
    "dinov3": ("vit_small_patch16_dinov3", {**SMALL, "img_size": 32}),
    "dinov3 biases": ("vit_small_patch16_dinov3_qkvb", {**SMALL, "img_size": 32}),
    "resnet": ("resnet18", {"channels": (8, 8, 8, 8)}),
    "convnext": ("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}),
}


def made(kind, **more):
    torch.manual_seed(0)
    name, options = MODELS[kind]
    encoder = timm.create_model(name, num_classes=0, **{**options, **more})
    state = encoder.state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape))
    return encoder, {name: tensor.clone() for name, tensor in state.items()}


def after(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def zeros(*names):
    return {name: torch.zeros(3) for name in names}


def mae(e):
    left = ("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.norm1.weight")
    return after("model.", {**e, **zeros(*left, "decoder_pred.bias")}), 5


def dino(e):
    return {
        **after("teacher.backbone.", e),
        **zeros("teacher.head.mlp.0.weight", "teacher.head.last_layer.weight_g"),
    }, 2


def ibot(e):
    return {**after("state_dict.", {**e, "masked_embed": torch.zeros(1, 24)})}, 1


def moco_v3(e):
    mine = after("state_dict.module.momentum_encoder.", {**e, **zeros("head.0.weight", "head.1.running_mean")})
    return {**mine, **zeros("state_dict.module.predictor.0.weight")}, 3


def dinov2(e):
    return {**e, "mask_token": torch.zeros(1, 24)}, 1


def dinov2_in_chunks(e):
    chunked = {name.replace("blocks.", "blocks.0.", 1): tensor for name, tensor in e.items()}
    return {
        **after("teacher.backbone.", {**chunked, "mask_token": torch.zeros(1, 24)}),
        **zeros("teacher.dino_head.x"),
    }, 2


def dinov2_registers(e):
    """There one class token has a position, and registers have none; timm adds the position to the token."""
    position = torch.randn(1, 1, 24)
    published = {name: tensor for name, tensor in e.items() if name != "reg_token"}
    published["cls_token"] = e["cls_token"] - position
    published["pos_embed"] = torch.cat([position, e["pos_embed"]], dim=1)
    return {**published, "register_tokens": e["reg_token"], "mask_token": torch.zeros(1, 24)}, 1


def deit3(e):
    return after(
        "model.", {name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t for name, t in e.items()}
    ), 0


def dinov3(e):
    names = {"reg_token": "storage_tokens"}
    published = {
        names.get(name, name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")): tensor
        for name, tensor in e.items()
        if not name.endswith(("q_bias", "v_bias"))
    }
    for block in range(2):
        at = f"blocks.{block}.attn."
        q, v = (e.get(f"{at}{one}_bias", torch.zeros(24)) for one in "qv")
        published[f"{at}qkv.bias"] = torch.cat([q, torch.zeros(24), v])
        published[f"{at}qkv.bias_mask"] = torch.cat([torch.ones(24), torch.zeros(24), torch.ones(24)])
    return {**published, "rope_embed.periods": torch.ones(6), "mask_token": torch.zeros(1, 24)}, 2


def torchvision(e):
    return {**e, "fc.weight": torch.zeros(1000, 8), "fc.bias": torch.zeros(1000)}, 2


def moco(e):
    return {
        **after("state_dict.module.encoder_q.", {**e, **zeros("fc.0.weight")}),
        **zeros("state_dict.module.queue"),
    }, 2


def byol(e):
    return {**after("online_encoder.net.", e), **zeros("online_encoder.projector.0.weight", "predictor.0.weight")}, 2


def of_children(e):
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    cut = {f"{numbers[(parts := name.partition('.'))[0]]}.{parts[2]}": tensor for name, tensor in e.items()}
    return {**after("backbone.", cut), **zeros("projection_head.layers.0.weight")}, 1


def vissl(e):
    return after("classy_state_dict.base_model.model.trunk._feature_blocks.", e), 0


def convnext(e):
    return after("model.", {**e, "head.fc.weight": torch.zeros(1000, 8)}), 1


LAYOUTS = [
    ("vit", mae), ("vit", dino), ("vit", ibot), ("vit", moco_v3), ("dinov2", dinov2), ("dinov2", dinov2_in_chunks),
    ("registers", dinov2_registers), ("deit3", deit3), ("dinov3", dinov3), ("dinov3 biases", dinov3),
    ("resnet", torchvision), ("resnet", moco), ("resnet", byol), ("resnet", of_children), ("resnet", vissl),
    ("convnext", convnext),
]  # fmt: skip


def read(held, encoder, prefix=""):
    return fitted(held, encoder.state_dict(), "start.weights file", prefix=prefix, encoder=encoder)


@pytest.mark.parametrize(("kind", "layout"), LAYOUTS, ids=[f"{kind} {layout.__name__}" for kind, layout in LAYOUTS])
def test_published_names(kind, layout):
    _, expected = made(kind)
    held, left = layout(expected)
    encoder = timm.create_model(MODELS[kind][0], num_classes=0, **MODELS[kind][1])
    found = read(held, encoder)
    assert found.tensors.keys() == expected.keys() and not found.changes
    sharp = None if layout is dinov2_registers else 0.0  # a sum of two and a difference
    for name, tensor in expected.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=sharp, atol=sharp)
    assert len(found.others) == left, found.others
    some = next(
        name for name in held if name.endswith("norm2.weight") or name.endswith("bn2.weight") or "gamma" in name
    )
    del held[some]
    with pytest.raises(UserError, match="is missing there"):
        read(held, encoder)


@pytest.mark.parametrize(("kind", "layout"), [LAYOUTS[0], LAYOUTS[6], LAYOUTS[8]], ids=["vit", "registers", "dinov3"])
def test_a_file_of_a_deeper_model_is_refused(kind, layout):
    _, deeper = made(kind, depth=3)
    if layout is dinov3:
        deeper["blocks.2.attn.qkv.bias"] = torch.zeros(72)
    encoder = timm.create_model(MODELS[kind][0], num_classes=0, **MODELS[kind][1])
    with pytest.raises(UserError, match=r"blocks\.2\.\S+ is .* there and missing in the encoder"):
        read(layout(deeper)[0], encoder)


def test_biases_that_timms_encoder_lacks_must_be_zero():
    _, expected = made("dinov3 biases")
    held, _ = dinov3(expected)
    encoder = timm.create_model(MODELS["dinov3"][0], num_classes=0, **MODELS["dinov3"][1])
    with pytest.raises(UserError, match=r"blocks\.0\.attn\.qkv\.bias is not zero there.*_qkvb"):
        read(held, encoder)


def test_registers_that_the_encoder_lacks_are_not_left_out():
    _, expected = made("registers")
    encoder, _ = made("dinov2")
    with pytest.raises(UserError, match=r"register_tokens is there, and the encoder has none; .* \*_reg4_dinov2"):
        read(dinov2_registers(expected)[0], encoder)
    with pytest.raises(UserError, match="reg_token is there, and the encoder has none"):
        read({**encoder.state_dict(), "reg_token": torch.zeros(1, 4, 24)}, encoder)
    averaging = timm.create_model("vit_huge_patch14_gap_224", num_classes=0, **SMALL, img_size=28)
    with pytest.raises(UserError, match="cls_token is there, and the encoder has none"):
        read({**averaging.state_dict(), "cls_token": torch.zeros(1, 1, 24)}, averaging)


def test_copies_that_are_alike_need_no_choice():
    encoder, expected = made("resnet")
    held = {**after("net.", expected), **after("online_encoder.net.", expected)}
    assert read(held, encoder).tensors.keys() == expected.keys()
    held["online_encoder.net.conv1.weight"] = expected["conv1.weight"] + 1
    with pytest.raises(UserError, match=r"holds 2 encoders, named net\.\*, online_encoder\.net\.\*"):
        read(held, encoder)
    found = read(held, encoder, "online_encoder.net")
    assert torch.equal(found.tensors["conv1.weight"], held["online_encoder.net.conv1.weight"])


def test_counters_of_batch_norm_that_old_files_lack_begin_at_zero():
    """As torch reads such files: torchvision's published ResNets are of them."""
    encoder, given = made("resnet")
    for norm in encoder.modules():
        if isinstance(norm, torch.nn.BatchNorm2d) and norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 7
    counters = [name for name in given if name.endswith("num_batches_tracked")]
    old = {name: tensor for name, tensor in given.items() if name not in counters}
    found = read(after("module.", old), encoder)
    assert found.changes == [
        f"{len(counters)} counters of batch norm, which files from before torch 0.4.1 lack, begin at 0"
    ]
    encoder.load_state_dict(found.tensors)
    assert all(int(encoder.state_dict()[name]) == 0 for name in counters)
    with pytest.raises(UserError, match="num_batches_tracked is missing there"):  # some are there: it is damaged
        read(old | {counters[1]: given[counters[1]]}, encoder)


def test_positions_patches_and_channels_are_fitted_by_the_published_rules():
    _, given = made("vit")
    encoder, _ = made("vit", img_size=48)
    found = read(after("model.", given), encoder)
    assert found.changes == ["positions resampled from 5 to 10"] and "; positions resampled" in found.said()
    expected = resample_abs_pos_embed(given["pos_embed"], new_size=[3, 3], num_prefix_tokens=1)
    assert torch.equal(found.tensors["pos_embed"], expected)

    encoder, _ = made("vit", patch_size=8)
    found = read(given, encoder)
    assert found.changes == ["positions resampled from 5 to 17", "patches resampled from 16 to 8 pixels"]
    expected = resample_patch_embed(given["patch_embed.proj.weight"], [8, 8])
    assert torch.equal(found.tensors["patch_embed.proj.weight"], expected)

    encoder, _ = made("resnet")
    _, gray = made("resnet", in_chans=1)
    found = read(gray, encoder)
    assert found.changes == ["first kernels of 1 channels repeated for 3, and scaled by 1/3"]
    images = torch.randn(1, 1, 8, 8)
    seen = torch.conv2d(images.expand(-1, 3, -1, -1), found.tensors["conv1.weight"])
    torch.testing.assert_close(seen, torch.conv2d(images, gray["conv1.weight"]))
    gray_encoder, _ = made("resnet", in_chans=1)
    _, colored = made("resnet")
    found = read(colored, gray_encoder)
    assert torch.equal(found.tensors["conv1.weight"], colored["conv1.weight"].sum(1, keepdim=True))


def test_features_equal_those_of_timms_own_reader(tmp_path):
    """Registers and another grid: what timm's loader makes of the same file, to the bit."""
    _, expected = made("registers", img_size=56)
    held, _ = dinov2_registers(expected)
    torch.save(held, tmp_path / "file.pth")
    name, options = MODELS["registers"]
    own_file = {"file": str(tmp_path / "file.pth"), "hf_hub_id": None, "num_classes": 0}
    theirs = timm.create_model(name, num_classes=0, pretrained=True, pretrained_cfg_overlay=own_file, **options)
    ours = timm.create_model(name, num_classes=0, **options)
    found = read(held, ours)
    assert found.changes == ["positions resampled from 17 to 4"]
    ours.load_state_dict(found.tensors)
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        pair = [cast(Any, encoder.eval()).forward_features(images) for encoder in (ours, theirs)]
    assert torch.equal(*pair)
