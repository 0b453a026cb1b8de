"""Batch: the one thing that every objective reads."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.random_numbers import uniforms


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The CPU's tensor on ``device``, for which the host does not wait: it travels through pinned memory."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def noise_views(
    spec: ViewSpec,
    count: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> list[Shaped[Tensor, "_ ..."]]:
    """What ``Batch.views`` may be of so many samples, where nothing has to be seen: noise; masks, tokens of 0 and 1."""
    how: dict[str, Any] = dict(device=device, generator=generator)
    return [
        torch.randn((count, *shape), dtype=dtype, **how)
        if view.dtype == "float"
        else torch.randn((count, *shape), **how)
        if view.dtype == "float32"
        else torch.randint(2, (count, *shape), dtype=getattr(torch, view.dtype), **how)
        for view, shape in zip(spec.views, spec.shapes(), strict=True)
    ]


@dataclass(kw_only=True, slots=True)
class Batch:
    """One micro-batch of one rank.

    Sample ids are row numbers of the shard folder's index, so they mean the same on every rank and in every run.
    """

    views: list[Shaped[Tensor, "_ ..."]]
    """One tensor per view of the view spec, all with the samples in the same order.

    Of images normalised float32 (B, 3, H, W), of clips of T frames (B, T, 3, H, W); of masks uint8 class numbers,
    (B, 1, H, W) or (B, T, 1, H, W); of texts int64 token ids (B, context); float32 of depth (B, 1, H, W), and of sound
    (B, 1, mels, columns). A GPU's images may be bfloat16 in a training step (``Objective.only_encodes``); after the
    step's pass the list is emptied.
    """
    ids: Int[Tensor, " _"]
    """(B,) int64 on the CPU: which samples these are."""
    epochs: Int[Tensor, " _"]
    """(B,) int64 on the CPU: how often each sample had been seen before; a batch may straddle two epochs."""
    labels: Int[Tensor, " _"]
    """(B,) int64 on the views' device; -1 where a sample has no label."""
    seed: int
    """The run's seed: with id and epoch it determines every random number that belongs to a sample."""

    def __len__(self) -> int:
        return len(self.ids)

    def uniforms(self, stream: str, count: int) -> Float[Tensor, "_ count"]:
        """Draws (B, count) numbers in [0, 1) from each sample's own stream of that name.

        They depend on (seed, epoch, sample id, stream) only: not on the rank, the batch or the step.
        """
        numbers = uniforms(self.seed, self.epochs.numpy(), self.ids.numpy(), stream, count)
        return send(torch.from_numpy(numbers), self.labels.device)

    def ids_on_device(self) -> Int[Tensor, " _"]:
        """(B,) the ids, where views and labels are."""
        return send(self.ids, self.labels.device)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with views and labels on ``device``; ids and epochs stay on the CPU."""
        return replace(
            self,
            views=[view.to(device, non_blocking=True) for view in self.views],
            labels=self.labels.to(device, non_blocking=True),
        )
