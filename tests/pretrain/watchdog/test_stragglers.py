"""When a rank is called slow, and what counts as its own work."""

import itertools
import time

import pytest
import torch

from eyespot.pretrain.watchdog import stragglers as stragglers_module
from eyespot.pretrain.watchdog.stragglers import INTERVALS, OwnWork, Stragglers, around


def rows(*seconds: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(seconds, dtype=torch.float64)


USUAL, SLOW_DATA, SLOW_COMPUTE = (0.01, 0.09), (0.11, 0.09), (0.01, 0.19)


def test_figures():
    metrics, said = Stragglers(["a", "b", "c"]).judge(rows(USUAL, SLOW_DATA, (0.01, 0.08)))
    assert metrics == {"rank_seconds_median": 0.1, "rank_seconds_max": 0.2, "slowest_rank": 1}
    assert said == []


@pytest.mark.parametrize(("slow", "what"), [(SLOW_DATA, "data takes 0.11 s"), (SLOW_COMPUTE, "compute takes 0.19 s")])
def test_named_once_after_some_intervals_in_a_row_and_once_when_it_recovers(slow, what):
    stragglers = Stragglers(["rank 0", "rank 1"], quiet_seconds=0.0)
    said = [stragglers.judge(rows(USUAL, slow))[1] for _ in range(INTERVALS + 3)]
    assert [len(lines) for lines in said] == [0] * (INTERVALS - 1) + [1, 0, 0, 0]
    assert said[INTERVALS - 1][0].startswith("rank 1 is slow: 0.2 s of own work per step, the median is 0.1 s; its")
    assert what in said[INTERVALS - 1][0]
    recovered = [stragglers.judge(rows(USUAL, USUAL))[1] for _ in range(2)]
    assert [len(lines) for lines in recovered] == [1, 0]
    assert recovered[0][0].startswith("rank 1 keeps up again")


def test_one_that_comes_and_goes_is_told_of_once_a_minute(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(stragglers_module.time, "monotonic", lambda: now[0])
    stragglers, said = Stragglers(["a", "b"]), []
    for _ in range(60):  # slow for some intervals, then not, of two seconds each
        for speed in [SLOW_DATA] * INTERVALS + [USUAL] * 2:
            now[0] += 2
            said += [(now[0], line) for line in stragglers.judge(rows(USUAL, speed))[1]]
    times = [when for when, _ in said]
    assert len(said) >= 5 and all(later - sooner >= 60 for sooner, later in itertools.pairwise(times))
    words = ["slow" if "is slow" in line else "again" for _, line in said]
    assert words == (["slow", "again"] * len(words))[: len(words)]


def test_now_and_then_is_not_slow():
    stragglers = Stragglers(["a", "b"])
    for interval in range(20):
        assert stragglers.judge(rows(USUAL, SLOW_DATA if interval % INTERVALS else USUAL))[1] == []


def test_a_factor_of_nearly_nothing_is_noise():
    stragglers = Stragglers(["a", "b"])
    for _ in range(10):
        assert stragglers.judge(rows((0.0, 0.001), (0.0, 0.004)))[1] == []


def test_own_work_is_waiting_for_data_and_computing_but_not_sleeping():
    work = OwnWork(torch.device("cpu"))
    for _ in range(2):
        work.begin_step()
        work.waited_for_data(0.5)
        work.begin_compute()
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        time.sleep(0.3)  # as an exchange does
        work.end_compute()
    data, compute = work.close_interval()
    assert data == 0.5
    assert 0.05 <= compute < 0.25
    assert work.close_interval() == (0.0, 0.0)
    work.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_pass_through_the_blocks_on_a_gpu():
    blocks = [torch.nn.Sequential(torch.nn.Linear(4096, 4096), torch.nn.ReLU()) for _ in range(2)]
    encoder = torch.nn.Sequential(torch.nn.Linear(4096, 4096), torch.nn.ModuleList(blocks)).to("cuda")
    work = OwnWork(torch.device("cuda"))
    work.time_forward(encoder)
    images = encoder[0](torch.randn(8192, 4096, device="cuda"))  # what comes before the blocks does not count
    work.begin_compute()
    blocks[1](blocks[0](images))
    torch.cuda.synchronize()
    assert 0 < work.close_interval()[1] < 10
    work.close()


def test_what_compiled_blocks_call_stays_outside_of_their_code():
    """A record of a CUDA event cannot be compiled."""
    torch._dynamo.reset()
    blocks = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()) for _ in range(2)))
    called: list[str] = []
    for block in blocks:
        block.compile(backend="aot_eager")
    around(
        blocks[0],
        blocks[1],
        lambda: called.append(f"begin {torch.compiler.is_compiling()}"),
        lambda: called.append("end"),
    )
    rows = torch.randn(2, 3, requires_grad=True)
    for _ in range(3):
        blocks(rows).sum().backward()
    assert called == ["begin False", "end"] * 3
    torch._dynamo.reset()
