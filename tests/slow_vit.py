"""A vision transformer as it is written in papers, one image at a time and head by head, for references in float64."""

import math

import torch


def slow_linear(x, layer):
    return x @ layer.weight.T + layer.bias


def slow_norm(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6) * layer.weight + layer.bias


def slow_block(tokens, block, num_heads):
    """Pre-norm transformer block on (T, D) tokens of one image, head by head."""
    x = slow_norm(tokens, block.norm1)
    dim = x.shape[-1] // num_heads
    query, key, value = slow_linear(x, block.attn.qkv).chunk(3, dim=-1)
    heads = []
    for head in range(num_heads):
        part = slice(head * dim, (head + 1) * dim)
        weights = torch.exp(query[:, part] @ key[:, part].T / math.sqrt(dim))
        heads.append(weights / weights.sum(-1, keepdim=True) @ value[:, part])
    tokens = tokens + slow_linear(torch.cat(heads, dim=-1), block.attn.proj)
    x = slow_linear(slow_norm(tokens, block.norm2), block.mlp.fc1)
    x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    return tokens + slow_linear(x, block.mlp.fc2)


def slow_positions(dim, grid):
    """Row by row of a square grid."""
    table = torch.zeros(grid * grid, dim, dtype=torch.float64)
    quarter = dim // 4
    for row in range(grid):
        for column in range(grid):
            for i in range(quarter):
                frequency = 1 / 10000 ** (i / quarter)
                entry = table[row * grid + column]
                entry[i], entry[quarter + i] = math.sin(column * frequency), math.cos(column * frequency)
                entry[2 * quarter + i], entry[3 * quarter + i] = math.sin(row * frequency), math.cos(row * frequency)
    return table
