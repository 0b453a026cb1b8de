"""Heads: what stands between encoder and loss and is thrown away afterwards."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

CHANNELS_PER_HEAD = 64


def mlp(*dims: int, batch_norm: bool = False, last_norm: bool = False, gelu: bool = False) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them.

    Args:
        dims: widths, input first: ``mlp(2048, 128)`` is one linear layer.
        batch_norm: batch norm before each ReLU.
        last_norm: batch norm without scale and shift after the last layer (MoCo v3).
        gelu: GELU in place of each ReLU.

    A layer followed by batch norm has no bias: the norm would take it out again.
    """
    layers: list[nn.Module] = []
    for width, following in pairwise(dims[:-1]):
        layers.append(nn.Linear(width, following, bias=not batch_norm))
        layers += [nn.BatchNorm1d(following)] if batch_norm else []
        layers.append(nn.GELU() if gelu else nn.ReLU(inplace=True))
    layers.append(nn.Linear(dims[-2], dims[-1], bias=not last_norm))
    layers += [nn.BatchNorm1d(dims[-1], affine=False)] if last_norm else []
    return nn.Sequential(*layers)


class GridHead(nn.Sequential):
    """A vector of a feature map that says where things are, which an average over places forgets.

    A 1x1 convolution to few channels, then a linear layer on all of them at all places, as the first fully connected
    one of AlexNet. (N, width, height, width) in, (N, dim) out.

    Args:
        width: channels of the map.
        grid: its height and width.
        channels: of each place that the linear layer sees.
        dim: channels of the vector.
    """

    def __init__(self, width: int, grid: tuple[int, int], channels: int, dim: int) -> None:
        convolution, linear = nn.Conv2d(width, channels, 1), nn.Linear(channels * grid[0] * grid[1], dim)
        super().__init__(convolution, nn.ReLU(inplace=True), nn.Flatten(), linear, nn.ReLU(inplace=True))


class AttentivePool(nn.Module):
    """Learned queries attend once to all tokens: the mean of their answers.

    From AIM's attentive probe (El-Nouby et al. 2024, arXiv:2401.08541). With q the queries, k and v linear in the
    tokens x (which a batch norm without scale and shift has seen), each head on its own ``CHANNELS_PER_HEAD`` channels,
    or as many more as it takes to deal out all of them: answer = softmax(q k^T / sqrt(d)) v.

    Args:
        dim: channels of a token.
        num_queries: learned queries.
    """

    def __init__(self, dim: int, num_queries: int) -> None:
        super().__init__()
        self.num_heads = max(1, dim // CHANNELS_PER_HEAD)
        while dim % self.num_heads:
            self.num_heads -= 1
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, dim))
        self.norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6)
        self.keys, self.values = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b d"]:
        """One vector for each image."""
        tokens = self.norm(tokens.transpose(1, 2)).transpose(1, 2)
        keys, values = self.keys(tokens), self.values(tokens)
        queries = self.queries.to(keys.dtype).expand(len(tokens), -1, -1)
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in (queries, keys, values))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1)
