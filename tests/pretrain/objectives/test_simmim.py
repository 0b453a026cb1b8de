"""SimMIM against a slow, obvious reference in float64, written image by image and pixel by pixel from the paper."""

import pytest
import torch
from slow_vit import slow_block, slow_linear, slow_norm

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.patchify import patchify, unpatchify
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.simmim import SimMIM
from eyespot.pretrain.recipe_lookup import make_run

SIZE, PATCH, SQUARE = 24, 4, 8
SWIN = EncoderConfig(name="swin_tiny_patch4_window7_224", image_size=64)


def make_simmim(**changes) -> SimMIM:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=PATCH))
    encoder.blocks = encoder.blocks[:2]
    objective = SimMIM.Config(mask_size=SQUARE, **changes).build(encoder, SIZE)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return objective.double()


def make_swin() -> SimMIM:
    torch.manual_seed(0)
    return SimMIM.Config(mask_size=16).build(make_encoder(SWIN), SWIN.image_size).double().eval()


def make_batch(count: int = 3, first_id: int = 0, size: int = SIZE) -> Batch:
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ids = torch.arange(first_id, first_id + count)
    return Batch(views=[images], ids=ids, epochs=torch.zeros_like(ids), labels=torch.zeros_like(ids), seed=0)


def slow_errors(simmim: SimMIM, batch: Batch):
    """Of each image those of its hidden pixels."""
    vit, side = simmim.encoder, SIZE // PATCH
    for image, squares in zip(batch.views[0], simmim.hidden_squares(batch).tolist(), strict=True):
        hidden = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        for square in squares:
            top, left = square // (SIZE // SQUARE) * SQUARE, square % (SIZE // SQUARE) * SQUARE
            hidden[top : top + SQUARE, left : left + SQUARE] = True
        tokens = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]]
        for patch in range(side * side):
            top, left = patch // side * PATCH, patch % side * PATCH
            pixels = image[:, top : top + PATCH, left : left + PATCH]
            token = (vit.patch_embed.proj.weight * pixels).sum(dim=(1, 2, 3)) + vit.patch_embed.proj.bias
            tokens.append((simmim.mask_token[0, 0] if hidden[top, left] else token) + vit.pos_embed[0, 1 + patch])
        tokens = torch.stack(tokens)
        for block in vit.blocks:
            tokens = slow_block(tokens, block, 3)
        filled = slow_linear(slow_norm(tokens, vit.norm)[1:], simmim.head)
        errors = []
        for y, x in hidden.nonzero().tolist():
            row, inside = y // PATCH * side + x // PATCH, (y % PATCH * PATCH + x % PATCH) * 3
            errors.append((filled[row, inside : inside + 3] - image[:, y, x]).abs())
        yield torch.stack(errors)


def test_loss_and_gradients_equal_the_slow_reference():
    simmim, batch = make_simmim(), make_batch()
    fast, slow = simmim(batch)["loss"], torch.stack([*slow_errors(simmim, batch)]).mean()
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    parameters = list(simmim.parameters())
    for ours, theirs in zip(torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("make", [make_simmim, make_swin], ids=["vit", "swin"])
def test_hidden_pixels_reach_no_prediction(make):
    simmim = make()
    batch, size = make_batch(size=simmim.image_size), simmim.config.mask_size
    squares = simmim.hidden_squares(batch)
    patches = patchify(batch.views[0], size)
    index = squares[..., None].expand(-1, -1, patches.shape[2])
    changed = unpatchify(patches.scatter(1, index, 9.0), size, simmim.grid)
    with torch.no_grad():
        ours, theirs = simmim.filled_in(batch.views[0], squares), simmim.filled_in(changed, squares)
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, simmim.filled_in(batch.views[0] + 1, squares))


def test_a_swin_that_sees_all_gives_what_timm_gives():
    simmim = make_swin()
    images = make_batch(size=SWIN.image_size).views[0]
    nothing = torch.zeros(len(images), 16, 16, dtype=torch.bool)
    with torch.no_grad():
        tokens = simmim.see(images, nothing)
        assert torch.equal(tokens, simmim.encoder.forward_features(images).flatten(1, 2))
        assert torch.equal(tokens, simmim.read(simmim.encoder, images))
        assert torch.allclose(simmim.encode(images), tokens.mean(1))
    assert (simmim.stride, simmim.num_hidden, simmim.head.out_features) == (32, 9, 32 * 32 * 3)


def test_squares_are_the_samples_own():
    simmim = make_simmim()
    together, shifted = simmim.hidden_squares(make_batch(6)), simmim.hidden_squares(make_batch(4, first_id=2))
    assert torch.equal(together[2:], shifted)
    assert together.shape == (6, int(0.6 * 9)) and len(set(map(tuple, together.tolist()))) > 1


def test_a_picture_shows_what_is_hidden_and_what_is_put_there():
    simmim, batch = make_simmim(), make_batch()
    simmim.float()
    images, seen, filled = simmim.picture(batch)
    shown = seen == images
    assert torch.equal(filled[shown], images[shown])
    assert (~shown).double().mean() == pytest.approx(5 / 9)
    assert (seen[~shown] == 0).all() and (filled[~shown] != images[~shown]).any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"mask_size": 6},
            r"objective\.mask_size 6: must be a multiple of the encoder's patch of 4 pixels, and divide",
        ),
        ({"mask_size": 16}, r"objective\.mask_size 16: .* divide encoder\.image_size 24"),
        ({"mask_size": 8, "mask_ratio": 0.1}, r"objective\.mask_ratio 0\.1: hides none of 9 squares of 8 pixels"),
        ({"crop_scale": (1.0, 0.5)}, r"objective\.crop_scale \(1\.0, 0\.5\): must have the smaller area first"),
    ],
)
def test_wrong_numbers_name_their_field(changes, said):
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=PATCH))
    with pytest.raises(UserError, match=said):
        SimMIM.Config(**changes).build(encoder, SIZE)


def test_a_convolutional_encoder_is_refused():
    with pytest.raises(UserError, match="SimMIM needs a plain vision transformer"):
        SimMIM.Config().build(make_encoder(EncoderConfig(name="test_resnet", image_size=32)), 32)


@pytest.mark.parametrize(("recipe", "size"), [("simmim_swinb_in1k", 192), ("simmim_vitb16_in1k", 224)])
def test_simmim_on_imagenet_has_the_authors_numbers(recipe, size):
    run = make_run(recipe)
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(4e-4)
    assert run.steps == pytest.approx(800 * 1_281_167 / 2048, abs=1)
    assert run.optim.warmup_steps == pytest.approx(10 * 1_281_167 / 2048, abs=1)
    assert (run.optim.decay_at, run.optim.clip, run.optim.weight_decay) == ((0.875,), 5.0, 0.05)
    assert (run.encoder.image_size, run.objective.mask_size, run.objective.mask_ratio) == (size, 32, 0.6)
    with torch.device("meta"):
        run.objective.build(make_encoder(run.encoder), size)
