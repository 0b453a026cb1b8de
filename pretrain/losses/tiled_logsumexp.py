"""Log-sum-exp over the rows of a matrix of logits that is never stored.

The matrix is walked in square tiles that stay in the processor's cache; the backward pass computes every tile again
from the sums that the forward pass left, as FlashAttention does (Dao et al. 2022, arXiv:2205.14135). Memory is O(rows),
whatever the number of negatives.

Two ways of summing. Where no logit exceeds ``BOUND`` in size, exp(logit) can neither overflow nor vanish in float32: no
maximum is sought, and one exp serves a tile's rows and columns. Elsewhere each tile is summed relative to its maximum,
and the tiles' sums are joined by logaddexp.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.pretrain.operators import operator

BOUND = 40.0
"""Largest |logit| that is summed without seeking a maximum: exp(40) is 2e17 and exp(-40) is 4e-18."""

TILE_ROWS = {"cpu": 768, "cuda": 4096}
"""Rows, and columns, of a tile by device: in float32 it takes 2.3 MB on a CPU, 67 MB on a GPU."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Block:
    """The logits ``rows @ columns.T``, some of which are excluded from every sum."""

    rows: Float[Tensor, "m d"]
    columns: Float[Tensor, "n d"]
    """The same object as ``rows`` where the matrix is symmetric: then only its upper triangle is computed."""
    bounded: bool
    """No logit exceeds BOUND in size, excluded ones neither."""
    period: int = 0
    """Entries whose column minus row is a multiple of it are excluded; 0 = none."""
    row_ids: Int[Tensor, " m"] | None = None
    """With ``column_ids``: entries of equal ids are excluded, and ``period`` is not looked at."""
    column_ids: Int[Tensor, " n"] | None = None

    @property
    def symmetric(self) -> bool:
        """Rows and columns are the same."""
        return self.rows is self.columns

    def lse(self, *, both: bool = False) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
        """log sum_j exp(logit_ij) of every row i and, with ``both``, of every column (else nothing of use)."""
        nothing = 0.0 if self.bounded else -math.inf
        rows = self.rows.new_full((len(self.rows),), nothing)
        columns = rows if self.symmetric else rows.new_full((len(self.columns),), nothing)
        for top, left, tile in self._tiles():
            if self.bounded:
                tile.exp_()
            self._exclude_(tile, top, left, nothing)
            self._add_up_(rows[top], tile, 1)
            if self._serves_columns(top, left, both):
                self._add_up_(columns[left], tile, 0)
        if self.bounded:
            rows.log_()
            if not self.symmetric:
                columns.log_()
        return rows, columns

    def gradients(
        self, rows: Float[Tensor, "m 2"], columns: Float[Tensor, "n 2"] | None = None, *, both: bool = False
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, "_ d"]]:
        """What reaches rows and columns from the log-sum-exps of the rows and, where given, of the columns.

        Args:
            rows: upstream gradient and log-sum-exp of each row; the sum may have gone over more than this block.
            columns: the same of each column; a symmetric block must get the rows' again.
            both: the columns' gradient is wanted too (else nothing of use); a symmetric block's is within the rows'.
        """
        row_weights = self._weights(rows)
        column_weights = None if columns is None else row_weights if self.symmetric else self._weights(columns)
        of_rows = torch.zeros_like(self.rows)
        of_columns = of_rows if self.symmetric else torch.zeros_like(self.columns if both else self.columns[:0])
        scratch = self._scratch()
        for top, left, tile in self._tiles():
            spare = scratch[: tile.numel()].view_as(tile)
            self._weigh_(tile, row_weights[:, top], None if column_weights is None else column_weights[:, left], spare)
            self._exclude_(tile, top, left, 0.0)
            of_rows[top].addmm_(tile, self.columns[left])
            if self._serves_columns(top, left, both):
                of_columns[left].addmm_(tile.T, self.rows[top])
        return of_rows, of_columns

    def _tile_rows(self) -> int:
        return TILE_ROWS.get(self.rows.device.type, TILE_ROWS["cuda"])

    def _scratch(self) -> Float[Tensor, " entries"]:
        size = self._tile_rows()
        return self.rows.new_empty(min(size, len(self.rows)) * min(size, len(self.columns)))

    def _tiles(self) -> Iterator[tuple[slice, slice, Float[Tensor, "_ _"]]]:
        """Which rows, which columns, and their logits, in memory that the next tile overwrites."""
        size, (m, n), scratch = self._tile_rows(), (len(self.rows), len(self.columns)), self._scratch()
        for i in range(0, m, size):
            for j in range(i if self.symmetric else 0, n, size):
                top, left = slice(i, min(i + size, m)), slice(j, min(j + size, n))
                height, width = top.stop - i, left.stop - j
                out = scratch[: height * width].view(height, width)
                yield top, left, torch.mm(self.rows[top], self.columns[left].T, out=out)

    def _serves_columns(self, top: slice, left: slice, both: bool) -> bool:
        """A symmetric matrix's tile above the diagonal stands for its mirror image too."""
        return left.start > top.start if self.symmetric else both

    def _exclude_(self, tile: Float[Tensor, "_ _"], top: slice, left: slice, value: float) -> None:
        if self.row_ids is not None and self.column_ids is not None:
            tile.masked_fill_(self.row_ids[top, None] == self.column_ids[None, left], value)
        elif self.period:
            lowest = 1 - tile.shape[0]
            lowest += (top.start - left.start - lowest) % self.period
            for diagonal in range(lowest, tile.shape[1], self.period):
                tile.diagonal(diagonal).fill_(value)

    def _add_up_(self, total: Float[Tensor, " _"], tile: Float[Tensor, "_ _"], axis: int) -> None:
        if self.bounded:
            total += tile.sum(axis)
        else:
            torch.logaddexp(total, tile.logsumexp(axis), out=total)

    def _weights(self, weights: Float[Tensor, "n 2"]) -> Float[Tensor, "2 n"]:
        """(upstream, lse), or (upstream / exp(lse), lse) where that cannot overflow.

        A row whose entries are all excluded has log-sum-exp -inf; any finite number does, since none is used.
        """
        upstream, lse = weights[:, 0], weights[:, 1].nan_to_num(neginf=0.0)
        return torch.stack([upstream * torch.exp(-lse) if self.bounded else upstream, lse])

    def _weigh_(
        self,
        tile: Float[Tensor, "h w"],
        rows: Float[Tensor, "2 h"],
        columns: Float[Tensor, "2 w"] | None,
        spare: Float[Tensor, "h w"],
    ) -> None:
        """Logits become, in place, u_i exp(logit_ij - lse_i) + u_j exp(logit_ij - lse_j)."""
        if self.bounded:
            tile.exp_()
            tile.mul_(rows[0, :, None] if columns is None else torch.add(rows[0, :, None], columns[0], out=spare))
            return
        if columns is not None:
            torch.sub(tile, columns[1], out=spare).exp_().mul_(columns[0])
        tile.sub_(rows[1, :, None]).exp_().mul_(rows[0, :, None])
        if columns is not None:
            tile.add_(spare)


