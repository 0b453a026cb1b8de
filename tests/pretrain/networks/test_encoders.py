"""Encoders by name; what is wrong with a name or a size is said in one line."""

import copy

import pytest
import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.networks.encoders import (
    EncoderConfig,
    check_patches,
    encode,
    encode_visible,
    feature_width,
    features,
    last_tokens,
    make_encoder,
    mean_features,
    require_vit,
    vary_sizes,
)
from eyespot.pretrain.networks.repeated_blocks import choose_attention


def test_features_of_vit_and_resnet():
    images = torch.randn(2, 3, 32, 32)
    vit = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=8)).eval()
    resnet = make_encoder(EncoderConfig(name="resnet18", image_size=32)).eval()
    with torch.no_grad():
        tokens = vit.forward_features(images)
        assert torch.equal(encode(vit, images)["cls"], tokens[:, 0])
        assert torch.equal(encode(vit, images)["mean"], tokens[:, 1:].mean(1))
        assert torch.equal(encode(resnet, images)["mean"], resnet(images))


@pytest.mark.parametrize("name", ["resnet18", "test_vit", "convnext_atto"])
def test_one_channel(name):
    """An encoder of spectrograms and depth: its first layer alone differs, and an image's encoder keeps its bits."""
    config = EncoderConfig(name=name, image_size=32)
    torch.manual_seed(0)
    of_images = make_encoder(config)
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=0, drop_path_rate=0.0, **({"img_size": 32} if "vit" in name else {}))
    assert all(torch.equal(mine, plain.state_dict()[key]) for key, mine in of_images.state_dict().items())
    of_maps = make_encoder(config, channels=1).eval()
    assert of_maps(torch.randn(2, 1, 32, 32)).shape == (2, of_maps.num_features)
    shapes = {key: tensor.shape for key, tensor in of_images.state_dict().items()}
    (other,) = [key for key, tensor in of_maps.state_dict().items() if tensor.shape != shapes[key]]
    assert of_maps.state_dict()[other].shape[1] == 1


def test_small_stem_of_one_channel():
    resnet = make_encoder(EncoderConfig(name="resnet18", image_size=32, small_stem=True), channels=1)
    assert resnet.conv1.weight.shape == (64, 1, 3, 3)


@pytest.mark.parametrize("name", ["split_test_resnet", "test_pixel_transformer", "test_gated_pixel_cnn"])
def test_our_own_encoders_see_colours(name):
    with pytest.raises(UserError, match=f"encoder.name '{name}': sees images of 3 channels only; try resnet18"):
        make_encoder(EncoderConfig(name=name, image_size=32), channels=1)


def test_registers_are_prefix_tokens_too():
    vit = make_encoder(EncoderConfig(name="vit_medium_patch16_reg4_gap_256", image_size=32, patch_size=8)).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(encode_visible(vit, images), vit.forward_features(images))
        visible = torch.tensor([[3, 0], [1, 2]])
        assert encode_visible(vit, images, visible).shape == (2, vit.num_prefix_tokens + 2, vit.embed_dim)


def tiny(name, **sizes):
    torch.manual_seed(0)
    return make_encoder(EncoderConfig(name=name, image_size=32, **sizes)).eval()


@pytest.mark.parametrize("name", ["test_vit", "deit_tiny_distilled_patch16_224", "test_vit3"])
def test_last_tokens_of_a_vit(name):
    """With a class token, with one more prefix token, with a register only: against the blocks one by one."""
    vit, images = tiny(name, patch_size=8), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found, tokens, outputs = last_tokens(vit, images, 3), vit.norm_pre(vit._pos_embed(vit.patch_embed(images))), []
        for block in vit.blocks:
            tokens = block(tokens)
            outputs.append(vit.norm(tokens))
        assert torch.equal(outputs[-1], vit.forward_features(images))
    for got, expected in zip(found, outputs[-3:], strict=True):
        assert (got.cls is None) == (vit.cls_token is None)
        assert got.cls is None or torch.equal(got.cls, expected[:, 0])
        rows = [expected[:, vit.num_prefix_tokens + 4 * row :][:, :4] for row in range(4)]
        assert torch.equal(got.patches, torch.stack(rows, 1).permute(0, 3, 1, 2))


