"""The log-sum-exp among ranks in one process; on several ranks: test_contrastive.py."""

import math

import pytest
import torch
import torch.nn.functional as F

from eyespot.pretrain.losses import gathered_logsumexp, tiled_logsumexp


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles that divide nothing here."""
    monkeypatch.setitem(tiled_logsumexp.TILE_ROWS, "cpu", 4)


def unit(seed: int, rows: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("scale", [5.0, 100.0, "learnable"])
@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_one_tower_leaves_the_own_sample_out(num_views, scale):
    factor = torch.tensor(7.0, dtype=torch.float64, requires_grad=True) if scale == "learnable" else scale
    z = unit(1, 12).requires_grad_()
    sample = torch.arange(12) % (12 // num_views)
    expected = (factor * z @ z.T).masked_fill(sample[:, None] == sample, -math.inf).logsumexp(dim=1)
    found = [
        gathered_logsumexp.gathered_lse(z, factor, num_views=num_views),
        gathered_logsumexp.gathered_lse(z, factor, ids=sample * 10),
    ]
    upstream = torch.randn(12, dtype=torch.float64)
    leaves = (z, factor) if scale == "learnable" else (z,)
    wanted = torch.autograd.grad(expected, leaves, upstream)
    for got in found:
        assert torch.allclose(got, expected, rtol=0, atol=1e-12)
        for gradient, right in zip(torch.autograd.grad(got, leaves, upstream), wanted, strict=True):
            assert torch.allclose(gradient, right, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [5.0, 100.0, "learnable"])
def test_two_towers_leave_the_partner_out(scale):
    factor = torch.tensor(7.0, dtype=torch.float64, requires_grad=True) if scale == "learnable" else scale
    x, y = unit(1, 9).requires_grad_(), unit(2, 9).requires_grad_()
    logits = (factor * x @ y.T).masked_fill(torch.eye(9, dtype=torch.bool), -math.inf)
    expected = logits.logsumexp(dim=1), logits.logsumexp(dim=0)
    found = gathered_logsumexp.gathered_lse_pair(x, y, factor)
    upstream = [torch.randn(9, dtype=torch.float64) for _ in range(2)]
    leaves = (x, y, factor) if scale == "learnable" else (x, y)
    wanted = torch.autograd.grad(expected, leaves, upstream)
    for gradient, right in zip(torch.autograd.grad(found, leaves, upstream), wanted, strict=True):
        assert torch.allclose(gradient, right, rtol=1e-11, atol=1e-11)
    for got, right in zip(found, expected, strict=True):
        assert torch.allclose(got, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize(("ids", "towers"), [(None, 1), (torch.arange(8) // 3, 1), (None, 2)])
def test_the_operator_keeps_torchs_rules(ids, towers, bounded):
    z = unit(1, 8).requires_grad_()
    torch.library.opcheck(gathered_logsumexp._gathered, (z, None, ids, None, towers, 4, bounded, ""))
