"""A pass is timed on a device that does its work later; nobody waits for it."""

import pytest
import torch
from device_queue import DeviceQueue
from torch import nn
from torch.utils.checkpoint import checkpoint

from eyespot.pretrain.watchdog.pass_timer import PassTimer
from eyespot.pretrain.watchdog.stragglers import OwnWork, around


@pytest.fixture
def queue(monkeypatch):
    return DeviceQueue.instead(monkeypatch)


def timed_pass(timer, queue, seconds):
    timer.begin()
    queue.add(seconds)
    timer.end()


def test_the_newest_pass_that_is_done(queue):
    timer = PassTimer()
    timed_pass(timer, queue, 1.0)
    assert timer.seconds() is None, "nobody has allowed it"
    for seconds, known in [(2.0, None), (3.0, None), (4.0, 2.0)]:
        if known is not None:
            queue.work_off()
        timer.allow()
        timed_pass(timer, queue, seconds)
        assert timer.seconds() == known, "the device is behind"
    queue.work_off()
    assert timer.seconds() == 4.0


def test_passes_that_nobody_has_allowed_do_not_count(queue):
    """A monitor's."""
    timer = PassTimer()
    timer.allow()
    for seconds in (2.0, 5.0):
        timed_pass(timer, queue, seconds)
        queue.work_off()
        assert timer.seconds() == 2.0


def test_a_pass_that_broke_off_is_forgotten(queue):
    timer = PassTimer()
    timer.allow()
    timer.begin()
    queue.add(9.0)
    timer.allow()
    timed_pass(timer, queue, 2.0)
    queue.work_off()
    assert timer.seconds() == 2.0


class Block(nn.Module):
    """Takes a second of the device's time."""

    def __init__(self, queue: DeviceQueue) -> None:
        super().__init__()
        self.layer, self.queue = nn.Linear(3, 3), queue

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.queue.add(1.0)
        return self.layer(rows)


@pytest.mark.parametrize("late", [False, True], ids=["beside the backward pass", "after it"])
def test_blocks_that_run_again_in_the_backward_pass_are_timed_once(queue, late):
    """Activation checkpointing runs them from the last to the first: the end would come before the beginning."""
    blocks, timer = nn.ModuleList(Block(queue) for _ in range(3)), PassTimer()
    around(blocks[0], blocks[-1], timer.begin, timer.end)
    for _ in range(2):
        timer.allow()
        rows = torch.ones(2, 3)
        for block in blocks:
            rows = checkpoint(block, rows, use_reentrant=False)
        if not late:
            queue.work_off()
        rows.sum().backward()
        queue.work_off()
        assert timer.seconds() == 3.0
    assert queue.given == 2 * 2 * 3


def test_own_work_on_a_gpu_is_that_of_the_blocks(queue):
    encoder = nn.Sequential(nn.Linear(3, 3), nn.ModuleList(Block(queue) for _ in range(2)))
    work = OwnWork(torch.device("cuda"))
    work.time_forward(encoder)
    for known in (0.0, 2.0):
        work.begin_step()
        work.begin_compute()
        queue.add(5.0)  # what comes before the blocks
        for block in encoder[1]:
            block(torch.ones(2, 3))
        work.end_compute()
        assert work.close_interval() == (0.0, known)
        queue.work_off()
    work.close()
