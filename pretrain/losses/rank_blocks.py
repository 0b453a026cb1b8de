"""Every rank's rows in turn, for losses that compare a rank's rows with those of all ranks.

The other ranks' rows are gathered; where they would take more than ``GATHER_BYTES`` they are handed round a ring, one
rank's at a time: memory for three ranks' rows only, whatever the number of ranks.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from eyespot.pretrain.distributed.collectives import named_group, num_ranks

GATHER_BYTES = 2**28
"""Rows of all ranks that take more bytes are handed round a ring instead of being gathered."""


def to_be_gathered(rows: Shaped[Tensor, "n d"], group: dist.ProcessGroup | None = None) -> bool:
    """Are there other ranks, and are all ranks' rows few enough to be gathered?"""
    ranks = num_ranks(group)
    return ranks > 1 and ranks * rows.numel() * rows.element_size() <= GATHER_BYTES


def rank_blocks(own: list[Tensor], gathered: list[Tensor] | None, name: str) -> Iterator[list[Tensor]]:
    """Every rank's tensors in turn, this rank's first.

    Args:
        own: this rank's, with equally many rows on every rank.
        gathered: those of all ranks, rank after rank, which they are then taken from; None = they are handed from rank
            to rank while the block before is worked on.
        name: of the group; "" = this process is alone.
    """
    if not name:
        yield own
        return
    group = named_group(name)
    rank, size = group.rank(), group.size()
    if gathered is not None:
        yield own
        for step in range(1, size):
            yield [part.chunk(size)[(rank + step) % size] for part in gathered]
        return
    following, preceding = (dist.get_global_rank(group, (rank + step) % size) for step in (1, -1))
    block = [part.contiguous() for part in own]
    for _ in range(1, size):
        arriving = [torch.empty_like(part) for part in block]
        sends = [dist.P2POp(dist.isend, part, following, group) for part in block]
        receives = [dist.P2POp(dist.irecv, part, preceding, group) for part in arriving]
        transfers = dist.batch_isend_irecv([*sends, *receives])
        yield block
        for transfer in transfers:
            transfer.wait()
        block = arriving
    yield block