@operator("tiled_lse_backward", fake=lambda upstream, lse, rows, *_: torch.empty_like(rows))
def _tiled_backward(
    upstream: Tensor,
    lse: Tensor,
    rows: Tensor,
    columns: Tensor,
    row_ids: Tensor | None,
    column_ids: Tensor | None,
    period: int,
    bounded: bool,
) -> Tensor:
    """(m,), (m,), (m, d), (n, d) -> (m, d)."""
    with torch.autocast(rows.device.type, enabled=False):
        block = Block(
            rows=rows, columns=columns, bounded=bounded, period=period, row_ids=row_ids, column_ids=column_ids
        )
        return block.gradients(torch.stack([upstream, lse], dim=1))[0]


def _keep_tiled(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.period, ctx.bounded = inputs
    ctx.save_for_backward(output, *tensors)


def _backward_of_tiled(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    return _tiled_backward(upstream.contiguous(), *ctx.saved_tensors, ctx.period, ctx.bounded), *[None] * 5


@operator(
    "tiled_lse", fake=lambda rows, *_: rows.new_empty(rows.shape[:1]), keep=_keep_tiled, backward=_backward_of_tiled
)
def _tiled(
    rows: Tensor, columns: Tensor, row_ids: Tensor | None, column_ids: Tensor | None, period: int, bounded: bool
) -> Tensor:
    """(m, d), (n, d) -> (m,)."""
    with torch.autocast(rows.device.type, enabled=False):
        block = Block(
            rows=rows, columns=columns, bounded=bounded, period=period, row_ids=row_ids, column_ids=column_ids
        )
        return block.lse()[0]


def within_bound(scale: float | Float[Tensor, ""]) -> bool:
    """Do unit vectors, scaled, give logits that need no maximum? A tensor is not asked: that would stall a GPU."""
    return not isinstance(scale, Tensor) and scale <= BOUND


def tiled_lse(
    queries: Float[Tensor, "m d"],
    keys: Float[Tensor, "n d"],
    scale: float | Float[Tensor, ""],
    *,
    period: int = 0,
    query_ids: Int[Tensor, " m"] | None = None,
    key_ids: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, " m"]:
    """log sum_j exp(scale * queries_i . keys_j) of every query i. Keys get no gradient.

    Args:
        queries: unit vectors, float32 or float64.
        keys: unit vectors of the same type.
        scale: 1 / temperature; a tensor may need a gradient.
        period: keys j with (j - i) % period == 0 are left out; 0 = none.
        query_ids: with ``key_ids``: keys of the query's own id are left out, and ``period`` is not looked at.
        key_ids: ids of the keys.
    """
    return _tiled(queries * scale, keys.detach(), query_ids, key_ids, period, within_bound(scale))


@operator(
    "tiled_lse_of_both_backward",
    fake=lambda upstream, lse, rows, columns, *_: rows.new_empty((len(rows) + len(columns), rows.shape[1])),
)
def _tiled_backward_of_both(
    upstream: Tensor,
    lse: Tensor,
    rows: Tensor,
    columns: Tensor,
    row_ids: Tensor | None,
    column_ids: Tensor | None,
) -> Tensor:
    """(m,), (m,), (m, d), (n, d) -> (m + n, d): of the rows, then of the columns."""
    with torch.autocast(rows.device.type, enabled=False):
        block = Block(rows=rows, columns=columns, bounded=False, row_ids=row_ids, column_ids=column_ids)
        return torch.cat(block.gradients(torch.stack([upstream, lse], dim=1), both=True))


def _keep_both(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(output, *inputs)


def _backward_of_both(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    rows, columns = ctx.saved_tensors[1:3]
    found = _tiled_backward_of_both(upstream.contiguous(), *ctx.saved_tensors)
    return *found.split([len(rows), len(columns)]), None, None


@operator(
    "tiled_lse_of_both",
    fake=lambda rows, *_: rows.new_empty(rows.shape[:1]),
    keep=_keep_both,
    backward=_backward_of_both,
)
def _tiled_of_both(rows: Tensor, columns: Tensor, row_ids: Tensor | None, column_ids: Tensor | None) -> Tensor:
    """(m, d), (n, d) -> (m,)."""
    with torch.autocast(rows.device.type, enabled=False):
        return Block(rows=rows, columns=columns, bounded=False, row_ids=row_ids, column_ids=column_ids).lse()[0]


def tiled_lse_of_both(
    queries: Float[Tensor, "m d"],
    keys: Float[Tensor, "n d"],
    *,
    query_ids: Int[Tensor, " m"] | None = None,
    key_ids: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, " m"]:
    """log sum_j exp(queries_i . keys_j) of every query i. Keys get a gradient, too.

    Args:
        queries: of any length, float32 or float64.
        keys: of the same type.
        query_ids: with ``key_ids``: keys of the query's own id are left out.
        key_ids: ids of the keys.
    """
    return _tiled_of_both(queries, keys, query_ids, key_ids)
