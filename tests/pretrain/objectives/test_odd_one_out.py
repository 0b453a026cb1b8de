"""Odd-one-out networks against a slow reference; which sequence is odd, and that chance alone says where it lies."""

from itertools import pairwise

import pytest
import torch

from eyespot.data_pipeline.augment.views import Clip, RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.odd_one_out import OddOneOut

SIZE, FRAMES, LENGTH = 16, 7, 3


def make_odd() -> OddOneOut:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=8))
    view = RandomView(clip=Clip(FRAMES))
    config = OddOneOut.Config(length=LENGTH, channels=4, frame_dim=6, hidden_dim=8, view=view)
    return config.build(encoder, SIZE).double().eval()


def make_batch(count: int, first_id: int = 0, size: int = SIZE) -> Batch:
    clips = torch.randn(count, FRAMES, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ids = torch.arange(first_id, first_id + count)
    return Batch(views=[clips], ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def test_loss_and_gradients_equal_the_slow_reference():
    objective, batch = make_odd(), make_batch(3)
    frames, odd = objective.drawn(batch)
    losses, hits = [], 0
    for clip, sequences, place in zip(batch.views[0], frames.tolist(), odd.tolist(), strict=True):
        vectors = []
        for sequence in sequences:
            seen = [objective.frame_head(objective.read(objective.encoder, clip[frame][None]))[0] for frame in sequence]
            vectors.append(
                (objective.sequence_head.weight @ torch.cat(seen) + objective.sequence_head.bias).clamp_min(0)
            )
        total = sum((j - i) * (vectors[j] - vectors[i]) for j in range(6) for i in range(j))
        logits = objective.head(total / 15)
        losses.append(logits.exp().sum().log() - logits[place])
        hits += int(logits.argmax() == place)
    slow, found = torch.stack(losses).mean(), objective(batch)
    assert found["loss"].item() == pytest.approx(slow.item(), rel=1e-9)
    assert found["accuracy"].item() == pytest.approx(hits / 3)
    assert objective.told(batch).sum() == hits and objective.chance == pytest.approx(1 / 6)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (found["loss"], slow))
    assert all(
        torch.allclose(one, other, atol=1e-9) for one, other in zip(ours, theirs, strict=True) if one is not None
    )


def test_all_but_one_sequence_go_forwards_and_that_one_lies_anywhere():
    objective, count = make_odd(), 3000
    frames, odd = objective.drawn(make_batch(count, size=1))
    rises = torch.tensor([[all(x < y for x, y in pairwise(s)) for s in sample] for sample in frames[:300].tolist()])
    assert (rises.sum(1) == 5).all()
    assert torch.equal(rises.long().argmin(1), odd[:300])
    assert all(len(set(sequence)) == LENGTH for sample in frames[:300].tolist() for sequence in sample)
    assert (odd.bincount(minlength=6) / count - 1 / 6).abs().max() < 0.035  # five standard deviations
    shown = frames.flatten().bincount(minlength=FRAMES) / frames.numel()
    assert (shown - 1 / FRAMES).abs().max() < 0.01


def test_the_question_is_the_samples_own():
    objective = make_odd()
    together, shifted = objective.drawn(make_batch(6)), objective.drawn(make_batch(4, first_id=2))
    assert all(torch.equal(one[2:], other) for one, other in zip(together, shifted, strict=True))


def test_a_clip_shorter_than_a_sequence_is_refused():
    with pytest.raises(UserError, match=r"objective\.view\.clip\.frames 4: this method needs 6 or more"):
        OddOneOut.Config(view=RandomView(clip=Clip(4)))


@pytest.mark.parametrize("sequences", [3, 63])
def test_an_odd_number_of_sequences_is_refused(sequences):
    said = rf"objective\.sequences {sequences}: .* is never seen; set it to {sequences + 1}$"
    with pytest.raises(UserError, match=said):
        OddOneOut.Config(sequences=sequences)


@pytest.mark.parametrize("sequences", [2, 4, 64])
def test_every_sequence_weighs_something(sequences):
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=8))
    config = OddOneOut.Config(sequences=sequences, length=LENGTH, frame_dim=2, hidden_dim=2)
    assert (config.build(encoder, SIZE).weights != 0).all()
