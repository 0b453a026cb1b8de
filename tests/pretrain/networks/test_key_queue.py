"""The queue holds what a plain list would hold, whoever computed the keys and in however many pieces."""

import pytest
import torch
import torch.nn.functional as F

from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.writer import CheckpointWriter
from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.networks.key_queue import KeyQueue

SIZE, DIM, BATCH = 24, 5, 8


def make_queue() -> KeyQueue:
    torch.manual_seed(0)
    return KeyQueue(SIZE, DIM).double()


def step_keys(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The global batch of one step: keys (not normalised) and sample ids."""
    generator = torch.Generator().manual_seed(step)
    keys = 3 * torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64)
    return keys, torch.arange(BATCH) + BATCH * step


def feed(queue: KeyQueue, steps: range, accumulate: int, world: process_group.World | None = None) -> KeyQueue:
    """Pushes each step's share of this rank: micro-batch i of rank r is part i * ranks + r of the global batch."""
    rank, size = (world.rank, world.size) if world else (0, 1)
    for step in steps:
        parts = list(zip(*(rows.chunk(accumulate * size) for rows in step_keys(step)), strict=True))
        for keys, ids in parts[rank::size]:
            queue.wait(keys, ids)
        queue.push()
    return queue


def slow_queue(num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One key after the other into a list with a place to write."""
    start = make_queue()
    keys, ids, position = list(start.keys), start.ids.tolist(), 0
    for step in range(num_steps):
        for key, number in zip(*step_keys(step), strict=True):
            keys[position], ids[position] = key / key.norm(), int(number)
            position = (position + 1) % SIZE
    return torch.stack(keys), torch.tensor(ids)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("num_steps", [0, 2, 3, 7])
def test_it_holds_what_a_list_holds(num_steps, accumulate):
    queue = feed(make_queue(), range(num_steps), accumulate)
    keys, ids = slow_queue(num_steps)
    assert torch.allclose(queue.keys, keys, rtol=1e-14, atol=1e-15)
    assert torch.equal(queue.ids, ids)


def rank_work(world: process_group.World) -> dict[int, dict[str, torch.Tensor]]:
    return {accumulate: feed(make_queue(), range(7), accumulate, world).state_dict() for accumulate in (1, 2)}


def test_two_ranks_hold_what_one_process_holds(on_ranks):
    """Seven steps through a queue of three batches, with and without accumulation: the same bits on both ranks."""
    answers = on_ranks(rank_work, 2)
    expected = feed(make_queue(), range(7), 1).state_dict()
    for answer in answers:
        for accumulate, state in answer.items():
            assert set(state) == set(expected) == {"keys", "ids", "position"}
            for name, value in expected.items():
                assert torch.equal(state[name], value), (accumulate, name)


def test_it_starts_with_random_unit_keys_of_no_sample():
    queue = make_queue()
    assert torch.allclose(queue.keys.norm(dim=1), torch.ones(SIZE, dtype=torch.float64), atol=1e-6)
    assert len(queue.keys.unique(dim=0)) == SIZE
    assert (queue.ids == -1).all()


def test_keys_that_wait_are_not_in_it():
    queue, before = make_queue(), make_queue().state_dict()
    queue.wait(*step_keys(0))
    for name, value in queue.state_dict().items():
        assert torch.equal(value, before[name])


def test_forgotten_keys_never_enter():
    queue = make_queue()
    queue.wait(*step_keys(5))
    queue.forget()
    queue.push()
    expected = make_queue()
    assert torch.equal(queue.keys, expected.keys)
    assert queue.position == 0
    assert torch.equal(feed(queue, range(2), 1).keys, feed(expected, range(2), 1).keys)


def test_it_keeps_no_graph_and_its_own_precision():
    queue = KeyQueue(SIZE, DIM)
    source = torch.randn(BATCH, DIM, requires_grad=True)
    queue.wait(source.bfloat16() * 2, torch.arange(BATCH))
    queue.push()
    assert not queue.keys.requires_grad
    assert queue.keys.dtype == torch.float32
    expected = F.normalize(source.detach().bfloat16().float(), dim=1)
    assert torch.allclose(queue.keys[:BATCH], expected, atol=1e-6)


def test_a_checkpoint_brings_it_back(tmp_path):
    """Saved in the middle of a round, loaded into a fresh one: it goes on as if nothing had happened."""
    saved = feed(make_queue(), range(4), 1)
    meta = checkpoint.Meta(step=4, loader={"samples_consumed": 32}, world_size=1, run_key="k")
    CheckpointWriter(tmp_path, keep=2).save(live_tensors(saved), meta, wait=True)
    torch.manual_seed(9)
    loaded = KeyQueue(SIZE, DIM).double()
    checkpoint.restore(tmp_path, "auto", lambda read: read(live_tensors(loaded)))
    expected = feed(saved, range(4, 6), 1).state_dict()
    for name, value in feed(loaded, range(4, 6), 1).state_dict().items():
        assert torch.equal(value, expected[name]), name


def live_tensors(queue: KeyQueue) -> dict[str, torch.Tensor]:
    return {f"model.queue.{name}": value.detach() for name, value in queue.state_dict().items()}


def test_the_nearest_is_another_samples_key_in_however_many_tiles(monkeypatch):
    queue = feed(make_queue(), range(3), accumulate=1)
    rows, ids = step_keys(1)  # each is its own key, up to its length
    for tile in (8192, 7):
        monkeypatch.setattr("eyespot.pretrain.networks.key_queue.TILE", tile)
        assert torch.equal(queue.nearest(rows, ids + 100), F.normalize(rows, dim=1))
        for row, own, found in zip(rows, ids.tolist(), queue.nearest(rows, ids), strict=True):
            others = [key for key, number in zip(queue.keys, queue.ids.tolist(), strict=True) if number != own]
            assert torch.equal(found, max(others, key=lambda key, row=row: float(key @ row)))
