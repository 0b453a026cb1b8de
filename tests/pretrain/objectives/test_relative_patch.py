"""Relative patches: the labels are right, and nothing but the content tells them."""

import math

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.relative_patch import CENTRE, NEIGHBOURS, RelativePatch

COUNT, SIZE = 64, 8


def make_objective(**changes) -> RelativePatch:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    return RelativePatch.Config(hidden_dim=16, **changes).build(encoder, SIZE).eval()


def make_batch(objective: RelativePatch, images=None, epoch: int = 0) -> Batch:
    size = objective.views().views[0].size
    if images is None:
        images = torch.randn(COUNT, 3, size, size, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(len(images))
    return Batch(views=[images], ids=ids, epochs=torch.full_like(ids, epoch), labels=ids, seed=0)


def place_image(objective: RelativePatch) -> torch.Tensor:
    """An image whose pixels say in which cell they lie."""
    size = objective.views().views[0].size
    cells = torch.arange(size) // (size // 3)
    return (3 * cells[:, None] + cells).float().expand(COUNT, 3, size, size)


def test_the_label_is_where_the_neighbour_lay():
    objective = make_objective(drop_colors=False)
    patches, sides = objective.pairs(make_batch(objective, place_image(objective)))
    assert (patches[:, 0] == CENTRE).all()
    assert (patches[:, 1] == torch.tensor(NEIGHBOURS)[sides].view(-1, 1, 1, 1)).all()
    assert set(sides.tolist()) == set(range(8))


def test_an_image_has_another_question_in_each_epoch():
    objective = make_objective()
    first, again = (objective.pairs(make_batch(objective))[1] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, objective.pairs(make_batch(objective, epoch=1))[1])


def test_patches_never_touch():
    """Every middle patch and its neighbour have a pixel or more between them in some image: gaps vary."""
    objective = make_objective(drop_colors=False)
    size = objective.views().views[0].size
    rows = torch.arange(size).float()[:, None].expand(size, size)
    images = torch.stack([rows, rows.T, rows]).expand(COUNT, 3, size, size)
    patches, sides = objective.pairs(make_batch(objective, images))
    gaps = []
    for (middle, neighbour), side in zip(patches, sides.tolist(), strict=True):
        if NEIGHBOURS[side] == 1:  # above
            gaps.append(int(middle[0].min() - neighbour[0].max()) - 1)
    assert len(set(gaps)) > 1
    assert min(gaps) >= 0


def test_without_content_it_is_chance():
    """Images of one colour: no encoder can tell one side from another, whatever padding and order might say."""
    objective = make_objective()
    size = objective.views().views[0].size
    flat = torch.randn(COUNT, 3, 1, 1).expand(COUNT, 3, size, size)
    patches, _ = objective.pairs(make_batch(objective, flat))
    assert torch.equal(patches[:, 0], patches[:, 0, :, :1, :1].expand_as(patches[:, 0]))
    assert torch.equal(patches[:, 0], patches[:, 1])


def test_the_loss_is_the_slow_reference():
    objective = make_objective().double()
    batch = make_batch(objective, place_image(objective).double() + torch.randn(COUNT, 3, 36, 36).double())
    patches, sides = objective.pairs(batch)
    losses = []
    for (middle, neighbour), side in zip(patches, sides.tolist(), strict=True):
        both = torch.cat([objective.encode(patch[None])[0] for patch in (middle, neighbour)])
        logits = objective.head(both[None])[0]
        losses.append(logits.exp().sum().log() - logits[side])
    assert objective(batch)["loss"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-10)


def test_untrained_it_knows_nothing():
    objective = make_objective()
    assert objective(make_batch(objective))["loss"].item() == pytest.approx(math.log(8), abs=0.3)


def test_a_picture_shows_where_they_belong():
    objective = make_objective()
    batch = make_batch(objective)
    middle, other, said, right = objective.picture(batch)
    patches, sides = objective.pairs(batch)
    assert torch.equal(middle[..., ::3, ::3], patches[:8, 0])
    assert torch.equal(other[..., ::3, ::3], patches[:8, 1])
    for image, side in enumerate(sides[:8].tolist()):
        row, column = (SIZE * part for part in divmod(NEIGHBOURS[side], 3))
        assert torch.equal(right[image, :, SIZE : 2 * SIZE, SIZE : 2 * SIZE], patches[image, 0])
        assert torch.equal(right[image, :, row : row + SIZE, column : column + SIZE], patches[image, 1])
    answers = objective.logits(patches[:8]).argmax(1) == sides[:8]
    assert [bool(torch.equal(one, two)) for one, two in zip(said, right, strict=True)] == answers.tolist()


def test_wrong_numbers_name_their_field():
    with pytest.raises(UserError, match=r"objective\.gap 3"):
        RelativePatch.Config(gap=3.0)
