"""Files as transformers and torchvision write them: timm's encoder then computes what their classes compute."""

import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import load_file

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.checkpoints.library_names import authors_names
from eyespot.pretrain.checkpoints.weight_files import fitted

WIDTHS = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
THEIRS = {**WIDTHS, "intermediate_size": 96, "image_size": 32, "patch_size": 16}
DINO = {**WIDTHS, "mlp_ratio": 4, "image_size": 28, "patch_size": 14}
OURS = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32}
STAGES = {"depths": [1, 2, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
CONVNEXT = {"depths": (1, 2, 1, 1), "dims": (8, 8, 16, 16)}
VIT = ("vit_small_patch16_224", OURS)


def last(model, images):
    return model(images).last_hidden_state


def pooled(model, images):
    return model(images).pooler_output


def inner(model, images):
    return model.vit(images).last_hidden_state


LIBRARY = [
    ("ViT", {**THEIRS, "layer_norm_eps": 1e-6}, *VIT, last),
    ("ViTForImageClassification", {**THEIRS, "layer_norm_eps": 1e-6}, *VIT, inner),
    ("DeiT", {**THEIRS, "layer_norm_eps": 1e-6}, "deit_small_distilled_patch16_224", OURS, last),
    (
        "IJepa",
        {**THEIRS, "layer_norm_eps": 1e-6},
        "vit_huge_patch14_gap_224",
        {**OURS, "patch_size": 16, "global_pool": ""},
        last,
    ),
    ("Dinov2", DINO, "vit_small_patch14_dinov2", {**OURS, "img_size": 28}, last),
    (
        "Dinov2",
        {**DINO, "use_swiglu_ffn": True},
        "vit_giant_patch14_dinov2",
        {**OURS, "img_size": 28, "mlp_ratio": 16 / 3},
        last,
    ),
    (
        "Dinov2WithRegisters",
        {**DINO, "num_register_tokens": 4},
        "vit_small_patch14_reg4_dinov2",
        {**OURS, "img_size": 28},
        last,
    ),
    ("DINOv3ViT", {**THEIRS, "num_register_tokens": 4}, "vit_small_patch16_dinov3_qkvb", OURS, last),
    (
        "DINOv3ViT",
        {**THEIRS, "num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"},
        "vit_small_plus_patch16_dinov3_qkvb",
        {**OURS, "mlp_ratio": 4},
        last,
    ),
    ("DINOv3ConvNext", {**STAGES, "layer_norm_eps": 1e-6}, "convnext_tiny", CONVNEXT, pooled),
    ("ConvNext", {**STAGES, "layer_norm_eps": 1e-6}, "convnext_tiny", CONVNEXT, pooled),
    ("ConvNextV2", {**STAGES, "layer_norm_eps": 1e-6}, "convnextv2_tiny", CONVNEXT, pooled),
    (
        "ResNet",
        {**STAGES, "embedding_size": 64, "layer_type": "basic"},
        "resnet18",
        {"layers": (1, 2, 1, 1), "channels": (8, 8, 16, 16)},
        pooled,
    ),
    ("CLIPVision", THEIRS, "vit_base_patch32_clip_quickgelu_224", {**OURS, "patch_size": 16}, pooled),
    (
        "SiglipVision",
        {**THEIRS, "layer_norm_eps": 1e-6, "hidden_act": "gelu"},
        "vit_base_patch16_siglip_224",
        {**OURS, "act_layer": "gelu"},
        pooled,
    ),
]


def theirs(kind, settings):
    """A class of transformers, its weights drawn."""
    config = kind.removesuffix("ForImageClassification").removesuffix("ForPreTraining")
    made = getattr(transformers, kind if "For" in kind else f"{kind}Model")
    return drawn(made(getattr(transformers, f"{config}Config")(**settings)))


def drawn(model):
    torch.manual_seed(0)
    for name, tensor in [*model.double().named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and "inv_freq" not in name:
            tensor.data.normal_(std=0.3).add_(float(name.endswith("var")) * 2).abs_()
            tensor.data.mul_(1 if name.endswith("var") else torch.randn_like(tensor).sign())
    return model.eval()


def read(held, encoder):
    return fitted(held, encoder.state_dict(), "start.weights file", prefix="", encoder=encoder)


@pytest.mark.parametrize(
    ("kind", "settings", "name", "options", "compute"), LIBRARY, ids=[f"{row[0]} {row[2]}" for row in LIBRARY]
)
def test_features_equal_those_of_the_librarys_class(kind, settings, name, options, compute, tmp_path):
    model = theirs(kind, settings)
    model.save_pretrained(tmp_path)
    encoder = timm.create_model(name, num_classes=0, **options).double().eval()
    held = load_file(tmp_path / "model.safetensors")
    found = read(held, encoder)
    heads = ("pooler.", "classifier.", "mask_token")
    assert all(other.split("vit.")[-1].startswith(heads) for other in found.others), found.others
    encoder.load_state_dict(found.tensors)
    images = torch.randn(2, 3, *2 * (options.get("img_size", 64),), dtype=torch.float64)
    with torch.no_grad():
        expected, given = compute(model, images), encoder.forward_features(images)
        if compute is pooled:
            given = encoder.forward_head(given, pre_logits=True)
    torch.testing.assert_close(given, expected.reshape(given.shape), rtol=1e-5, atol=1e-6)
    layer = next(each for each in held if each.split(".")[-1] == "weight" and ".1." in each)
    del held[layer]
    with pytest.raises(UserError, match="missing there"):
        read(held, encoder)


@pytest.mark.parametrize(
    ("kind", "name", "compute", "apart"),
    [("ViT", "vit_small_patch16_224", last, 1e-5), ("SiglipVision", "vit_base_patch16_siglip_224", pooled, 5e-3)],
)
def test_where_timm_has_another_epsilon_or_another_gelu_features_differ_slightly(kind, name, compute, apart):
    """No file says so: the classes' defaults are 1e-12 in ViT's norms, and the tanh form in SigLIP."""
    model = theirs(kind, THEIRS)
    encoder = timm.create_model(name, num_classes=0, **OURS).double().eval()
    encoder.load_state_dict(read(model.state_dict(), encoder).tensors)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        given = encoder.forward_features(images)
        given = encoder.forward_head(given, pre_logits=True) if compute is pooled else given
        difference = (given - compute(model, images)).abs().max()
    assert 0 < difference < apart


@pytest.mark.parametrize("before", ["", "module.", "student.backbone."])
def test_names_as_they_are_in_memory_behind_any_prefix(before):
    model = theirs("Dinov2", DINO)
    encoder = timm.create_model("vit_small_patch14_dinov2", num_classes=0, **{**OURS, "img_size": 28})
    held = {f"{before}{name}": tensor.float() for name, tensor in model.state_dict().items()}
    found = read({**held, "head.weight": torch.zeros(2)}, encoder)
    assert found.prefix == before and set(found.others) == {"head.weight", f"{before}mask_token"}


def test_of_an_autoencoder_and_of_two_towers_the_encoder_is_taken():
    narrow = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    mae = theirs("ViTMAEForPreTraining", {**THEIRS, **narrow, "decoder_intermediate_size": 32})
    encoder = timm.create_model("vit_small_patch16_224", num_classes=0, **OURS)
    found = read(mae.state_dict(), encoder)
    assert found.prefix == "vit." and all(name.startswith("decoder.") for name in found.others)
    assert torch.equal(found.tensors["cls_token"], mae.vit.embeddings.cls_token)
    towers = {"vision_config": THEIRS, "text_config": {**WIDTHS, "intermediate_size": 96, "vocab_size": 99}}
    clip = drawn(transformers.CLIPModel(transformers.CLIPConfig(**towers, projection_dim=16)))
    encoder = timm.create_model("vit_base_patch32_clip_quickgelu_224", num_classes=0, **{**OURS, "patch_size": 16})
    found = read(clip.state_dict(), encoder)
    assert found.prefix == "vision_model." and torch.equal(
        found.tensors["pos_embed"][0], clip.vision_model.embeddings.position_embedding.weight
    )


def test_torchvisions_vision_transformer():
    settings = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 96}
    model = drawn(torchvision.models.VisionTransformer(**settings))
    model.heads = torch.nn.Identity()
    encoder = timm.create_model("vit_base_patch16_224", num_classes=0, **OURS).double().eval()
    encoder.load_state_dict(read(model.state_dict(), encoder).tensors)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), model(images), rtol=1e-9, atol=1e-9)
    older = {name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2") for name in model.state_dict()}
    assert set(authors_names(dict.fromkeys(older, torch.zeros(1, 1, 1, 1)))) == {*encoder.state_dict()}


def test_what_is_of_another_class_or_damaged_keeps_its_names():
    swin = {
        "embeddings.patch_embeddings.projection.weight": torch.zeros(8, 3, 4, 4),
        "embeddings.norm.weight": torch.ones(8),
    }
    assert authors_names(swin) == swin
    held = theirs("ViT", THEIRS).state_dict()
    key = "layers.0.attention.k_proj.weight"
    repeated = torch.zeros(1).expand(24, 24)
    for odd in (held[key][:5], held[key].half(), torch.tensor(1.0), repeated):
        assert "blocks.0.attn.k.weight" in authors_names({**held, key: odd})
    twice = {"encoder.layer.0.attention.attention.query.weight": held[key]}
    both = {"blocks.0.attn.qkv.weight": held[key]}
    summed = {"embeddings.token_type_embeddings.weight": held[key]}
    many = {f"{number}.{name}": tensor for number in range(17) for name, tensor in held.items()}
    for more in (twice, both, summed, many):
        assert authors_names({**held, **more}) == {**held, **more}
    assert "embeddings.position_ids" in authors_names({**held, "embeddings.position_ids": torch.arange(5)})
    layer = f"encoder.stages.{'9' * 5000}.layers.0.layer.0.convolution.weight"
    resnet = {**theirs("ResNet", {**STAGES, "layer_type": "basic"}).state_dict(), layer: torch.zeros(1)}
    assert layer in authors_names(resnet)


@pytest.mark.parametrize("lost", ["layers.1.attention.k_proj.bias", "layers.0.attention.v_proj.weight"])
def test_what_is_missing_of_one_block_is_not_made_up(lost):
    held = theirs("ViT", THEIRS).state_dict()
    del held[lost]
    encoder = timm.create_model("vit_small_patch16_224", num_classes=0, **OURS)
    with pytest.raises(UserError, match=r"blocks\.[01]\.attn\.qkv\.(weight|bias) is missing there"):
        read(held, encoder)


def test_patches_in_another_order_are_refused():
    """SigLIP 2's are rows, columns, channels, and timm takes those of two axes for channels, rows, columns."""
    held = theirs("SiglipVision", THEIRS).state_dict()
    kernel = "embeddings.patch_embedding.weight"
    held[kernel] = held[kernel].permute(0, 2, 3, 1).flatten(1)
    encoder = timm.create_model("vit_base_patch16_siglip_224", num_classes=0, **OURS)
    with pytest.raises(UserError, match="missing there"):
        read(held, encoder)
