"""The meter against numbers that a person can count."""

import importlib
import pkgutil

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from eyespot.pretrain import distributed, losses
from eyespot.pretrain.losses import rank_blocks
from eyespot.pretrain.losses.contrastive import moco_loss, nt_xent_loss
from eyespot.pretrain.losses.sigmoid import sigmoid_loss
from eyespot.pretrain.losses.tiled_logsumexp import tiled_lse_of_both
from eyespot.pretrain.operators import FUNCTIONS
from eyespot.pretrain.planning.meter import _EXCHANGES, _FLOPS, Kernel, Meter, Work, all_reduce_bytes, blend

MEGA = 1_000_000


def test_peak_memory_is_what_is_alive_at_once():
    before = torch.zeros(MEGA)
    with Meter() as meter:
        one = before + 1
        two = one * 2
        del one
        three = two.view(1000, 1000).T  # a view takes nothing
        four = three.contiguous()
    assert meter.peak_bytes == 2 * 4 * MEGA
    assert meter.live_bytes == 2 * 4 * MEGA
    del two, three, four
    assert meter.live_bytes == 0


def test_what_the_backward_pass_needs_stays_alive():
    weight = torch.zeros(100, 100, requires_grad=True)
    weight.grad = torch.zeros_like(weight)
    with Meter() as meter:
        x = torch.zeros(1000, 100)
        for _ in range(5):
            x = (x @ weight).sigmoid()  # keeps its output; the product of the last one is alive too
    assert meter.live_bytes == 6 * 4 * 100_000
    assert meter.peak_bytes == 7 * 4 * 100_000


def test_flops_and_traffic_of_a_product_and_a_sum():
    with Meter() as meter, meter.phase("work"):
        product = torch.zeros(20, 30) @ torch.zeros(30, 40)
        product.add_(1.0)
        product.view(-1)
    kernels = meter.work("work").kernels[-2:]
    assert kernels[0] == Kernel(2 * 20 * 30 * 40, 4 * (20 * 30 + 30 * 40 + 20 * 40))
    assert kernels[1].flops == 0
    assert meter.work("work").flops == 2 * 20 * 30 * 40


@pytest.mark.parametrize("fused", [True, False])
def test_attention_costs_the_same_in_either_way(fused):
    q, k, v = (torch.randn(2, 3, 64, 16, requires_grad=True) for _ in range(3))
    with Meter() as meter, meter.phase("forward"):
        out = F.scaled_dot_product_attention(q, k, v) if fused else (q @ k.mT).softmax(-1) @ v
    assert meter.work("forward").flops == 2 * 2 * (2 * 3) * 64 * 64 * 16
    with Meter() as meter, meter.phase("backward"):
        out.sum().backward()
    again = 1 if fused else 0  # the fused kernel computes the logits anew
    assert meter.work("backward").flops == (4 + again) * 2 * (2 * 3) * 64 * 64 * 16


def test_the_loss_core_costs_what_its_products_cost():
    queries, keys = torch.randn(50, 16, requires_grad=True), torch.randn(50, 16)
    queue = F.normalize(torch.randn(700, 16), dim=1)
    with Meter() as meter, meter.phase("all"):
        moco_loss(queries, keys, queue, 0.2).backward()
    assert meter.work("all").flops == 3 * 2 * 50 * 700 * 16


@pytest.mark.parametrize("ranks", [2, 8])
def test_embeddings_cross_once_and_two_numbers_per_row_come_back(ranks):
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        with FakeTensorMode(), Meter() as meter, meter.phase("forward"):
            views = [torch.randn(32, 16, requires_grad=True) for _ in range(2)]
            loss = nt_xent_loss(views, 0.2)
            with meter.phase("backward"):
                loss.backward()
            with meter.phase("plain"):
                dist.all_reduce(torch.zeros(100))
                dist.all_gather([torch.zeros(10) for _ in range(ranks)], torch.zeros(10))
    finally:
        dist.destroy_process_group()
    assert meter.work("forward").received_bytes == (ranks - 1) * 64 * 16 * 4
    assert meter.work("backward").received_bytes == (ranks - 1) * 64 * 2 * 4
    assert meter.work("plain").received_bytes == 2 * (ranks - 1) / ranks * 400 + (ranks - 1) * 40


def test_the_sigmoid_loss_costs_what_its_products_cost():
    x, y = (torch.randn(50, 16, requires_grad=True) for _ in range(2))
    scale, bias = (torch.tensor(value, requires_grad=True) for value in (10.0, -10.0))
    with Meter() as meter, meter.phase("all"):
        sigmoid_loss(x, y, scale, bias, ids=torch.arange(50)).backward()
    assert meter.work("all").flops == (2 + 6) * 50 * 50 * 16


@pytest.mark.parametrize("in_ring", [False, True])
def test_the_sigmoid_loss_among_ranks(in_ring, monkeypatch):
    """Columns and ids cross in the forward pass; rows and slopes in the backward pass, in a ring all four."""
    monkeypatch.setattr(rank_blocks, "GATHER_BYTES", 0 if in_ring else 2**28)
    count, dim, ranks, row, number = 32, 16, 4, 4, 8
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        with FakeTensorMode(), Meter() as meter, meter.phase("forward"):
            x, y = (torch.randn(count, dim, requires_grad=True) for _ in range(2))
            loss = sigmoid_loss(x, y, torch.tensor(10.0), torch.tensor(-10.0), ids=torch.arange(count))
            with meter.phase("backward"):
                loss.backward()
    finally:
        dist.destroy_process_group()
    forward, backward = meter.work("forward"), meter.work("backward")
    columns, rows = count * (row * dim + number), count * (row * dim + row)
    assert (forward.flops, backward.flops) == (2 * ranks * count**2 * dim, (6 + 8 * (ranks - 1)) * count**2 * dim)
    assert forward.received_bytes == (ranks - 1) * columns
    assert backward.received_bytes == (ranks - 1) * (rows + in_ring * columns)


def test_the_two_sided_loss_core_costs_what_its_products_cost():
    rows, columns = torch.randn(20, 16, requires_grad=True), torch.randn(70, 16, requires_grad=True)
    with Meter() as meter, meter.phase("all"):
        tiled_lse_of_both(rows, columns).sum().backward()
    assert meter.work("all").flops == (2 + 6) * 20 * 70 * 16


def test_every_operator_of_ours_is_counted():
    for folder in (losses, distributed):
        for module in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}."):
            importlib.import_module(module.name)
    ours = [name.replace("::", ".") for name, f in FUNCTIONS.items() if f.__module__.startswith("eyespot.pretrain.")]
    assert len(ours) >= 12
    assert [name for name in ours if name not in _FLOPS and name not in _EXCHANGES] == []
    slopes = [name for name in ours if name.removesuffix("_backward") in _FLOPS]
    assert [name for name in slopes if name not in _FLOPS] == []


def test_a_ring_all_reduce_sends_almost_twice_the_data():
    assert all_reduce_bytes(1000, 1) == 0
    assert all_reduce_bytes(1000, 2) == 1000
    assert all_reduce_bytes(1000, 4) == 1500


def test_work_at_another_batch_lies_on_the_line():
    one = Work(kernels=[Kernel(10, 100), Kernel(0, 5)], received_bytes=2)
    two = Work(kernels=[Kernel(20, 180), Kernel(0, 5)], received_bytes=4)
    three = blend(one, two, 2.0)
    assert three == Work(kernels=[Kernel(30, 260), Kernel(0, 5)], received_bytes=6)
    assert blend(one, Work(kernels=[Kernel(20, 205)]), 0.5).kernels == [Kernel(15, 155)]
