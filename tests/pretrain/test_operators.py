"""Operators of torch, and that they cost what they say: no compiler is imported to run them."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from eyespot.pretrain.operators import operator


@operator("test_halve_backward", fake=lambda upstream: torch.empty_like(upstream))
def halve_backward(upstream: Tensor) -> Tensor:
    return upstream / 2


def keep(ctx, inputs, output) -> None:
    ctx.power = inputs[1]


def backward(ctx, upstream):
    for _ in range(ctx.power):
        upstream = halve_backward(upstream)
    return upstream, None


@operator("test_halve", fake=lambda rows, power: torch.empty_like(rows), keep=keep, backward=backward)
def halve(rows: Tensor, power: int) -> Tensor:
    return rows * 0.5**power


@operator("test_alias", fake=lambda rows: rows.new_empty(rows.shape))
def alias(rows: Tensor) -> Tensor:
    return rows


@operator("test_transpose", fake=lambda rows: torch.empty_like(rows))
def wrong_fake(rows: Tensor) -> Tensor:
    return rows.T.clone()


def test_it_runs_has_a_gradient_and_keeps_torchs_rules():
    rows = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    assert halve(rows, 2).tolist() == [[0.25] * 3] * 2
    assert torch.autograd.gradcheck(lambda rows: halve(rows, 2), rows)
    torch.library.opcheck(halve, (rows, 2))


def test_it_is_one_node_of_a_compiled_graph():
    rows = torch.ones(2, 3, requires_grad=True)
    compiled = torch.compile(lambda rows: (halve(rows, 1) * 6).sum(), fullgraph=True, backend="aot_eager")
    loss = compiled(rows)
    loss.backward()
    assert loss == 18
    assert rows.grad is not None and (rows.grad == 3).all()


def test_one_without_gradient_says_so():
    upstream = halve_backward(torch.ones(3, requires_grad=True))
    with pytest.raises(RuntimeError, match="eyespot::test_halve_backward has no gradient"):
        upstream.sum().backward()


@pytest.mark.parametrize("wrong", [alias, wrong_fake])
def test_torch_finds_what_breaks_its_rules(wrong):
    with pytest.raises(Exception, match=r"alias|shape|stride|mismatch"):
        torch.library.opcheck(wrong, (torch.ones(2, 3),))


LOSSES = """
import sys, torch
from eyespot.pretrain.losses.contrastive import clip_loss, moco_loss, nt_xent_loss, supcon_loss
from eyespot.pretrain.losses.redundancy_reduction import barlow_twins_loss
x, y = (torch.randn(8, 5, requires_grad=True) for _ in range(2))
(x @ y.T).sum().backward()
before = set(sys.modules)
labels = torch.arange(8) // 2
loss = nt_xent_loss([x, y], 0.1) + clip_loss(x, y, 10.0) + supcon_loss([x, y], labels, 0.1) + moco_loss(x, y, y, 0.1)
(loss + barlow_twins_loss(x, y, 0.1)["loss"]).backward()
new = set(sys.modules) - before
print(len(new), *sorted({"sympy", "torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes"} & new))
"""


def test_the_first_loss_imports_no_compiler():
    done = subprocess.run([sys.executable, "-c", LOSSES], capture_output=True, text=True, check=True)
    number, *compilers = done.stdout.split()
    assert compilers == []
    assert int(number) < 10
