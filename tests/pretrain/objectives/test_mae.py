"""MAE against a slow, obvious reference in float64, written patch by patch from the paper."""

import numpy as np
import pytest
import timm
import torch
from slow_vit import slow_block, slow_linear, slow_norm, slow_positions

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.patchify import patchify, unpatchify
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, encode_visible, make_encoder
from eyespot.pretrain.objectives.mae import MAE
from eyespot.pretrain.recipe_lookup import make_run

SIZE, PATCH, GRID = 16, 4, 4


def make_mae(**changes) -> MAE:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=PATCH))
    encoder.blocks = encoder.blocks[:2]
    objective = MAE.Config(decoder_dim=24, decoder_depth=2, decoder_heads=3, **changes).build(encoder, SIZE)
    with torch.no_grad():  # biases start at zero; let the comparison see them
        for parameter in objective.parameters():
            if parameter.requires_grad and parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return objective


def make_batch(count: int = 3, dtype: torch.dtype = torch.float64, first_id: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, SIZE, SIZE, generator=generator).to(dtype)
    ids = torch.arange(first_id, first_id + count)
    return Batch(views=[images], ids=ids, epochs=torch.zeros_like(ids), labels=torch.zeros_like(ids), seed=0)


def slow_loss(mae: MAE, batch: Batch, normalize: bool):
    """One image at a time, in image order, predicting every patch: the paper as it is written."""
    vit, losses = mae.encoder, []
    for image, noise in zip(batch.views[0], batch.uniforms("mae/mask", GRID * GRID), strict=True):
        ranked = sorted(range(GRID * GRID), key=lambda patch: (float(noise[patch]), patch))
        visible = sorted(ranked[: GRID * GRID // 4])
        tokens, pixels = [], []
        for patch in range(GRID * GRID):
            top, left = patch // GRID * PATCH, patch % GRID * PATCH
            square = image[:, top : top + PATCH, left : left + PATCH]
            pixels.append(square.permute(1, 2, 0).reshape(-1))  # row, column, channel
            projection = vit.patch_embed.proj
            tokens.append((projection.weight * square).sum(dim=(1, 2, 3)) + projection.bias)
        positions = slow_positions(vit.embed_dim, GRID)
        encoded = torch.stack([vit.cls_token[0, 0]] + [tokens[patch] + positions[patch] for patch in visible])
        for block in vit.blocks:
            encoded = slow_block(encoded, block, 3)
        embedded = slow_linear(slow_norm(encoded, vit.norm), mae.decoder_embed)
        positions = slow_positions(24, GRID)
        decoded = [embedded[0]]
        for patch in range(GRID * GRID):
            token = embedded[1 + visible.index(patch)] if patch in visible else mae.mask_token[0, 0]
            decoded.append(token + positions[patch])
        decoded = torch.stack(decoded)
        for block in mae.decoder_blocks:
            decoded = slow_block(decoded, block, 3)
        predicted = slow_linear(slow_norm(decoded, mae.decoder_norm), mae.decoder_pred)[1:]
        for patch in range(GRID * GRID):
            if patch not in visible:
                target = pixels[patch]
                if normalize:
                    target = (target - target.mean()) / torch.sqrt(target.var() + 1e-6)
                losses.append(((predicted[patch] - target) ** 2).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("normalize", [True, False])
def test_loss_and_gradients_equal_the_slow_reference(normalize):
    mae, batch = make_mae(normalize_targets=normalize).double(), make_batch()
    # sin-cos tables are float32 parameters; the reference has them exactly
    with torch.no_grad():
        mae.encoder.pos_embed[0, 1:] = slow_positions(mae.encoder.embed_dim, GRID)
        mae.decoder_positions.copy_(slow_positions(24, GRID)[None])
    fast = mae(batch)["loss"]
    names, parameters = zip(*((n, p) for n, p in mae.named_parameters() if p.requires_grad), strict=True)
    fast_gradients = torch.autograd.grad(fast, parameters)
    slow = slow_loss(mae, batch, normalize)
    slow_gradients = torch.autograd.grad(slow, parameters)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    for name, a, b in zip(names, fast_gradients, slow_gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-12), name


def test_positions_equal_the_formula():
    mae = make_mae()
    assert torch.allclose(mae.encoder.pos_embed[0, 1:].double(), slow_positions(mae.encoder.embed_dim, GRID), atol=1e-7)
    assert (mae.encoder.pos_embed[0, 0] == 0).all()
    assert not mae.encoder.pos_embed.requires_grad


def test_unmasked_encoder_is_timms_own_forward():
    mae, images = make_mae(), make_batch(dtype=torch.float32).views[0]
    with torch.no_grad():
        expected = mae.encoder.forward_features(images)
        assert torch.equal(encode_visible(mae.encoder, images), expected)
        everything = torch.arange(GRID * GRID).expand(len(images), -1)
        assert torch.equal(encode_visible(mae.encoder, images, everything), expected)


def test_encoder_state_loads_into_timm_unchanged():
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=PATCH))
    mae = MAE.Config(decoder_dim=24, decoder_depth=1, decoder_heads=3).build(encoder, SIZE)
    plain = timm.create_model("vit_tiny_patch16_224", img_size=SIZE, patch_size=PATCH, num_classes=0)
    plain.load_state_dict(mae.encoder.state_dict(), strict=True)
    images = make_batch(dtype=torch.float32).views[0]
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), mae.eval().encode(images))


