"""Heads, against the layers written out by hand in float64."""

import pytest
import torch
from torch import nn

from eyespot.pretrain.networks.heads import GridHead, mlp


def slow_norm(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(0)) / torch.sqrt(((x - x.mean(0)) ** 2).mean(0) + 1e-5)


def slow_mlp(x: torch.Tensor, head: nn.Sequential, batch_norm: bool, last_norm: bool) -> torch.Tensor:
    layers = [layer for layer in head if isinstance(layer, nn.Linear)]
    norms = [layer for layer in head if isinstance(layer, nn.BatchNorm1d)]
    for number, layer in enumerate(layers):
        last = number == len(layers) - 1
        x = x @ layer.weight.T
        if layer.bias is not None:
            x = x + layer.bias
        if not last and batch_norm:
            x = slow_norm(x) * norms[number].weight + norms[number].bias
        if last and last_norm:
            x = slow_norm(x)
        if not last:
            x = x.clamp(min=0)
    return x


@pytest.mark.parametrize("dims", [(6, 4), (6, 5, 4), (6, 5, 7, 4)])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("last_norm", [False, True])
def test_it_is_what_it_says(dims, batch_norm, last_norm):
    torch.manual_seed(0)
    head = mlp(*dims, batch_norm=batch_norm, last_norm=last_norm).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    assert [type(layer) for layer in mlp(*dims, gelu=True)][1:-1:2] == [nn.GELU] * (len(dims) - 2)
    x = torch.randn(9, 6, dtype=torch.float64)
    assert torch.allclose(head(x), slow_mlp(x, head, batch_norm, last_norm), rtol=1e-12, atol=1e-12)


def test_no_bias_before_a_norm_and_one_elsewhere():
    plain, normed = mlp(6, 5, 4), mlp(6, 5, 4, batch_norm=True, last_norm=True)
    assert [layer.bias is None for layer in plain if isinstance(layer, nn.Linear)] == [False, False]
    assert [layer.bias is None for layer in normed if isinstance(layer, nn.Linear)] == [True, True]
    assert [layer.affine for layer in normed if isinstance(layer, nn.BatchNorm1d)] == [True, False]


def test_a_grid_head_sees_every_place_apart():
    head, maps = GridHead(5, (2, 3), 4, 6), torch.randn(2, 5, 2, 3)
    convolution, linear = head[0], head[3]
    for vector, one in zip(head(maps), maps, strict=True):
        seen = [
            (convolution.weight[:, :, 0, 0] @ one[:, y, x] + convolution.bias).relu() for y in (0, 1) for x in range(3)
        ]
        expected = (linear.weight @ torch.stack(seen, dim=1).flatten() + linear.bias).relu()
        assert torch.allclose(vector, expected, atol=1e-6)
