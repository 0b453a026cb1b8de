"""Attentive probe of videos: a learned query looks at the tokens of all frames, a linear layer at what it takes in.

The pooling is AIM's (El-Nouby et al. 2024, arXiv:2401.08541): one cross-attention, each head on its own channels. It is
asked as V-JEPA's authors ask encoders of images about videos (Bardes et al. 2024, arXiv:2404.08471, frozen evaluation):
every frame is encoded by itself, and all frames' tokens are looked at together. Nothing says at which time a token was
seen. What differs: tokens are standardised by train's mean and deviation, where AIM has a batch norm; V-JEPA's probe
goes on with a residual MLP. AdamW, cosine to zero; the rate is chosen by the cross-entropy of the tenth of train.

With one query q nothing has to be multiplied per token but by (its head's K)^T q, and nothing by V but the weighted
means: what ``AttentivePool`` computes, at a small part of its price.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eyespot.eval.encoders.timm_sources import seeded
from eyespot.eval.protocols.task import Task
from eyespot.pretrain.networks.heads import AttentivePool

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
DECAY = 0.05
BATCH_SIZE = 64
EPOCHS, LEAST_STEPS = 20, 300
"""Passes through train, and of few videos so many steps."""


class AttentiveProbe(nn.Module):
    """One query, and a linear layer.

    Args:
        dim: channels of a token.
        num_classes: how many answers there are.
        mean: of tokens, by channel.
        scale: what a channel's distance from its mean is multiplied by.
    """

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]

    def __init__(self, dim: int, num_classes: int, mean: Float[Tensor, " d"], scale: Float[Tensor, " d"]) -> None:
        super().__init__()
        self.pool, self.head = AttentivePool(dim, 1), nn.Linear(dim, num_classes)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b c"]:
        """Logits of each video."""
        tokens = (tokens - self.mean) * self.scale
        query, keys, values = (
            weights.unflatten(0, (self.pool.num_heads, -1))
            for weights in (self.pool.queries[0], self.pool.keys.weight, self.pool.values.weight)
        )
        asked = torch.einsum("hw,hwd->dh", query, keys) / math.sqrt(query.shape[1])
        means = (tokens @ asked).softmax(1).transpose(1, 2) @ tokens
        return self.head(torch.einsum("bhd,hwd->bhw", means, values).flatten(1))


def logits(
    train: Float[Tensor, "n t d"],
    labels: Int[Tensor, " n"],
    test: Float[Tensor, "m t d"],
    *,
    num_classes: int,
    rate: float,
    seed: int,
) -> Float[Tensor, "m c"]:
    """What a probe that learned from some videos says of others; in which order they come plays no part.

    Args:
        train: tokens of the videos to learn from.
        labels: their classes, 0..num_classes-1.
        test: tokens of the others.
        num_classes: how many classes there are.
        rate: learning rate.
        seed: of the first weights and the order of the batches.
    """
    order = _by_content(train)
    with seeded(seed):
        probe = AttentiveProbe(train.shape[2], num_classes, *_standard(train)).to(train.device, train.dtype)
    optimizer = torch.optim.AdamW(probe.parameters(), rate, weight_decay=DECAY)
    steps = max(LEAST_STEPS, math.ceil(EPOCHS * len(train) / BATCH_SIZE))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for batch in batches(len(train), steps, seed):
            rows = order[batch.to(order.device)]
            optimizer.zero_grad()
            cross_entropy(probe(train[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        return torch.cat([probe(rows) for rows in test.split(BATCH_SIZE)])


def answers(task: Task, kind: str, num_tokens: int) -> tuple[Int[Tensor, " m"], float]:
    """The classes of the test videos, and the rate that was chosen on the tenth of train; of equals the lowest.

    Args:
        task: features of videos.
        kind: which features: a row has all tokens of a video, one after the other.
        num_tokens: how many these are.
    """
    train, test = (found[kind].unflatten(1, (num_tokens, -1)) for found in (task.train, task.test))
    labels = task.train_labels
    known = {"num_classes": task.num_classes, "seed": task.seed}
    losses = {
        rate: cross_entropy(
            logits(train[task.fit], labels[task.fit], train[task.held], rate=rate, **known), labels[task.held]
        ).item()
        for rate in RATES
    }
    rate = min(losses, key=losses.__getitem__)
    return logits(train, labels, test, rate=rate, **known).argmax(1), rate


def batches(count: int, steps: int, seed: int) -> Iterator[Int[Tensor, " b"]]:
    """Rows of each step: one random order after another, cut into equal pieces."""
    generator = torch.Generator().manual_seed(seed)
    waiting, size = torch.zeros(0, dtype=torch.long), min(BATCH_SIZE, count)
    for _ in range(steps):
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[:size]
        waiting = waiting[size:]


def _by_content(tokens: Float[Tensor, "n t d"]) -> Int[Tensor, " n"]:
    """An order of the videos that is the same however they are ordered."""
    weights = torch.randn(tokens.shape[2], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (tokens.mean(1).double() * weights.to(tokens.device)).sum(1).argsort(stable=True)


def _standard(tokens: Float[Tensor, "n t d"]) -> tuple[Float64[Tensor, " d"], Float64[Tensor, " d"]]:
    """Mean and 1 / standard deviation of each channel; 0 where a channel never changes."""
    count = tokens.shape[0] * tokens.shape[1]
    nothing, parts = tokens.new_zeros(tokens.shape[2], dtype=torch.float64), tokens.split(BATCH_SIZE)
    mean = sum((rows.double().sum((0, 1)) for rows in parts), nothing) / count
    square = sum(((rows.double() - mean).square().sum((0, 1)) for rows in parts), nothing) / count
    deviation = square.sqrt()
    return mean, torch.where(deviation > 1e-6 * mean.abs(), 1 / deviation, 0.0)