def test_last_tokens_of_stages():
    resnet, images = tiny("test_resnet"), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        first = resnet.layer2(resnet.layer1(resnet.maxpool(resnet.act1(resnet.bn1(resnet.conv1(images))))))
        expected = [first, resnet.layer3(first), resnet.forward_features(images)]
        for got, stage in zip(last_tokens(resnet, images, 3), expected, strict=True):
            assert got.cls is None and torch.equal(got.patches, stage)
        assert len(last_tokens(resnet, images, 99)) == 5  # all there are: the stem and four stages
        swin = tiny("swin_tiny_patch4_window7_224")  # it keeps channels last
        features = swin.forward_features(images[:, :, :32, :32])
        assert torch.equal(last_tokens(swin, images[:, :, :32, :32])[0].patches, features.permute(0, 3, 1, 2))


def test_features_of_several_blocks():
    vit, resnet, images = tiny("test_vit", patch_size=8), tiny("test_resnet"), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        alone, several = encode(vit, images), encode(vit, images, num_blocks=2)
        assert list(several) == ["cls", "mean", "cls-2", "mean-2"]
        assert all(torch.equal(several[kind], rows) for kind, rows in alone.items())
        before = last_tokens(vit, images, 2)[0]
        assert torch.equal(several["cls-2"], before.cls)
        torch.testing.assert_close(several["mean-2"], before.patches.mean((2, 3)))
        stages = encode(resnet, images, num_blocks=4)
        assert {kind: rows.shape[1] for kind, rows in stages.items()} == {
            "mean": 96,
            "mean-2": 192,
            "mean-3": 48,
            "mean-4": 32,
        }
        assert torch.equal(stages["mean"], encode(resnet, images)["mean"])


@pytest.mark.parametrize("name", ["test_vit_relpos", "crossvit_tiny_240"])
def test_architectures_that_keep_their_blocks(name):
    encoder = timm.create_model(name, num_classes=0).eval()
    size = encoder.default_cfg["input_size"][-1]
    with torch.no_grad(), pytest.raises(UserError, match=r"does not hand out its blocks: .*; try a ViT or a ResNet$"):
        last_tokens(encoder, torch.zeros(1, 3, size, size), 2)


@pytest.mark.parametrize(
    "name", ["test_vit", "deit_tiny_distilled_patch16_224", "test_vit3", "deit3_small_patch16_224"]
)
def test_varied_sizes_change_nothing_at_the_encoders_own(name):
    """Class token, two prefix tokens, a register only, positions without a prefix."""
    encoder, images = tiny(name, patch_size=8), torch.randn(2, 3, 32, 32)
    names = list(encoder.state_dict())

    def seen() -> list[torch.Tensor]:
        visible = torch.tensor([[3, 0], [1, 2]])
        tokens = [tokens.patches for tokens in last_tokens(encoder, images, 2)]
        return [encoder(images), encode_visible(encoder, images, visible), *encode(encoder, images).values(), *tokens]

    with torch.no_grad():
        before = seen()
        vary_sizes(encoder)
        after = seen()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert list(encoder.state_dict()) == names


def test_a_vit_of_varied_sizes_resamples_its_positions():
    """Of a small image it makes what an encoder of that size makes with timm's resampled positions."""
    vit, small = (
        tiny("test_vit", patch_size=8),
        make_encoder(EncoderConfig(name="test_vit", image_size=16, patch_size=8)),
    )
    images = torch.randn(2, 3, 16, 16)
    vary_sizes(vit)
    weights = vit.state_dict()
    weights["pos_embed"] = resample_abs_pos_embed(vit.pos_embed, (2, 2), num_prefix_tokens=1)
    small.load_state_dict(weights)
    with torch.no_grad():
        assert torch.equal(vit(images), small.eval()(images))
        (tokens,) = last_tokens(vit, torch.randn(1, 3, 16, 40))
        assert tokens.patches.shape[2:] == (2, 5)
        with pytest.raises(AssertionError, match="divisible by patch size"):
            vit(torch.randn(1, 3, 20, 20))
    checkpointed = copy.deepcopy(vit).train()  # the copy has positions of its own, as a teacher would
    checkpointed.set_grad_checkpointing()
    (checkpointed(images) - 1).square().sum().backward()
    assert checkpointed.pos_embed.grad.abs().sum() > 0
    assert vit.pos_embed.grad is None


def test_which_encoders_can_vary_sizes():
    resnet, images = tiny("test_resnet"), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = resnet(images)
        vary_sizes(resnet)
        assert torch.equal(resnet(images), before)
    for name in ("swin_tiny_patch4_window7_224", "mixer_s32_224"):
        with pytest.raises(UserError, match=r"sees images of one size only.*; try a ViT or a ResNet$"):
            vary_sizes(timm.create_model(name, num_classes=0))


