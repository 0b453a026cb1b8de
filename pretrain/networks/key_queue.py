"""KeyQueue: the newest keys of all ranks, as negatives (MoCo, He et al. 2019, arXiv:1911.05722, section 3.2).

Its contents are a function of the samples seen, not of who computed them: after k steps they are the same, in the same
order, on any number of ranks and micro-batches. They are buffers, so a checkpoint holds them.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.collectives import in_batch_order
from eyespot.pretrain.skipped_step import Taken, if_taken

TILE = 8192
"""Keys that rows are compared with at once."""


def check_size(queue_size: int, batch_size: int) -> None:
    """Whether a step's keys replace whole batches of older ones.

    Raises:
        UserError: they do not.
    """
    if queue_size % batch_size:
        nearest = max(1, round(queue_size / batch_size)) * batch_size
        raise UserError(
            f"objective.queue_size {queue_size}: must be a multiple of data.batch_size {batch_size},"
            f" for instance {nearest}"
        )


class KeyQueue(nn.Module):
    """A ring of normalised keys with the ids of their samples."""

    keys: Float[Tensor, "k d"]
    """(K, D) normalised; random directions until they are overwritten."""
    ids: Int[Tensor, " k"]
    """(K,) sample ids; -1 where no key was written yet."""
    position: Int[Tensor, ""]
    """Where the next key goes."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("ids", torch.full((size,), -1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def wait(self, keys: Float[Tensor, "b d"], ids: Int[Tensor, " b"]) -> None:
        """Holds a micro-batch's keys back until the step is taken: they are not their own negatives.

        Args:
            keys: need not be normalised.
            ids: of their samples.
        """
        unit = F.normalize(keys.detach().to(self.keys.dtype), dim=1)
        self._waiting.append((unit, ids.to(self.ids.device)))

    @torch.no_grad()
    def push(self, taken: Taken = True) -> None:
        """Replaces the oldest keys by the waiting ones of all ranks, in the order of the global batch.

        Every rank calls it at the same step, with as many keys waiting as the others. Of a step that was not taken they
        are dropped.
        """
        if not self._waiting:
            return
        keys, ids = (in_batch_order(torch.stack(parts)) for parts in zip(*self._waiting, strict=True))
        places = (self.position + torch.arange(len(keys), device=keys.device)) % len(self.keys)
        self.keys[places] = if_taken(taken, keys, self.keys[places])
        self.ids[places] = if_taken(taken, ids, self.ids[places])
        self.position.copy_(if_taken(taken, (self.position + len(keys)) % len(self.keys), self.position))
        self.forget()

    @torch.no_grad()
    def nearest(self, rows: Float[Tensor, "b d"], ids: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Of each row the key of another sample that has the largest cosine with it (NNCLR, arXiv:2104.14548, 3.2).

        Args:
            rows: need not be normalised.
            ids: of their samples.
        """
        with torch.autocast(rows.device.type, enabled=False):
            unit = F.normalize(rows.detach().to(self.keys.dtype), dim=1)
            best, places = unit.new_full((len(unit),), -math.inf), torch.zeros_like(ids)
            for start in range(0, len(self.keys), TILE):
                own = ids[:, None] == self.ids[start : start + TILE]
                cosines, found = (unit @ self.keys[start : start + TILE].T).masked_fill(own, -math.inf).max(1)
                places = torch.where(cosines > best, found + start, places)
                best = torch.maximum(best, cosines)
            return self.keys[places]

    def forget(self) -> None:
        """Drops the waiting keys: their step was skipped."""
        self._waiting.clear()
