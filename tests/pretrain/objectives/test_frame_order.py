"""Shuffle and learn against a slow reference, and that nothing but the middle frame tells true from false."""

import math

import pytest
import torch

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.frame_order import FALSE, TRUE, FrameOrder
from eyespot.pretrain.recipe_lookup import make_run

COUNT, SIZE = 3, 16


def make_order(**changes) -> FrameOrder:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=8))
    return FrameOrder.Config(channels=4, frame_dim=6, hidden_dim=8, **changes).build(encoder, SIZE).double().eval()


def make_batch(clips: torch.Tensor) -> Batch:
    ids = torch.arange(len(clips))
    return Batch(views=[clips], ids=ids, epochs=ids, labels=ids, seed=0)


def make_clips() -> torch.Tensor:
    return torch.randn(COUNT, 5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_loss_accuracy_and_gradients_equal_the_slow_reference(share):
    objective, clips = make_order(true_share=share), make_clips()
    convolution, _, _, linear, _ = objective.frame_head
    losses, right = {True: [], False: []}, {True: [], False: []}
    for clip in clips:
        vectors = []
        for frame in clip:
            tokens = objective.encoder.forward_features(frame[None])[0, 1:]  # 2 x 2 places, row by row
            seen = torch.stack(
                [(convolution.weight[:, :, 0, 0] @ token + convolution.bias).clamp_min(0) for token in tokens]
            )
            vectors.append((linear.weight @ seen.T.reshape(-1) + linear.bias).clamp_min(0))
        a, b, c, d, e = vectors
        tuples = [((b, c, d), True), ((d, c, b), True)]
        tuples += [((x, y, z), False) for y in (a, e) for x, z in ((b, d), (d, b))]
        for three, is_true in tuples:
            logit = objective.head(torch.cat(three))[0]
            chance = 1 / (1 + torch.exp(-logit))
            losses[is_true].append(-torch.log(chance if is_true else 1 - chance))
            right[is_true].append(float((chance > 0.5) == is_true))
    slow = share * torch.stack(losses[True]).mean() + (1 - share) * torch.stack(losses[False]).mean()
    found = objective(make_batch(clips))
    assert found["loss"].item() == pytest.approx(slow.item(), rel=1e-12)
    assert found["accuracy"].item() == pytest.approx(sum(sum(r) / len(r) for r in right.values()) / 2)
    each = objective.told(make_batch(clips))
    assert each.shape == (COUNT,) and each.mean().item() == pytest.approx(found["accuracy"].item())
    parameters = [p for p in objective.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (found["loss"], slow))
    assert all(
        torch.allclose(one, other, atol=1e-12) for one, other in zip(ours, theirs, strict=True) if one is not None
    )


def test_true_orders_are_the_monotone_ones_and_ends_are_the_same_in_all():
    for order in TRUE + FALSE:
        assert (list(order) in (sorted(order), sorted(order, reverse=True))) == (order in TRUE)
        assert {order[0], order[2]} == {1, 3}


def test_a_video_in_which_nothing_moves_tells_nothing():
    objective = make_order(true_share=0.5)
    clips = make_clips()[:, :1].expand(-1, 5, -1, -1, -1)
    logit = objective.logits(clips)
    assert torch.allclose(logit, logit[:, :1].expand_as(logit), atol=1e-12)
    found = objective(make_batch(clips))
    assert found["accuracy"] == 0.5 and found["loss"] >= math.log(2) - 1e-12


@pytest.mark.parametrize(
    ("view", "field"),
    [
        (RandomView(), r"objective\.view\.clip None"),
        (RandomView(clip=Clip(5)), r"objective\.view\.clip\.pick 'even'"),
    ],
)
def test_other_frames_than_the_five_are_refused(view, field):
    with pytest.raises(UserError, match=field):
        FrameOrder.Config(view=view)


def test_on_ucf101_it_has_the_authors_numbers():
    """The solver's file of the authors, and section 4 for windows and shares."""
    run = make_run("frame_order_r50_ucf101")
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(1e-3)
    assert (run.steps, run.data.batch_size, run.optim.momentum, run.optim.weight_decay) == (100_000, 128, 0.9, 5e-4)
    assert run.optim.decay_at == (0.8,) and run.objective.true_share == 0.25
    clip = run.objective.view.clip
    assert clip.by_motion and 2 * clip.stride <= 60 and clip.stride >= 15
