"""Norms of whole tensors, wherever their shards are."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor

from eyespot.pretrain.distributed.process_group import own_share


def whole_norms(tensors: list[Tensor]) -> Float[Tensor, " n"]:
    """The Euclidean norm of each tensor, on its device; the same bits on every rank that holds a share of it.

    Shards' sums of squares are added up in one exchange for all tensors, and in float64, so that no square is lost.

    Args:
        tensors: one or more; if any is cut up (a DTensor), all are, over the same ranks.
    """
    norms = torch.stack(torch._foreach_norm([own_share(tensor) for tensor in tensors]))  # pyright: ignore[reportPrivateImportUsage]
    first = tensors[0]
    if not isinstance(first, DTensor):
        return norms
    squares = norms.double().square()
    mesh = first.device_mesh
    dist.all_reduce(squares, group=mesh.get_group(mesh.ndim - 1))  # its last axis cuts, one before it replicates
    return squares.sqrt().to(norms.dtype)