def test_checkpointing_changes_memory_not_numbers():
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        config = EncoderConfig(name="vit_tiny_patch16_224", image_size=16, patch_size=8, checkpointing=checkpointing)
        vit = make_encoder(config)
        loss = encode_visible(vit, torch.ones(2, 3, 16, 16), torch.tensor([[0], [1]])).square().mean()
        loss.backward()
        results.append((loss.detach(), vit.blocks[0].attn.qkv.weight.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_attention_is_chosen_by_device_and_gives_the_same_features():
    vit = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=8)).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        choose_attention(vit, torch.device("cuda"))
        assert all(block.attn.fused_attn for block in vit.blocks)
        fused = vit(images)
        choose_attention(vit, torch.device("cpu"))
        assert not any(block.attn.fused_attn for block in vit.blocks)
        assert torch.allclose(vit(images), fused, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet18d", "seresnet50"])
def test_small_stem_keeps_the_resolution_and_the_names(name):
    torch.manual_seed(0)
    plain = make_encoder(EncoderConfig(name=name, image_size=32))
    small = make_encoder(EncoderConfig(name=name, image_size=32, small_stem=True))
    assert list(small.state_dict()) == list(plain.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        stem = [encoder.maxpool(encoder.bn1(encoder.conv1(images))) for encoder in (plain, small)]
        features = small.eval().forward_features(images)
    assert [tuple(maps.shape[2:]) for maps in stem] == [(8, 8), (32, 32)]
    assert features.shape == (2, small.num_features, 4, 4)
    first = small.conv1 if name != "resnet18d" else small.conv1[0]
    assert first.kernel_size == (3, 3)
    deviation = (2 / (first.out_channels * 9)) ** 0.5  # He's, by the outputs, as timm has it
    assert first.weight.std().item() == pytest.approx(deviation, rel=0.1)


def test_small_stem_on_the_meta_device():
    with torch.device("meta"):
        encoder = make_encoder(EncoderConfig(name="resnet50", image_size=32, small_stem=True))
    assert {parameter.device.type for parameter in encoder.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (EncoderConfig(name="vit_tinny_patch16_224"), "close names: vit_tiny_patch16_224"),
        (EncoderConfig(name="vit_tiny_patch16_224", image_size=30, patch_size=4), "encoder.patch_size 4"),
        (EncoderConfig(name="resnet18", patch_size=4, image_size=32), "encoder.patch_size 4: resnet18 has no patches"),
        (EncoderConfig(name="xcit_nano_12_p16_224", patch_size=4, image_size=32), "timm refuses"),
        (
            EncoderConfig(name="vit_tiny_patch16_224", image_size=32, small_stem=True),
            "encoder.small_stem True: vit_tiny",
        ),
    ],
)
def test_wrong_encoders_are_one_line(config, words):
    with pytest.raises(UserError, match=words) as caught:
        make_encoder(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kinds", "own"),
    [
        ("test_vit", {"cls": 64, "mean": 64}, "cls"),
        ("test_vit3", {"mean": 96, "pool": 96}, "pool"),  # attention pooling
        ("test_vit2", {"mean": 64, "pool": 64}, "pool"),  # a norm after the mean
        ("beit_base_patch16_224", {"cls": 768, "mean": 768, "pool": 768}, "pool"),
        ("deit_tiny_distilled_patch16_224", {"cls": 192, "mean": 192, "pool": 192}, "pool"),  # of two prefix tokens
        ("mobilenetv3_small_050", {"mean": 1024}, "mean"),  # its head widens
        ("test_efficientnet", {"mean": 256}, "mean"),
        ("pit_ti_224", {"cls": 256}, "cls"),  # hands out no patch tokens
        ("crossvit_tiny_240", {"mean": 288}, "mean"),  # hands out two class tokens
        ("split_test_resnet", {"mean": 192}, "mean"),
        ("pixel_transformer_small", {"mean": 512}, "mean"),
    ],
)
def test_what_the_encoder_pools_itself_is_among_its_features(name, kinds, own):
    size = {"crossvit_tiny_240": 240}.get(name, 32)
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name=name, image_size=size)).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        found, pooled, read = encode(encoder, images), encoder(images), features(encoder, images)
        pooled = sum(pooled) / len(pooled) if isinstance(pooled, tuple) else pooled
    assert {kind: rows.shape[1] for kind, rows in found.items()} == kinds
    torch.testing.assert_close(found[own], pooled, rtol=1e-5, atol=1e-5)
    assert torch.equal(read, found.get("cls", found[own]))
    assert read.shape[1] == feature_width(encoder)
    if "mean" in kinds:
        with torch.no_grad():
            assert torch.equal(mean_features(encoder, images), found["mean"])
    else:
        with pytest.raises(UserError, match="no patch tokens"):
            mean_features(encoder, images)


