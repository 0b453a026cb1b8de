"""Norms of whole tensors, and of tensors cut over real ranks."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from eyespot.pretrain.optim.tensor_norms import whole_norms


def make_tensors() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(5, 3), torch.randn(1, 7), torch.full((4,), 1e-25), torch.zeros(3, 2), torch.full((8,), 1e25)]


def slow() -> list[float]:
    return [sum(x * x for x in tensor.flatten().tolist()) ** 0.5 for tensor in make_tensors()]


def cut(world) -> list[list[float]]:
    """In a row of four, where some ranks hold nothing of the smaller ones; and cut in two, twice."""
    row = init_device_mesh("cpu", (world.size,))
    nodes = init_device_mesh("cpu", (2, world.size // 2), mesh_dim_names=("replicate", "shard"))
    places = [(row, [Shard(0)]), (nodes, [Replicate(), Shard(0)])]
    return [whole_norms([distribute_tensor(t, mesh, place) for t in make_tensors()]).tolist() for mesh, place in places]


def test_it_is_the_root_of_the_sum_of_squares():
    tensors = make_tensors()
    assert whole_norms(tensors[:2]).tolist() == pytest.approx(slow()[:2], rel=1e-6)


def test_shards_together_have_the_norm_of_the_whole(on_ranks):
    answers = on_ranks(cut, 4)
    assert all(answer == answers[0] for answer in answers)
    for norms in answers[0]:
        assert norms[:2] == pytest.approx(slow()[:2], rel=1e-6)
        assert norms[3] == 0.0
