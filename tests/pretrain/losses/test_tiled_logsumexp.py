"""The tiled log-sum-exp against the whole matrix in float64: values, gradients, memory, operator checks."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from eyespot.pretrain.losses import tiled_logsumexp
from eyespot.pretrain.losses.tiled_logsumexp import Block, within_bound


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles that divide nothing here."""
    monkeypatch.setitem(tiled_logsumexp.TILE_ROWS, "cpu", 4)


def unit(seed: int, rows: int, dtype=torch.float64) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 5, dtype=dtype, generator=torch.Generator().manual_seed(seed)), dim=1)


def slow_lse(rows, columns, excluded):
    return (rows @ columns.T).masked_fill(excluded, -math.inf).logsumexp(dim=1)


def excluded_by(period: int, m: int, n: int) -> torch.Tensor:
    return torch.tensor([[bool(period) and (j - i) % period == 0 for j in range(n)] for i in range(m)])


@pytest.mark.parametrize("scale", [5.0, 100.0])
@pytest.mark.parametrize(("m", "n", "period"), [(4, 4, 0), (9, 14, 0), (9, 14, 9), (14, 9, 3), (1, 11, 0)])
def test_a_block_is_the_whole_matrix(m, n, period, scale):
    rows, columns = (unit(1, m) * scale).requires_grad_(), unit(2, n).requires_grad_()
    excluded = excluded_by(period, m, n)
    expected = slow_lse(rows, columns, excluded), slow_lse(columns, rows, excluded.T)
    block = Block(rows=rows.detach(), columns=columns.detach(), bounded=within_bound(scale), period=period)
    lse = block.lse(both=True)
    upstream = [torch.randn(len(sums), dtype=torch.float64) for sums in lse]
    weights = [torch.stack(pair, dim=1) for pair in zip(upstream, lse, strict=True)]
    for got, wanted in zip(lse, expected, strict=True):
        assert torch.allclose(got, wanted, rtol=0, atol=1e-12)
    wanted = torch.autograd.grad(expected, (rows, columns), upstream, retain_graph=True)
    for got, gradient in zip(block.gradients(*weights, both=True), wanted, strict=True):
        assert torch.allclose(got, gradient, rtol=1e-11, atol=1e-11)
    of_rows_only = torch.autograd.grad(expected[0], rows, upstream[0])[0]
    assert torch.allclose(block.gradients(weights[0])[0], of_rows_only, rtol=1e-11, atol=1e-11)
    assert torch.equal(block.lse()[0], lse[0])


@pytest.mark.parametrize("scale", [5.0, 100.0])
@pytest.mark.parametrize(("m", "period"), [(3, 3), (12, 3), (13, 13), (12, 4)])
def test_a_symmetric_block_computes_half_of_it(m, period, scale):
    rows = (unit(1, m) * scale**0.5).requires_grad_()
    expected = slow_lse(rows, rows, excluded_by(period, m, m))
    same = rows.detach()
    block = Block(rows=same, columns=same, bounded=within_bound(scale), period=period)
    lse = block.lse()[0]
    assert torch.allclose(lse, expected, rtol=0, atol=1e-12)
    upstream = torch.randn(m, dtype=torch.float64)
    weights = torch.stack([upstream, lse], dim=1)
    wanted = torch.autograd.grad(expected, rows, upstream)[0]
    assert torch.allclose(block.gradients(weights, weights)[0], wanted, rtol=1e-11, atol=1e-11)
    tiles = math.ceil(m / 4)
    assert len(list(block._tiles())) == tiles * (tiles + 1) // 2


@pytest.mark.parametrize("scale", [5.0, 100.0])
def test_equal_ids_are_excluded(scale):
    rows, columns = unit(1, 9).requires_grad_(), unit(2, 11)
    row_ids, column_ids = torch.arange(9) // 2, torch.arange(11) % 7 - 2
    got = tiled_logsumexp.tiled_lse(rows, columns, scale, query_ids=row_ids, key_ids=column_ids)
    expected = slow_lse(rows * scale, columns, row_ids[:, None] == column_ids)
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    for wanted, gradient in zip(*(torch.autograd.grad(sums.sum(), rows) for sums in (expected, got)), strict=True):
        assert torch.allclose(gradient, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [5.0, 100.0])
def test_a_row_without_negatives_has_no_gradient(scale):
    rows = unit(1, 3).requires_grad_()
    lse = tiled_logsumexp.tiled_lse(
        rows, unit(2, 2), scale, query_ids=torch.tensor([0, 7, 7]), key_ids=torch.tensor([7, 7])
    )
    assert lse.isinf().tolist() == [False, True, True]
    (gradient,) = torch.autograd.grad(-F.logsigmoid(1.0 - lse).sum(), rows)
    assert gradient.isfinite().all()
    assert (gradient[1:] == 0).all()
    assert (gradient[0] != 0).any()


def test_a_learnable_scale_gets_its_gradient():
    queries, keys = unit(1, 9), unit(2, 11)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: tiled_logsumexp.tiled_lse(queries, keys, s), scale)


def test_no_tensor_is_larger_than_a_tile_or_an_input():
    rows = unit(1, 60)
    largest = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            largest.extend(
                part.numel() for part in (out if isinstance(out, list | tuple) else [out]) if part is not None
            )
            return out

    for bounded in (True, False):
        block = Block(rows=rows, columns=rows, bounded=bounded, period=30)
        with Watch():
            weights = torch.stack([torch.ones(60, dtype=torch.float64), block.lse()[0]], dim=1)
            block.gradients(weights, weights)
    assert len(largest) > 100
    assert max(largest) == rows.numel()


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("with_ids", [True, False])
def test_the_operator_keeps_torchs_rules(with_ids, bounded):
    ids = (torch.arange(6) // 2, torch.arange(9) % 4) if with_ids else (None, None)
    queries = unit(1, 6).requires_grad_()
    torch.library.opcheck(tiled_logsumexp._tiled, (queries, unit(2, 9), *ids, 0 if with_ids else 6, bounded))


def test_float32_matches_float64_where_exp_would_overflow():
    queries, keys = unit(1, 9, torch.float32), unit(2, 11, torch.float32)
    keys[3] = queries[2]
    got = tiled_logsumexp.tiled_lse(queries, keys, 100.0)
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), tiled_logsumexp.tiled_lse(queries.double(), keys.double(), 100.0), rtol=1e-5)


def test_keys_learn_too_where_they_are_to():
    """Of any length, ids or not; torch's own checks of an operator."""
    queries, keys = (3 * unit(1, 9)).requires_grad_(), (4 * unit(2, 11)).requires_grad_()
    ids = torch.arange(9) // 2, torch.arange(11) % 7 - 2
    for row_ids, column_ids in (ids, (None, None)):
        excluded = torch.zeros(9, 11, dtype=torch.bool) if row_ids is None else row_ids[:, None] == column_ids
        expected = slow_lse(queries, keys, excluded)
        got = tiled_logsumexp.tiled_lse_of_both(queries, keys, query_ids=row_ids, key_ids=column_ids)
        assert torch.allclose(got, expected, rtol=0, atol=1e-12)
        upstream = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        wanted = torch.autograd.grad(expected, (queries, keys), upstream)
        for ours, theirs in zip(torch.autograd.grad(got, (queries, keys), upstream), wanted, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-11)
    torch.library.opcheck(tiled_logsumexp._tiled_of_both, (queries, keys, *ids))
