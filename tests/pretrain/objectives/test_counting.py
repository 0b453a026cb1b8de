"""Counting against a slow reference in float64, sample by sample; what must not give the answer away."""

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.counting import SHRINKING, Counting, quarters, shrunken

COUNT, SIZE = 12, 8


def make_counting(**changes) -> Counting:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    return Counting.Config(**{"hidden_dim": 16, "num_counts": 5} | changes).build(encoder, SIZE).double()


def make_batch(epoch: int = 0) -> Batch:
    views = torch.randn(COUNT, 3, 2 * SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = torch.arange(COUNT) + 40
    return Batch(views=[views], ids=ids, epochs=torch.full_like(ids, epoch), labels=ids, seed=0)


def slow_loss(objective: Counting, batch: Batch, margin: float) -> torch.Tensor:
    def counts(image):
        return objective.head(objective.encode(image[None]))[0].clamp(min=0)

    small = [counts(image) for image in shrunken(batch.views[0], batch.uniforms("shrinking", 1)[:, 0])]
    place = batch.uniforms("other image", 1)[:, 0].tolist()
    order = sorted(range(COUNT), key=lambda number: place[number])
    losses = []
    for at, number in enumerate(order):
        x = batch.views[0][number]
        parts = [x[:, :SIZE, :SIZE], x[:, :SIZE, SIZE:], x[:, SIZE:, :SIZE], x[:, SIZE:, SIZE:]]
        total = sum(counts(part) for part in parts)
        other = small[order[(at + 1) % COUNT]]
        losses.append(((small[number] - total) ** 2).sum() + (margin - ((other - total) ** 2).sum()).clamp(min=0))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("margin", [0.01, 10.0])
def test_loss_and_gradients_equal_the_slow_reference(margin):
    """With a margin that some pairs of images keep already, and with one that none does."""
    objective, batch = make_counting(margin=margin), make_batch()
    fast, slow = objective(batch)["loss"], slow_loss(objective, batch, margin)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-10)
    parameters = list(objective.parameters())
    for ours, theirs in zip(torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-11)


def test_the_quarters_are_the_image():
    (view,) = make_batch().views
    upper_left, upper_right, lower_left, lower_right = quarters(view)
    rows = [torch.cat(row, dim=3) for row in ((upper_left, upper_right), (lower_left, lower_right))]
    assert torch.equal(torch.cat(rows, dim=2), view)


def test_a_count_that_adds_up_is_the_answer():
    """As the sum of dots does, each in one pixel of the shrunken image: only the other image is left to pay for."""
    dots = torch.zeros(2, 1, 2 * SIZE, 2 * SIZE, dtype=torch.float64)
    dots[0, 0, 2:4, 2:4] = dots[0, 0, 10:12, 6:8] = dots[1, 0, :2, 14:] = 1
    small = dots.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    assert [image.sum().item() for image in small] == [2, 1]
    parts = torch.stack(quarters(dots.expand(-1, 3, -1, -1)))[:, :, 0].sum((0, 2, 3)) / 4
    assert parts.tolist() == [2, 1]
    rows = {"whole": small.sum((1, 2, 3))[:, None], "parts": parts[:, None], "place": torch.tensor([[0.1], [0.2]])}
    found = make_counting(margin=1.0).compare(rows)
    assert (found["same"], found["other"], found["loss"]) == (0, 1, 0)
    rows["whole"] = rows["parts"] = torch.zeros(2, 1, dtype=torch.float64)  # to count nothing is no way out
    assert make_counting(margin=1.0).compare(rows)["loss"] == 1


def test_another_image_is_never_the_same_one():
    """Also where two samples drew the same place."""
    counts = torch.eye(4)  # any two are at a squared distance of 2
    for places in ([0.3, 0.1, 0.2, 0.9], [0.1, 0.1, 0.2, 0.2], [0.9, 0.9, 0.9, 0.1]):
        found = make_counting().compare({"whole": counts, "parts": counts, "place": torch.tensor(places)[:, None]})
        assert (found["same"], found["other"]) == (0, 2)


def test_the_way_of_shrinking_follows_neither_the_image_nor_its_place_in_the_batch():
    (view,) = make_batch().views
    same = view[:1].expand(900, -1, -1, -1)
    ids = torch.arange(900)
    batch = Batch(views=[same], ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)
    found = shrunken(same, batch.uniforms("shrinking", 1)[:, 0])
    kinds = found.flatten(1).unique(dim=0, return_counts=True)[1]
    assert len(kinds) == len(SHRINKING)
    assert kinds.min() > 900 / len(SHRINKING) * 0.8
    areas = view.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    assert torch.allclose(shrunken(view, torch.zeros(COUNT)), areas)
    for draw in (0.4, 0.9):
        small = shrunken(view, torch.full((COUNT,), draw))
        assert not torch.allclose(small, areas, atol=0.1)
        assert small.mean().item() == pytest.approx(areas.mean().item(), abs=0.01)


def test_an_image_meets_another_one_in_each_epoch():
    objective = make_counting(margin=1000.0).eval()
    first, again = (objective(make_batch())["other"] for _ in range(2))
    assert first == again
    assert first != objective(make_batch(epoch=1))["other"]


def test_a_picture_is_ordered_by_what_is_counted():
    objective, batch = make_counting(), make_batch()
    found = objective.picture(batch)
    assert found.shape == (2, 8, 3, 2 * SIZE, 2 * SIZE)
    totals = objective.embed(batch)["whole"][:8].sum(1)
    assert torch.equal(found[0, 0, :, 0, 0], batch.views[0][totals.argmin(), :, 0, 0].float())
    assert torch.equal(found[0, -1, :, 0, 0], batch.views[0][totals.argmax(), :, 0, 0].float())


def test_wrong_numbers_name_their_field():
    with pytest.raises(UserError, match=r"objective\.margin 0"):
        Counting.Config(margin=0.0)
    with pytest.raises(UserError, match=r"objective\.num_counts 0"):
        Counting.Config(num_counts=0)
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        Counting.Config().check_batch(1)
