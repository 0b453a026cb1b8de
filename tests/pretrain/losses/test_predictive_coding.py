"""InfoNCE of predicted places against a slow reference in float64, one prediction and one patch after the other."""

import math

import pytest
import torch

from eyespot.pretrain.losses.predictive_coding import predictive_coding_loss

PLACES = torch.tensor([2, 0, 2, 1])


def make_rows(count: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (count, len(PLACES), 5), (count, 3, 5)
    predictions, patches = (scale * torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return predictions.requires_grad_(), patches.requires_grad_()


def slow_loss(predictions, patches, ids, image: int, number: int):
    """Of one prediction; and whether its image has no likelier patch."""
    asked, scores = predictions[image, number], {}
    for other in range(len(patches)):
        if other == image or ids[other] != ids[image]:
            scores |= {(other, place): asked @ patches[other, place] for place in range(3)}
    right = scores[image, int(PLACES[number])]
    best = max(scores[image, place].item() for place in range(3))
    return torch.stack(list(scores.values())).logsumexp(0) - right, right.item() == best


@pytest.mark.parametrize("scale", [0.5, 30.0], ids=["few differences", "large scores"])
@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [5, 1, 5, 0], [7]], ids=["distinct", "one image twice", "one image"])
def test_losses_and_gradients_equal_the_slow_reference(ids, scale):
    predictions, patches = make_rows(len(ids), scale)
    losses, found = predictive_coding_loss(predictions, patches, PLACES, ids=torch.tensor(ids))
    expected = [[slow_loss(predictions, patches, ids, i, n) for n in range(len(PLACES))] for i in range(len(ids))]
    wanted = torch.stack([torch.stack([loss for loss, _ in row]) for row in expected])
    assert torch.allclose(losses, wanted, rtol=1e-10, atol=1e-12)
    assert found.tolist() == [[right for _, right in row] for row in expected]
    weights = torch.rand(losses.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    both = (torch.autograd.grad((each * weights).sum(), (predictions, patches)) for each in (losses, wanted))
    for ours, theirs in zip(*both, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-10)


def test_where_nothing_is_known_it_is_the_logarithm_of_all_patches():
    predictions, patches = make_rows(4, 1.0)
    losses, _ = predictive_coding_loss(0 * predictions, patches, PLACES, ids=torch.arange(4))
    assert torch.allclose(losses, torch.full_like(losses, math.log(12)))


def test_half_precision_is_reckoned_in_single():
    predictions, patches = (rows.detach().bfloat16() for rows in make_rows(4, 1.0))
    losses, _ = predictive_coding_loss(predictions, patches, PLACES, ids=torch.arange(4))
    expected, _ = predictive_coding_loss(predictions.float(), patches.float(), PLACES, ids=torch.arange(4))
    assert losses.dtype == torch.float32
    assert torch.equal(losses, expected)
