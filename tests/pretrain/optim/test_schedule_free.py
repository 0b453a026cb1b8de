"""Schedule-free AdamW against the paper's algorithm, number by number in float64; x and y to the bit."""

import math

import pytest
import torch
from torch import nn

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.loop.schedule import rate_at
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer
from eyespot.pretrain.optim.schedule_free import AVERAGE, ScheduleFreeAdamW, averaged
from eyespot.pretrain.recipe_lookup import make_run

RATES = (0.0, 0.05, 0.1, 0.1, 0.1)
BETAS, EPS, DECAY = (0.9, 0.95), 1e-8, 0.1


def gradient(step: int, count: int) -> list[float]:
    return torch.randn(count, generator=torch.Generator().manual_seed(step), dtype=torch.float64).tolist()


def slow(start: list[float], decay: float) -> tuple[list[float], list[float]]:
    """x and y after RATES, one number at a time."""
    (beta1, beta2), total = BETAS, 0.0
    z, x, v, y = list(start), list(start), [0.0] * len(start), list(start)
    for step, rate in enumerate(RATES, 1):
        total += rate**2
        c = rate**2 / total if total else 0.0
        for place, g in enumerate(gradient(step, len(start))):
            v[place] = beta2 * v[place] + (1 - beta2) * g * g
            root = math.sqrt(v[place] / (1 - beta2**step)) + EPS
            z[place] -= rate * (g / root + decay * y[place])
            x[place] = (1 - c) * x[place] + c * z[place]
            y[place] = (1 - beta1) * z[place] + beta1 * x[place]
    return x, y


def trained(dtype=torch.float64, *, skip: bool = False) -> tuple[ScheduleFreeAdamW, list[nn.Parameter]]:
    parameters = [nn.Parameter(torch.linspace(-1, 2, count, dtype=dtype)) for count in (5, 3)]
    groups = [{"params": parameters[:1], "weight_decay": DECAY}, {"params": parameters[1:]}]
    optimizer = ScheduleFreeAdamW(groups, betas=BETAS, eps=EPS)
    optimizer.begin()
    for step, rate in enumerate(RATES, 1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        if skip:  # on the device, a step that is not finite and one that is taken, each clipped
            bad: dict[str, torch.Tensor] = {
                "found_inf": torch.ones(()).to(dtype),
                "grad_scale": torch.tensor(2.0, dtype=dtype),
            }
            for name, value in bad.items():
                setattr(optimizer, name, value)
            for p in parameters:
                p.grad = torch.full_like(p, math.nan)
            optimizer.step()
            optimizer.found_inf = torch.zeros((), dtype=dtype)
        for p in parameters:
            p.grad = torch.tensor(gradient(step, len(p)), dtype=dtype) * (2 if skip else 1)
        optimizer.step()
    return optimizer, parameters


@pytest.mark.parametrize("skip", [False, True])
def test_it_follows_the_papers_algorithm(skip):
    optimizer, parameters = trained(skip=skip)
    for p, decay in zip(parameters, (DECAY, 0.0), strict=True):
        x, y = slow(torch.linspace(-1, 2, len(p), dtype=torch.float64).tolist(), decay)
        assert p.tolist() == pytest.approx(y, rel=1e-10, abs=1e-12)
        with averaged(optimizer):
            assert p.tolist() == pytest.approx(x, rel=1e-10, abs=1e-12)


def test_a_look_at_the_average_leaves_every_bit():
    optimizer, parameters = trained(torch.float32)
    before = [p.detach().clone() for p in parameters]
    with averaged(optimizer):
        assert all(torch.equal(p, optimizer.state[p][AVERAGE]) for p in parameters)
        assert not torch.equal(parameters[0], before[0])
    assert all(torch.equal(p, q) for p, q in zip(parameters, before, strict=True))
    adamw = make_optimizer(nn.Linear(2, 2), OptimConfig())
    with averaged(adamw):
        pass


def test_its_rate_stays_after_the_warm_up():
    run = make_run("mae_tiny")
    run.optim = OptimConfig(name="schedulefree", lr=1e-3, warmup_steps=10)
    peak = 1e-3 * run.data.batch_size / 256
    assert [rate_at(step, run) for step in (0, 9, 10, run.steps - 1)] == pytest.approx([peak / 10, peak, peak, peak])


@pytest.mark.parametrize("changes", [{"min_lr": 1e-4}, {"decay_at": (0.5,)}])
def test_another_schedule_is_refused(changes):
    with pytest.raises(
        UserError, match=rf"optim.{next(iter(changes))} .*: schedulefree's rate stays after its warm-up"
    ):
        OptimConfig(name="schedulefree", **changes)


def test_a_second_average_is_refused():
    with pytest.raises(UserError, match=r"optim\.ema 0\.9: schedulefree averages by itself; leave it out"):
        OptimConfig(name="schedulefree", ema=0.9)
