"""Masks of large views and what the student sees, against what they are meant to be."""

from dataclasses import replace

import pytest
import torch

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.masked_self_distillation import chosen
from eyespot.pretrain.families.token_encoders import encode_with_holes
from eyespot.pretrain.networks.encoders import EncoderConfig, encode_visible, make_encoder
from eyespot.pretrain.objectives.ibot import IBOT

SIZE, PATCH, PATCHES = 32, 4, 64


def make_ibot(name: str = "test_vit", **changes) -> IBOT:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name=name, image_size=SIZE, patch_size=PATCH))
    small = RandomView(size=16)
    settings = {"num_small": 0, "hidden_dim": 8, "bottleneck_dim": 4, "out_dim": 5, "small": small} | changes
    return IBOT.Config(**settings).build(encoder, SIZE)


def make_batch(count: int, first: int = 0) -> Batch:
    ids = torch.arange(first, first + count)
    views = [torch.randn(count, 3, SIZE, SIZE) for _ in range(2)]
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def test_as_many_patches_are_hidden_as_is_said():
    objective, count = make_ibot(mask_chance=0.5, mask_ratios=(0.1, 0.4)), 1000
    masks = objective.masks(make_batch(count))
    whole = masks.whole(PATCHES)
    assert whole.shape == (2, count, PATCHES) and masks.places.shape == (2, count, int(0.4 * PATCHES))
    hidden = whole.sum(2)
    assert torch.equal(hidden, masks.hidden.sum(2)), "no patch is there twice"
    touched = hidden[hidden > 0].float()
    assert len(touched) / (2 * count) == pytest.approx(0.5, abs=0.05)
    assert touched.min() == int(0.1 * PATCHES) and touched.max() == int(0.4 * PATCHES)
    assert touched.mean().item() == pytest.approx(0.25 * PATCHES - 0.5, abs=0.5)
    assert 0.2 < ((hidden[0] > 0) == (hidden[1] > 0)).float().mean() < 0.8, "views are drawn each on its own"


def test_hidden_patches_lie_in_blocks():
    masks = make_ibot(mask_chance=1.0, mask_ratios=(0.3, 0.3)).masks(make_batch(300))
    whole = masks.whole(PATCHES).flatten(0, 1).unflatten(1, (8, 8)).float()
    share = int(0.3 * PATCHES) / PATCHES
    beside = (whole[:, :, 1:] * whole[:, :, :-1]).mean() / whole.mean()
    assert beside > 2 * share, "two that are hidden lie beside each other far more often than by chance"


def test_masks_belong_to_the_sample():
    """Not to its place in the batch, the rank or the micro-batch; another epoch draws others."""
    objective = make_ibot()
    batch = make_batch(8)
    whole = objective.masks(batch).whole(PATCHES)
    assert torch.equal(objective.masks(make_batch(3, first=5)).whole(PATCHES), whole[:, 5:])
    later = replace(batch, epochs=batch.epochs + 1)
    assert not torch.equal(objective.masks(later).whole(PATCHES), whole)


def test_very_few_patches_are_one_at_least():
    masks = make_ibot(mask_chance=1.0, mask_ratios=(0.001, 0.002)).masks(make_batch(20))
    assert (masks.whole(PATCHES).sum(2) == 1).all()


@pytest.mark.parametrize("num_small", [0, 1])
def test_a_learned_token_stands_where_a_patch_is_hidden(num_small):
    objective = make_ibot(num_small=num_small).double()
    vit, images = objective.student, torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    token = torch.randn(1, 1, vit.embed_dim, dtype=torch.float64)
    hidden = torch.rand(2, PATCHES, generator=torch.Generator().manual_seed(0)) < 0.3
    found = encode_with_holes(vit, images, token, hidden)
    for image, own, expected in zip(images, hidden, found, strict=True):
        projected = vit.patch_embed.proj(image[None])[0].flatten(1).T
        rows = [token[0, 0] if own[place] else projected[place] for place in range(PATCHES)]
        slow = torch.stack([vit.cls_token[0, 0], *rows]) + vit.pos_embed[0]
        slow = vit.norm(vit.blocks(vit.norm_pre(slow[None])))[0]
        assert torch.allclose(slow, expected, rtol=1e-6, atol=1e-7)
    assert torch.allclose(encode_with_holes(vit, images, token, hidden & False), encode_visible(vit, images))


def test_what_is_hidden_from_the_student_the_teacher_sees():
    objective = make_ibot(mask_chance=1.0).eval()
    batch = make_batch(3)
    masks = objective.masks(batch)
    pixels = masks.whole(PATCHES).unflatten(2, (8, 8)).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    other = replace(batch, views=[v + own[:, None] for v, own in zip(batch.views, pixels, strict=True)])
    with torch.no_grad():
        before, after = (objective.seen_by_student(b, masks) for b in (batch, other))
        assert torch.equal(before.classes, after.classes) and torch.equal(before.patches, after.patches)
        before, after = (objective.seen_by_teacher(b) for b in (batch, other))
    assert not torch.allclose(before.patches, after.patches)
    assert before.patches.shape == (2, 3, PATCHES, objective.student.embed_dim)


def test_registers_are_no_patches():
    vit = make_encoder(EncoderConfig(name="vit_small_patch14_reg4_dinov2", image_size=28))
    config = IBOT.Config(num_small=0, hidden_dim=8, bottleneck_dim=4, out_dim=5)
    objective = config.build(vit, 28)
    ids = torch.arange(2)
    views = [torch.randn(2, 3, 28, 28) for _ in range(2)]
    seen = objective.seen_by_teacher(Batch(views=views, ids=ids, epochs=ids * 0, labels=ids, seed=0))
    expected = vit.forward_features(views[1])
    assert expected.shape[1] == 1 + 4 + 4
    assert torch.allclose(seen.classes[1], expected[:, 0], atol=1e-5)
    assert torch.allclose(seen.patches[1], expected[:, 5:], atol=1e-5)


def test_rows_at_places():
    rows, places = torch.arange(2 * 3 * 4 * 2).view(2, 3, 4, 2).float(), torch.tensor([3, 1]).expand(2, 3, 2)
    assert torch.equal(chosen(rows, places), rows[:, :, [3, 1]])


def test_the_picture_shows_the_holes():
    objective, batch = make_ibot(mask_chance=1.0), make_batch(3)
    picture = objective.picture(batch)
    hidden = objective.masks(batch).whole(PATCHES)[0].float().mean()
    assert len(picture) == len(objective.picture_rows)
    assert (picture[1] == 0).float().mean().item() == pytest.approx(hidden.item())
    assert torch.equal(picture[0], batch.views[0])


def test_an_encoder_without_class_token_is_refused():
    encoder = make_encoder(EncoderConfig(name="vit_wee_patch16_reg1_gap_256", image_size=32))
    with pytest.raises(UserError, match="needs a class token"):
        IBOT.Config(num_small=0).build(encoder, 32)
    with pytest.raises(UserError, match="needs a plain vision transformer"):
        IBOT.Config(num_small=0).build(make_encoder(EncoderConfig(name="test_resnet", image_size=32)), 32)


@pytest.mark.parametrize(
    ("field", "value"),
    [("mask_ratios", (0.5, 0.1)), ("mask_ratios", (0.0, 0.1)), ("mask_chance", 0.0), ("momentum", 1.5)],
)
def test_wrong_numbers_name_their_field(field, value):
    with pytest.raises(UserError, match=f"objective.{field} "):
        IBOT.Config(**{field: value})
