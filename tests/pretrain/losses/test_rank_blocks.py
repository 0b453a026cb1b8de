"""Which rank's rows come when, taken from what was gathered or handed round; what is worth gathering."""

import torch

from eyespot.pretrain.distributed.collectives import gather_rows, group_name
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.losses import rank_blocks


def blocks(world: World) -> list[list[list[list[int]]]]:
    """Of rows whose strides are not those of memory, and of numbers: gathered, then round the ring."""
    rows = (torch.arange(6).view(3, 2) + 10 * world.rank).T
    own, name = [rows, torch.tensor([world.rank, 7])], group_name(None)
    gathered = [gather_rows(part) for part in own]
    return [
        [[part.tolist() for part in block] for block in rank_blocks.rank_blocks(own, known, name)]
        for known in (gathered, None)
    ]


def test_every_ranks_rows_come_once_the_own_ones_first(on_ranks):
    for rank, (gathered, round_the_ring) in enumerate(on_ranks(blocks, 3)):
        assert gathered[0] == [[[10 * rank + n for n in (start, start + 2, start + 4)] for start in (0, 1)], [rank, 7]]
        assert [numbers[0] for _, numbers in gathered] == [(rank + step) % 3 for step in range(3)]
        assert round_the_ring[0] == gathered[0]
        assert sorted(round_the_ring) == sorted(gathered)


def test_alone_there_is_one_block():
    own = [torch.ones(2, 3)]
    assert list(rank_blocks.rank_blocks(own, None, "")) == [own]


def what_is_gathered(world: World) -> list[bool]:
    rank_blocks.GATHER_BYTES = 2 * 4 * 3 * 4
    return [rank_blocks.to_be_gathered(torch.ones(4, 3, dtype=dtype)) for dtype in (torch.float32, torch.float64)]


def test_as_many_bytes_as_all_ranks_may_have_are_gathered(on_ranks):
    assert on_ranks(what_is_gathered, 2) == [[True, False]] * 2
    assert on_ranks(what_is_gathered, 1) == [[False, False]]