@pytest.mark.parametrize(
    "name", ["densenet121", "hrnet_w18_small", "mixer_s32_224", "resnet18", "swin_tiny_patch4_window7_224"]
)
def test_drop_path_is_passed_where_it_is_taken(name):
    """Where an architecture lacks it, it need not be said; where it has it by itself, 0 means 0."""
    encoder = make_encoder(EncoderConfig(name=name, image_size=224))
    assert not any(getattr(part, "drop_prob", None) for part in encoder.modules())


@pytest.mark.parametrize("name", ["densenet121", "vgg11"])
def test_drop_path_that_an_architecture_lacks_is_refused(name):
    message = rf"encoder.drop_path 0.1: {name} has no branches to drop; leave it out"
    with pytest.raises(UserError, match=message):
        make_encoder(EncoderConfig(name=name, image_size=64, drop_path=0.1))


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("vit_small_patch14_dinov2", 64, "encoder.image_size 64: is no multiple of the 14 pixels .* try 56 or 70"),
        ("beit_base_patch16_224", 40, "encoder.image_size 40: is no multiple of the 16 pixels .* try 32 or 48"),
        ("vit_tiny_patch16_224", 10, "encoder.image_size 10: is no multiple of the 16 pixels .* try 16$"),
    ],
)
def test_images_that_patches_do_not_fill_are_refused(name, size, words):
    config = EncoderConfig(name=name, image_size=size)
    with torch.device("meta"):
        encoder = make_encoder(config)
    with pytest.raises(UserError, match=words):
        check_patches(encoder, config)


def test_an_architectures_own_size_need_not_be_filled():
    with torch.device("meta"):
        assert (
            make_encoder(EncoderConfig(name="vit_so400m_patch14_siglip_384", image_size=384)).patch_embed.grid_size[0]
            == 27
        )


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("test_resnet", 160, "encoder ResNet: MAE needs a plain vision transformer"),
        (
            "vit_tiny_r_s16_p8_224",
            224,
            "encoder HybridEmbed: MAE needs a plain vision transformer",
        ),
        ("vit_so400m_patch14_siglip_384", 384, "encoder.image_size 384: is no multiple of the 14 pixels .* try 378"),
    ],
)
def test_who_masks_patches_needs_plain_ones_that_fill_the_image(name, size, message):
    with torch.device("meta"):
        encoder = make_encoder(EncoderConfig(name=name, image_size=size))
    with pytest.raises(UserError, match=message):
        require_vit(encoder, "MAE")


def test_a_plain_vision_transformer_is_what_it_was():
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=32))
    assert require_vit(encoder, "MAE") is encoder


@pytest.mark.parametrize(
    "name", ["eva02_tiny_patch14_224", "vit_small_patch16_dinov3", "vit_small_patch16_rope_mixed_224"]
)
def test_rotated_positions_vary_too(name):
    """EVA's kind (DINOv3 among it): at its own size the same bits, at another those of an encoder made for it."""
    patch = 14 if "14" in name else 16
    torch.manual_seed(0)
    encoder, small = (make_encoder(EncoderConfig(name=name, image_size=side * patch)).eval() for side in (4, 3))
    images, less = torch.randn(1, 3, 4 * patch, 4 * patch), torch.randn(1, 3, 3 * patch, 3 * patch)
    weights = encoder.state_dict()
    if encoder.pos_embed is not None:
        prefix = 0 if encoder.no_embed_class else encoder.num_prefix_tokens
        weights["pos_embed"] = resample_abs_pos_embed(encoder.pos_embed, (3, 3), num_prefix_tokens=prefix)
    small.load_state_dict(weights)
    with torch.no_grad():
        before = encode(encoder, images)
        vary_sizes(encoder)
        assert all(torch.equal(rows, before[kind]) for kind, rows in encode(encoder, images).items())
        for kind, rows in encode(small, less).items():
            torch.testing.assert_close(encode(encoder, less)[kind], rows, rtol=1e-4, atol=1e-4)
