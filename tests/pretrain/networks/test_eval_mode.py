"""Evaluation mode for a while: every submodule's own mode and the gradients come back, whatever happens inside."""

import pytest
import torch
from torch import nn

from eyespot.pretrain.networks.eval_mode import at_rest


def test_modes_come_back_after_an_error():
    module = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with pytest.raises(RuntimeError), at_rest(module):
        assert not any(each.training for each in module.modules())
        raise RuntimeError
    assert [each.training for each in module.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


def test_running_statistics_and_dropout_rest():
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))
    rows = torch.randn(32, 4) + 3
    with at_rest(module):
        first, second = module(rows), module(rows)
    assert torch.equal(first, second) and not first.requires_grad
    assert torch.equal(module[0].running_mean, torch.zeros(4))
    module(rows)
    assert not torch.equal(module[0].running_mean, torch.zeros(4))


def test_one_inside_another_leaves_the_outer_one_at_rest():
    module = nn.Dropout()
    with at_rest(module):
        with at_rest(module):
            pass
        assert not module.training and not torch.is_grad_enabled()
    assert module.training
