"""A run's state out of ZeRO's partitions and back, on real ranks: whole, each tensor once, every bit.

What DeepSpeed's inside must look like for it: test_deepspeed.py.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from engine_states import make_single_engine
from torch import Tensor

from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engines import zero_state
from eyespot.pretrain.engines.zero_state import _Entry, _parts

STAGES = (1, 2, 3)


def bits_of(name: str, like: Tensor) -> Tensor:
    """What a checkpoint might hold under a name: any numbers, and those whose bits a sum could lose."""
    generator = torch.Generator().manual_seed(sum(name.encode()))
    if not like.is_floating_point():
        return torch.randint(100, like.shape, generator=generator).to(like.dtype)
    values = torch.randn(like.shape, generator=generator).to(like.dtype)
    odd = torch.tensor([-0.0, math.inf, 1e-40, math.nan], dtype=like.dtype)[: values.numel()]
    values.view(-1)[: odd.numel()] = odd
    return values


def there_and_back(world: World) -> dict[str, Any]:
    """By stage: what each rank saves of a new engine, and what it saves of one that has loaded ``bits_of``."""
    zero_state.PART_BYTES = zero_state.BUCKET_BYTES = 4096
    reduce, meetings = zero_state.dist.reduce, []
    zero_state.dist.reduce = lambda bucket, owner: (meetings.append(bucket.nbytes), reduce(bucket, owner))
    found: dict[str, Any] = {}
    plain = make_single_engine("moco", "ddp", world)
    found["ddp"] = {name: tuple(tensor.shape) for name, tensor in plain.save_tensors().items()}
    for stage in STAGES:
        engine = make_single_engine("moco", f"deepspeed {stage}", world)
        found[f"{stage} shapes"] = {name: tuple(tensor.shape) for name, tensor in engine.save_tensors().items()}
        parts: list[int] = []

        def read(tensors: dict[str, Tensor], parts: list[int] = parts) -> None:
            parts.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
            for name, tensor in tensors.items():
                tensor.copy_(bits_of(name, tensor))

        engine.load_tensors(read)
        meetings.clear()
        saved = engine.save_tensors()
        found[f"{stage} small buckets"] = list(meetings)
        zero_state.BUCKET_BYTES = 1 << 26
        meetings.clear()
        at_once = engine.save_tensors()
        found[f"{stage} large buckets"] = list(meetings)
        zero_state.BUCKET_BYTES = 4096
        assert list(at_once) == list(saved) and all(same_bits(saved[name], at_once[name]) for name in saved)
        wrong = [name for name, tensor in saved.items() if not same_bits(tensor, bits_of(name, tensor))]
        found[f"{stage} wrong"], found[f"{stage} parts"] = wrong, len(parts)
        engine.close()
    return found


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.numpy().tobytes() == other.numpy().tobytes()


@pytest.fixture(scope="module")
def ranks(on_ranks) -> list[dict[str, Any]]:
    return on_ranks(there_and_back, 2)


@pytest.mark.parametrize("stage", STAGES)
def test_each_tensor_is_whole_and_on_one_rank(ranks, stage):
    """With the names and shapes that ddp gives them, whose ranks share them out too."""
    expected = {name: shape for rank in ranks for name, shape in rank["ddp"].items()}
    shapes = [rank[f"{stage} shapes"] for rank in ranks]
    assert not shapes[0].keys() & shapes[1].keys()
    assert shapes[0] | shapes[1] == expected
    assert any("queue" in name for name in expected) and any(name.startswith("optim.") for name in expected)


@pytest.mark.parametrize("stage", STAGES)
def test_ranks_hold_about_as_much(ranks, stage):
    sizes = [{name: math.prod(shape) for name, shape in rank[f"{stage} shapes"].items()} for rank in ranks]
    held, largest = [sum(size.values()) for size in sizes], max(max(size.values()) for size in sizes)
    assert abs(held[0] - held[1]) <= largest


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_loaded_is_saved_again_to_the_bit(ranks, stage):
    for rank in ranks:
        assert rank[f"{stage} wrong"] == []
        assert rank[f"{stage} parts"] > 10


@pytest.mark.parametrize("stage", STAGES)
def test_shares_meet_in_buckets(ranks, stage):
    """Of a state that fits into one, each rank's part meets at once; small buckets hold more than their size only
    where one tensor does."""
    shapes = {name: shape for rank in ranks for name, shape in rank[f"{stage} shapes"].items()}
    for rank in ranks:
        assert len(rank[f"{stage} large buckets"]) == len(ranks)
        assert sum(rank[f"{stage} small buckets"]) == sum(rank[f"{stage} large buckets"])
        above = [num_bytes for num_bytes in rank[f"{stage} small buckets"] if num_bytes > 4096]
        assert {num_bytes // 4 for num_bytes in above} <= {math.prod(shape) for shape in shapes.values()}
        assert 4 < len(rank[f"{stage} small buckets"]) < len(shapes)


@pytest.mark.parametrize("limit", [0, 4, 40, 100, 10_000])
def test_parts_hold_as_many_tensors_as_fit(limit):
    counts = np.random.default_rng(0).integers(0, 30, 50).tolist()
    entries = {str(number): _Entry(shape=torch.Size([n]), share=torch.zeros(n)) for number, n in enumerate(counts)}
    parts = list(_parts(entries, limit))
    assert [name for part in parts for name in part] == list(entries)
    sizes = [[entry.num_bytes for entry in part.values()] for part in parts]
    for part, following in zip(sizes, [*sizes[1:], None], strict=True):
        assert len(part) == 1 or sum(part) <= limit
        assert following is None or sum(part) + following[0] > limit
