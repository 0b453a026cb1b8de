"""Batch: the one thing that every objective reads."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.data_pipeline.random_numbers import uniforms


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The CPU's tensor on ``device``, for which the host does not wait: it travels through pinned memory."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(kw_only=True, slots=True)
class Batch:
    """One micro-batch of one rank.

    Sample ids are row numbers of the shard folder's index, so they mean the same on every rank and in every run.
    """

    views: list[Float[Tensor, "_ 3 _ _"]]
    """One normalised float32 tensor (B, 3, H, W) per view of the view spec, all with the samples in the same order.

    A GPU's may be bfloat16 in a training step (``Objective.only_encodes``); after the step's pass the list is emptied.
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
