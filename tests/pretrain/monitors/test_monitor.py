"""What every monitor promises: it measures, and leaves the objective and the draws to come as they were."""

import copy

import pytest
import torch

from eyespot.eval.online_probe import OnlineProbe
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.loop.run_data import open_data
from eyespot.pretrain.monitors.collapse import CollapseMonitor
from eyespot.pretrain.monitors.monitor import Monitor
from eyespot.pretrain.recipe_lookup import make_run

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.mark.parametrize("make", [CollapseMonitor, OnlineProbe])
def test_it_leaves_everything_as_it_was(make, digits):
    run = make_run("simclr_tiny")
    run.data.shards = str(digits)
    objective = fresh_objective(run).train()
    objective.encoder.eval()  # as a method may have frozen it
    monitor = make(open_data(run, ALONE))
    assert isinstance(monitor, Monitor)
    before = copy.deepcopy(objective.state_dict())
    modes, draws = [module.training for module in objective.modules()], torch.get_rng_state()
    found = monitor(objective, ALONE)
    assert found and all(isinstance(value, float) for value in found.values())
    assert objective.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in objective.state_dict().items())
    assert [module.training for module in objective.modules()] == modes
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert torch.equal(torch.get_rng_state(), draws) and torch.is_grad_enabled()


def test_what_cannot_be_called_is_none():
    assert not isinstance(object(), Monitor)
