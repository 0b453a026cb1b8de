"""LARS against the paper's algorithm, one parameter and one number at a time, in float64."""

import math

import pytest
import torch
from torch import nn

from eyespot.pretrain.optim.lars import LARS, trust_ratios

MOMENTUM, DECAY, TRUST = 0.9, 0.1, 0.02
RATES = [0.3, 1.1, 0.2, 0.0, 0.7]


def norm(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values))


def slow_step(weights, gradients, buffer, rate, *, decay, trust):
    """Algorithm 1 of the paper on plain lists."""
    ratio = 1.0
    if trust is not None and norm(weights) > 0:
        ratio = trust * norm(weights) / (norm(gradients) + decay * norm(weights))
    buffer = [MOMENTUM * v + rate * ratio * (g + decay * w) for v, g, w in zip(buffer, gradients, weights, strict=True)]
    return [w - v for w, v in zip(weights, buffer, strict=True)], buffer


def test_it_follows_the_papers_algorithm():
    torch.manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in [(3, 2), (2, 2, 2)]]
    zero, vector = nn.Parameter(torch.zeros(2, 2).double()), nn.Parameter(torch.randn(4).double())
    groups = [{"params": [*matrices, zero], "weight_decay": DECAY}, {"params": [vector], "trust": None}]
    optimizer = LARS(groups, momentum=MOMENTUM, trust=TRUST)
    decays = [(DECAY, TRUST)] * 3 + [(0.0, None)]
    slow = [(p.flatten().tolist(), [0.0] * p.numel()) for p in (*matrices, zero, vector)]
    for rate in RATES:
        for group in optimizer.param_groups:
            group["lr"] = rate
        for number, parameter in enumerate((*matrices, zero, vector)):
            parameter.grad = torch.randn_like(parameter)
            (decay, trust), (weights, buffer) = decays[number], slow[number]
            gradients = parameter.grad.flatten().tolist()
            slow[number] = slow_step(weights, gradients, buffer, rate, decay=decay, trust=trust)
        optimizer.step()
        for parameter, (weights, buffer) in zip((*matrices, zero, vector), slow, strict=True):
            assert parameter.flatten().tolist() == pytest.approx(weights, rel=1e-12, abs=1e-14)
            state = optimizer.state[parameter]["momentum_buffer"]
            assert state.flatten().tolist() == pytest.approx(buffer, rel=1e-12, abs=1e-14)


def test_the_first_step_is_the_trusted_share_of_the_norm_whatever_the_gradients_scale():
    for scale in (1e-6, 1.0, 1e6):
        weight = nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
        optimizer = LARS([weight], lr=2.0, trust=TRUST)
        weight.grad = scale * torch.eye(3, dtype=torch.float64)
        optimizer.step()
        assert (weight.detach() - 1).norm().item() == pytest.approx(2.0 * TRUST * 3.0)


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_nothing_is_divided_by_zero(decay):
    weights = [torch.zeros(2, 2), torch.ones(2, 2), torch.zeros(2, 2), torch.ones(2, 2)]
    gradients = [torch.zeros(2, 2), torch.zeros(2, 2), torch.ones(2, 2), torch.full((2, 2), 1e-45)]
    ratios = trust_ratios(weights, gradients, TRUST, decay)
    assert all(ratio.isfinite() for ratio in ratios)
    assert ratios[0] == ratios[2] == 1.0
    if decay:
        assert ratios[1].item() == pytest.approx(TRUST / decay)
    else:
        assert (ratios[1] * gradients[1] == 0).all()


def test_parameters_without_gradient_stand_still_and_have_no_state():
    still, moving = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([still, moving], lr=1.0, weight_decay=DECAY)
    moving.grad = torch.ones(2, 2)
    optimizer.step()
    assert (still == 1).all()
    assert list(optimizer.state) == [moving]


def test_a_closure_is_called_with_gradients():
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([weight], lr=1.0)

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert (weight < 1).all()
