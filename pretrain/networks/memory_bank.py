"""What is kept of every sample of a run, a row for each: where a sample's row is, and a bank of embeddings.

A run may learn from chosen samples alone (``data.ids``), so a row is not the sample's id. The ids are a buffer: what
is kept means the same wherever the checkpoint is read.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.pretrain.distributed.collectives import in_batch_order
from eyespot.pretrain.skipped_step import Taken, if_taken

SampleIds = range | Int[Tensor, " n"]
"""Of all samples that a run learns from, ascending: a range where these are all there are, be it a billion."""


def ids_tensor(ids: SampleIds) -> Int[Tensor, " n"]:
    """(N,) of its own, eight bytes a sample: for what keeps something of each."""
    return torch.arange(ids.start, ids.stop) if isinstance(ids, range) else ids.clone()


def rows_of(kept: Int[Tensor, " n"], ids: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """Which row belongs to each sample.

    Args:
        kept: ids of all samples of which something is kept, ascending.
        ids: some of them, on the same device. One that is none of them shares a neighbour's row.
    """
    return torch.searchsorted(kept, ids).clamp(max=len(kept) - 1)


class SampleBank(nn.Module):
    """A unit vector for each sample, which follows what the encoder makes of it whenever it is seen.

    Its contents are a function of the samples seen, not of who computed them: after k steps they are the same on any
    number of ranks and micro-batches. It takes 4 * dim bytes per sample on each rank.

    Args:
        ids: of all samples, ascending.
        dim: of a vector.
    """

    ids: Int[Tensor, " n"]
    """(N,) sample ids, ascending."""
    vectors: Float[Tensor, "n d"]
    """(N, D) normalised; random directions until they are overwritten."""

    def __init__(self, ids: SampleIds, dim: int) -> None:
        super().__init__()
        self.register_buffer("ids", ids_tensor(ids))
        self.register_buffer("vectors", F.normalize(torch.randn(len(ids), dim), dim=1))
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def wait(self, rows: Int[Tensor, " b"], vectors: Float[Tensor, "b d"]) -> None:
        """Holds a micro-batch's vectors back until the step is taken.

        Args:
            rows: of the bank, as ``rows_of`` finds them.
            vectors: normalised.
        """
        self._waiting.append((rows, vectors.detach().to(self.vectors.dtype)))

    @torch.no_grad()
    def update(self, momentum: float, taken: Taken = True) -> None:
        """Every row of the step, on all ranks: v <- normalise(momentum * v + (1 - momentum) * new).

        Every rank calls it at the same step, with as many vectors waiting as the others. Of a sample that is twice in
        the step, as at the border of two epochs, the later vector counts. A step that was not taken moves no row.
        """
        if not self._waiting:
            return
        rows, new = (in_batch_order(torch.stack(parts)) for parts in zip(*self._waiting, strict=True))
        moved = F.normalize(momentum * self.vectors[rows] + (1 - momentum) * new, dim=1)
        places = torch.arange(len(rows), device=rows.device)
        last = torch.where(rows[:, None] == rows, places, 0).amax(1)
        self.vectors[rows] = if_taken(taken, moved[last], self.vectors[rows])
        self.forget()

    def forget(self) -> None:
        """Drops the waiting vectors: their step was skipped."""
        self._waiting.clear()
