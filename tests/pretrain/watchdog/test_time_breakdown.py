import time

import pytest
import torch
from device_queue import DeviceQueue
from torch import nn

from eyespot.pretrain.watchdog.stragglers import OwnWork
from eyespot.pretrain.watchdog.time_breakdown import PARTS, UNDIVIDED, TimeShares


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> float:
        self.now += seconds
        return seconds


BORDERED = {"time_share/forward", "time_share/backward"}


@pytest.fixture
def queue(monkeypatch):
    return DeviceQueue.instead(monkeypatch)


class Slow(nn.Module):
    """Its forward pass takes a second."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.clock.pass_by(1.0)
        return images


def test_shares_of_two_micro_batches():
    clock = Clock()
    shares, objective = TimeShares(torch.device("cpu"), clock), Slow(clock)
    shares.time_forward(objective)
    shares.leave("starting", 1000.0)
    for _ in range(2):
        shares.leave("reading data", clock.pass_by(0.5))
        shares.begin_passes()
        objective(torch.zeros(1))
        clock.pass_by(2.0)
        shares.leave("forward and backward", 4.0)  # a second of which its own clock stood still: it slept
    shares.leave("optimiser", clock.pass_by(1.5))
    shares.leave("saving", clock.pass_by(3.0))
    shares.leave("logging", 0.25)
    shares.leave("monitor", 0.25)
    seconds = {
        "data": 1,
        "forward": 2,
        "backward": 4,
        "communication": 2,
        "optimiser": 1.5,
        "checkpoint": 3,
        "other": 0.5,
    }
    found = shares.close_interval()
    assert found == {f"time_share/{part}": pytest.approx(seconds[part] / 14, abs=1e-5) for part in PARTS}
    assert set(shares.close_interval().values()) == {0.0}


def test_who_is_alone_waits_for_nobody():
    shares = TimeShares(torch.device("cpu"), None)
    shares.time_forward(nn.Identity())
    shares.begin_passes()
    shares.leave("forward and backward", 5.0)
    assert shares.close_interval()["time_share/backward"] == 1


def test_where_no_hook_runs_nothing_is_said_of_the_border():
    shares = TimeShares(torch.device("cpu"), None)
    shares.begin_passes()
    shares.leave("forward and backward", 3.0)
    shares.leave("reading data", 1.0)
    found = shares.close_interval()
    assert found.keys() == {f"time_share/{part}" for part in (*PARTS, UNDIVIDED)} - BORDERED
    assert (found["time_share/passes"], found["time_share/data"]) == (0.75, 0.25)


def test_a_gpu_that_is_behind_is_not_waited_for(queue):
    """A line is written before the device has done a pass; the next one knows how long it took."""
    shares, layer = TimeShares(torch.device("cuda"), None), nn.Identity()
    shares.time_forward(layer)
    layer.register_forward_pre_hook(lambda *_: queue.add(0.5))

    def interval():
        for _ in range(2):
            shares.begin_passes()
            layer(None)
            shares.leave("forward and backward", 2.0)
        return shares.close_interval()

    first = interval()
    assert first["time_share/passes"] == 1 and not BORDERED & first.keys()
    queue.work_off()
    assert (interval()["time_share/forward"], interval()["time_share/backward"]) == (0.25, 0.75)


def test_sleeping_in_an_exchange_is_communication():
    work = OwnWork(torch.device("cpu"))
    shares = TimeShares(torch.device("cpu"), work.processor_seconds)
    shares.begin_passes()
    begun = time.monotonic()
    time.sleep(0.1)
    shares.leave("forward and backward", time.monotonic() - begun)
    assert shares.close_interval()["time_share/communication"] > 0.5
    work.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_forward_on_a_gpu_is_measured_there():
    device = torch.device("cuda")
    shares, layer = TimeShares(device, None), nn.Linear(8192, 8192).to(device)
    shares.time_forward(layer)
    images = torch.randn(8192, 8192, device=device)
    layer(images).sum().item()
    for _ in range(2):
        shares.begin_passes()
        begun = time.monotonic()
        layer(images).sum().backward()
        torch.cuda.synchronize()
        shares.leave("forward and backward", time.monotonic() - begun)
    found = shares.close_interval()
    assert 0.1 < found["time_share/forward"] < 0.9
    assert found["time_share/communication"] == 0
