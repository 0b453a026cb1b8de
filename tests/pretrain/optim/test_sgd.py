"""Our SGD is torch's, to the bit."""

import pytest
import torch
from torch import nn

from eyespot.pretrain.optim.sgd import SGD


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_torchs_fused_one_bit_by_bit(momentum, decay):
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in [(37, 5), (3,), (1, 1, 7)]]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    one = SGD(ours, momentum=momentum, weight_decay=decay)
    other = torch.optim.SGD(theirs, lr=1.0, momentum=momentum, weight_decay=decay, fused=True)
    for rate in (0.3, 0.0, 0.1):
        for optimizer in (one, other):
            optimizer.param_groups[0]["lr"] = rate
        for parameter, twin in zip(ours, theirs, strict=True):
            parameter.grad = torch.randn_like(parameter)
            twin.grad = parameter.grad.clone()
        one.step()
        other.step()
        assert all(torch.equal(parameter, twin) for parameter, twin in zip(ours, theirs, strict=True))


def test_parameters_without_gradient_stand_still_and_have_no_state():
    still, moving = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SGD([still, moving], lr=1.0)
    moving.grad = torch.ones(2)
    optimizer.step()
    assert (still == 1).all()
    assert (moving == 0).all()
    assert [parameter is moving for parameter in optimizer.state if optimizer.state[parameter]] == [True]
