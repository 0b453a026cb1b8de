"""The attentive probe against one that is written out in float64; what plays a part in it, and what does not."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from eyespot.eval.encoders.timm_sources import seeded
from eyespot.eval.protocols.clips import attentive
from eyespot.eval.protocols.clips.attentive import AttentiveProbe, answers, batches, logits
from eyespot.eval.protocols.task import Task


def videos(count: int = 90, *, apart: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Of ten tokens each, one of which says the class; where it stands nobody knows."""
    labels = torch.arange(count) % 3
    tokens = torch.randn(count, 10, 6)
    tokens[:, :, 5] *= 0.1
    told = torch.randint(10, (count,))
    rows = torch.arange(count)
    tokens[rows, told, labels] += apart
    tokens[rows, told, 5] += 3.0
    return tokens, labels


def slow_logits(
    weights: dict[str, torch.Tensor], tokens: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor, heads: int
) -> torch.Tensor:
    """Video by video, head by head, with every key and every value."""
    width = tokens.shape[2] // heads
    found = []
    for video in tokens:
        seen, pooled = (video - mean) / deviation, []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            keys, values = seen @ weights["pool.keys.weight"][part].T, seen @ weights["pool.values.weight"][part].T
            shares = (keys @ weights["pool.queries"][0, part] / math.sqrt(width)).exp()
            pooled.append((shares / shares.sum()) @ values)
        found.append(weights["head.weight"] @ torch.cat(pooled) + weights["head.bias"])
    return torch.stack(found)


def test_learned_as_written_out_in_float64(monkeypatch):
    monkeypatch.setattr(attentive, "LEAST_STEPS", 7)
    monkeypatch.setattr(attentive, "EPOCHS", 1)
    monkeypatch.setattr(attentive, "BATCH_SIZE", 4)
    monkeypatch.setattr("eyespot.pretrain.networks.heads.CHANNELS_PER_HEAD", 3)
    tokens, labels = videos(14)
    train, test = tokens[:10].double(), tokens[10:].double()
    mean = train.flatten(0, 1).mean(0)
    deviation = train.flatten(0, 1).std(0, correction=0)
    with seeded(5):
        first = AttentiveProbe(6, 3, torch.zeros(6), torch.ones(6)).double().named_parameters()
        weights = {name: tensor.detach().requires_grad_() for name, tensor in first}
    moments = {name: (torch.zeros_like(tensor), torch.zeros_like(tensor)) for name, tensor in weights.items()}
    order = attentive._by_content(train)
    for step, rows in enumerate(batches(10, 7, 5)):
        rate = 0.01 * (1 + math.cos(math.pi * step / 7)) / 2
        loss = cross_entropy(slow_logits(weights, train[order[rows]], mean, deviation, 2), labels[order[rows]])
        slopes = torch.autograd.grad(loss, list(weights.values()))
        for (name, tensor), slope in zip(weights.items(), slopes, strict=True):
            one = 0.9 * moments[name][0] + 0.1 * slope
            two = 0.999 * moments[name][1] + 0.001 * slope.square()
            moments[name] = one, two
            one, two = one / (1 - 0.9 ** (step + 1)), two / (1 - 0.999 ** (step + 1))
            tensor.data = tensor.data * (1 - rate * attentive.DECAY) - rate * one / (two.sqrt() + 1e-8)
    expected = slow_logits(weights, test, mean, deviation, 2).detach()
    found = logits(train, labels[:10], test, num_classes=3, rate=0.01, seed=5)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def task_of(tokens: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, test_labels: torch.Tensor) -> Task:
    train, held = {"mean": tokens.flatten(1)}, {"mean": test.flatten(1)}
    return Task(train=train, train_labels=labels, test=held, test_labels=test_labels, num_classes=3, seed=0)


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_it_finds_the_token_that_tells_and_of_shuffled_labels_nothing(is_shuffled):
    tokens, labels = videos(240, apart=3.0)
    test, test_labels = videos(150, apart=3.0)
    learned = labels[torch.randperm(len(labels))] if is_shuffled else labels
    found, rate = answers(task_of(tokens, learned, test, test_labels), "mean", 10)
    right = (found == test_labels).double().mean().item()
    assert rate in attentive.RATES
    assert 0.2 < right < 0.47 if is_shuffled else right > 0.8


def test_the_order_of_the_videos_plays_no_part():
    tokens, labels = videos()
    order = torch.from_numpy(np.random.default_rng(3).permutation(len(labels)))
    known = {"num_classes": 3, "rate": 1e-3, "seed": 1}
    one = logits(tokens, labels, tokens, **known)
    other = logits(tokens[order], labels[order], tokens[order], **known)
    torch.testing.assert_close(other, one[order], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one, logits(tokens, labels, tokens, **{**known, "seed": 2}), atol=1e-3)


def test_batches_see_every_video_equally_often():
    found = torch.cat(list(batches(150, 7, seed=0)))
    assert found.bincount(minlength=150).tolist().count(3) == 7 * 64 - 2 * 150
    assert [len(rows) for rows in batches(10, 3, seed=0)] == [10] * 3
