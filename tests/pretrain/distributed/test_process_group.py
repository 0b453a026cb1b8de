"""Who am I: with a process group, without one, and on which device."""

import torch
import torch.distributed
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from eyespot.pretrain.distributed import process_group


def who_am_i(world: process_group.World) -> tuple:
    whole = torch.arange(6.0).reshape(6, 1)
    cut = distribute_tensor(whole, init_device_mesh("cpu", (world.size,)), [Shard(0)])
    share = process_group.own_share(torch.nn.Parameter(cut))
    share += 10
    return world.rank, world.size, world.device.type, share.flatten().tolist(), cut.full_tensor().flatten().tolist()


def test_each_rank_knows_itself_and_its_share(on_ranks):
    assert on_ranks(who_am_i, 2) == [
        (0, 2, "cpu", [10, 11, 12], [10, 11, 12, 13, 14, 15]),
        (1, 2, "cpu", [13, 14, 15], [10, 11, 12, 13, 14, 15]),
    ]


def test_deterministic_is_known_before_a_group_begins(monkeypatch):
    """torch tells NCCL of it when the group is made, and never again."""
    known = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(process_group, "fresh_store", lambda *_: None)
    told = lambda *_, **__: known.append(torch.are_deterministic_algorithms_enabled())  # noqa: E731
    monkeypatch.setattr(process_group.dist, "init_process_group", told)
    for deterministic in (True, False):
        process_group.start("cpu", deterministic=deterministic)
    assert known == [True, False]


def test_one_process_needs_no_group():
    assert process_group.start("cpu") == process_group.World(rank=0, size=1, device=torch.device("cpu"))
    assert not torch.distributed.is_initialized()


def test_a_group_of_one_for_engines_that_cannot_do_without():
    process_group.ensure_group(torch.device("cpu"))
    try:
        process_group.ensure_group(torch.device("cpu"))  # there is one already
        assert torch.distributed.get_world_size() == 1
    finally:
        process_group.stop()
    assert not torch.distributed.is_initialized()
    process_group.stop()  # there is none any more


def test_the_share_of_a_whole_tensor_is_all_of_it():
    weight = torch.nn.Parameter(torch.zeros(3))
    process_group.own_share(weight).fill_(2)
    assert weight.tolist() == [2, 2, 2]
    assert not process_group.own_share(weight).requires_grad