def test_mask_is_the_samples_own():
    """The same sample is masked alike wherever it sits; another epoch masks it anew; three quarters are masked."""
    mae = make_mae()
    together, shifted = mae.mask_order(make_batch(6)), mae.mask_order(make_batch(4, first_id=2))
    assert torch.equal(together[2:], shifted)
    later = make_batch(6)
    later.epochs = later.epochs + 1
    assert not torch.equal(mae.mask_order(later), together)
    assert mae.num_visible == GRID * GRID // 4
    counts = np.zeros(GRID * GRID)
    for row in mae.mask_order(make_batch(4000))[:, : mae.num_visible]:
        counts[row.numpy()] += 1
    assert np.abs(counts / 4000 - 0.25).max() < 0.03  # four standard deviations of a fair draw


@pytest.mark.parametrize(("kind", "ratio"), [("grid", 0.75), ("block", 0.75), ("block", 0.6)])
def test_other_masks_are_the_samples_own_and_hide_the_same_share(kind, ratio):
    """Of every image as many patches are hidden; its picture shows which; the loss can be taken."""
    mae = make_mae(mask=kind, mask_ratio=ratio)
    together, shifted = mae.mask_order(make_batch(6)), mae.mask_order(make_batch(4, first_id=2))
    assert torch.equal(together[2:], shifted)
    later = make_batch(40)
    later.epochs = later.epochs + 1
    assert not torch.equal(mae.mask_order(later), mae.mask_order(make_batch(40)))
    batch = make_batch(dtype=torch.float32)
    original, seen, filled = mae.picture(batch)
    visible = patchify((seen != 0).float(), PATCH).all(2)
    assert (visible.sum(1) == mae.num_visible).all() and mae.num_visible == int(16 * (1 - ratio))
    chosen = torch.zeros_like(visible).scatter_(1, mae.mask_order(batch)[:, : mae.num_visible], True)
    assert torch.equal(visible, chosen)
    assert torch.equal(filled[seen != 0], original[seen != 0])
    loss = mae(batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss) and mae.mask_token.grad is not None


def test_a_mask_that_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"mask_ratio 0\.6: a grid hides three of every four"):
        MAE.Config(mask="grid", mask_ratio=0.6)
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=12, patch_size=4))
    with pytest.raises(UserError, match="3 x 3 patches cannot be cut into squares of four"):
        MAE.Config(mask="grid", decoder_dim=24, decoder_heads=3).build(encoder, 12)


