"""Heads: what stands between encoder and loss and is thrown away afterwards."""

from itertools import pairwise

from torch import nn


def mlp(*dims: int, batch_norm: bool = False, last_norm: bool = False) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them.

    Args:
        dims: widths, input first: ``mlp(2048, 128)`` is one linear layer.
        batch_norm: batch norm before each ReLU.
        last_norm: batch norm without scale and shift after the last layer (MoCo v3).

    A layer followed by batch norm has no bias: the norm would take it out again.
    """
    layers: list[nn.Module] = []
    for width, following in pairwise(dims[:-1]):
        layers.append(nn.Linear(width, following, bias=not batch_norm))
        layers += [nn.BatchNorm1d(following)] if batch_norm else []
        layers.append(nn.ReLU(inplace=True))
    layers.append(nn.Linear(dims[-2], dims[-1], bias=not last_norm))
    layers += [nn.BatchNorm1d(dims[-1], affine=False)] if last_norm else []
    return nn.Sequential(*layers)
