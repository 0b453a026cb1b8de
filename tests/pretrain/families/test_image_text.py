"""What methods of images and captions share (their losses have tests of their own)."""

import pytest
import torch
from image_text_runs import CONTEXT, SIZE, make_batch, make_objective

from eyespot.data_pipeline.augment.views import Clip, RandomView, TextView
from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.objectives.clip import CLIP


def test_views_are_an_image_of_the_encoders_size_and_a_caption():
    image, text = make_objective(CLIP).views().views
    assert isinstance(image, RandomView) and image.size == SIZE
    assert text == TextView(context=CONTEXT)


def test_rows_are_the_projected_towers_and_the_scale():
    objective, batch = make_objective(CLIP), make_batch()
    rows = objective.embed(batch)
    expected = objective.encoder(batch.views[0]) @ objective.image_projection.weight.T
    assert torch.allclose(rows["image"], expected, atol=1e-12)
    assert torch.equal(rows["text"], objective.text(batch.views[1]))
    assert rows["scale"].tolist() == [objective.scale().item()] * len(batch)
    assert objective.text.end == 49_407, "the tokenizer's"


def test_embedded_jointly_they_are_unit_vectors_of_those_rows():
    objective, batch = make_objective(CLIP), make_batch()
    rows = objective.embed(batch)
    for kind, view in zip(objective.joint, batch.views, strict=True):
        expected = rows[kind] / rows[kind].square().sum(1, keepdim=True).sqrt()
        assert torch.allclose(objective.embed_joint(kind, view), expected, atol=1e-12)


def test_of_a_video_one_frame_is_seen():
    objective, images = make_objective(CLIP), make_batch().views[0]
    assert torch.equal(objective.embed_joint("image", images[:, None]), objective.embed_joint("image", images))
    CLIP.Config(view=RandomView(clip=Clip(1)))
    with pytest.raises(UserError, match=r"objective\.view\.clip\.frames 4: this method sees one frame"):
        CLIP.Config(view=RandomView(clip=Clip(4)))


def test_the_text_tower_learns_from_a_caption_and_the_encoder_does_not():
    objective, batch = make_objective(CLIP), make_batch()
    rows = objective.embed(batch)
    (of_words,) = torch.autograd.grad(rows["text"][0].sum(), objective.text.token_embedding.weight, retain_graph=True)
    assert set(of_words.abs().sum(1).nonzero().flatten().tolist()) == set(batch.views[1][0, :4].tolist())
    assert not any(gradients(rows["text"][0], objective.encoder))


def test_the_encoder_learns_from_an_image_and_the_text_tower_does_not():
    objective, batch = make_objective(CLIP), make_batch()
    images = batch.views[0].requires_grad_()
    row = objective.embed(batch)["image"][0]
    assert all(gradients(row, objective.encoder)) and not any(gradients(row, objective.text))
    (of_pixels,) = torch.autograd.grad(row.sum(), images)
    assert of_pixels.flatten(1).any(1).tolist() == [True] + [False] * (len(batch) - 1)


def gradients(row: torch.Tensor, tower: torch.nn.Module) -> list[bool]:
    """Of each trainable parameter, whether the row depends on it."""
    learning = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(row.sum(), learning, retain_graph=True, allow_unused=True)
    return [each is not None and bool(each.any()) for each in found]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_heads": 3}, r"objective\.text_width 512: must be a multiple of objective\.text_heads 3"),
        ({"out_dim": 1}, r"objective\.out_dim 1: "),
    ],
)
def test_wrong_numbers_name_their_field(changes, message):
    with pytest.raises(UserError, match=message):
        CLIP.Config(**changes)


def test_one_image_is_no_batch():
    CLIP.Config().check_batch(2)
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        CLIP.Config().check_batch(1)