def test_masked_pixels_do_not_reach_the_encoder():
    mae, batch = make_mae().double(), make_batch()
    order = mae.mask_order(batch)
    patches = patchify(batch.views[0], PATCH)
    hidden = order[:, mae.num_visible :, None].expand(-1, -1, patches.shape[-1])
    changed = unpatchify(patches.scatter(1, hidden, torch.full_like(patches, 9.0)), PATCH, (GRID, GRID))
    with torch.no_grad():
        assert torch.equal(mae.reconstruct(batch.views[0], order), mae.reconstruct(changed, order))


def test_picture_keeps_visible_patches():
    mae, batch = make_mae(), make_batch(dtype=torch.float32)
    original, seen, filled = mae.picture(batch)
    assert torch.equal(original, batch.views[0])
    visible = seen != 0
    assert visible.float().mean() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(filled[visible], original[visible])
    assert not torch.allclose(filled, original)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio"),
        (
            {"decoder_dim": 10, "decoder_heads": 3},
            r"objective\.decoder_dim 10: must be a multiple of objective\.decoder",
        ),
        ({"decoder_dim": 33, "decoder_heads": 3}, r"objective\.decoder_dim 33: must be a multiple of 4"),
    ],
)
def test_wrong_numbers_name_their_field(changes, field):
    with pytest.raises(UserError, match=field):
        MAE.Config(**changes)


def test_trains_an_encoder_with_rotated_positions():
    """DINOv3's kind: what is masked reaches nothing, and all parameters learn."""
    torch.manual_seed(0)
    options = dict(img_size=64, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    encoder = timm.create_model("vit_small_patch16_dinov3", **options)
    mae = MAE.Config(decoder_dim=24, decoder_depth=1, decoder_heads=3).build(encoder, 64)
    ids = torch.arange(2)
    batch = Batch(views=[torch.randn(2, 3, 64, 64)], ids=ids, epochs=ids * 0, labels=ids * 0, seed=0)
    mae(batch)["loss"].backward()
    assert all(parameter.grad is not None for parameter in mae.parameters() if parameter.requires_grad)
    order = mae.mask_order(batch)
    hidden = torch.zeros(2, mae.num_patches, 1).scatter(1, order[:, mae.num_visible :, None], 1.0)
    spoilt = batch.views[0] + 100 * unpatchify(hidden.expand(-1, -1, 3 * 16 * 16), 16, mae.grid)
    with torch.no_grad():
        assert torch.equal(mae.reconstruct(batch.views[0], order), mae.reconstruct(spoilt, order))


def test_needs_a_vision_transformer():
    with pytest.raises(UserError, match="vision transformer"):
        MAE.Config().build(make_encoder(EncoderConfig(name="resnet18")), 224)


@pytest.mark.parametrize(("recipe", "dim", "depth"), [("mae_vitb16_in1k", 768, 12), ("mae_vitl16_in1k", 1024, 24)])
def test_mae_on_imagenet_has_the_papers_numbers(recipe, dim, depth):
    """He et al. 2021, table 8."""
    run = make_run(recipe)
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(1.5e-4 * 4096 / 256)
    assert (run.optim.betas, run.optim.weight_decay, run.optim.clip) == ((0.9, 0.95), 0.05, None)
    assert run.optim.warmup_steps == pytest.approx(40 * 1_281_167 / 4096, abs=1)
    assert run.steps == pytest.approx(800 * 1_281_167 / 4096, abs=1)
    objective = run.objective
    assert (objective.mask_ratio, objective.normalize_targets, objective.crop_scale) == (0.75, True, (0.2, 1.0))
    assert (objective.decoder_dim, objective.decoder_depth, objective.decoder_heads) == (512, 8, 16)
    with torch.device("meta"):
        encoder = make_encoder(run.encoder)
    assert (encoder.embed_dim, len(encoder.blocks), encoder.patch_embed.patch_size) == (dim, depth, (16, 16))
