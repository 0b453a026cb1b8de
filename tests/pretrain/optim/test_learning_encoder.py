"""Where an objective's encoder is a teacher, rates by layer and by stage are those of the student."""

import pytest
import torch

from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.optim.learning_encoder import learning_encoder
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer, set_rate
from eyespot.pretrain.recipe_lookup import make_run


@pytest.mark.parametrize(("method", "place"), [("dino", "student"), ("byol", "encoder"), ("mae", "encoder")])
def test_which_encoder_learns(method, place):
    objective = fresh_objective(make_run(f"{method}_tiny"), torch.arange(8))
    learns = objective.get_submodule(place)
    assert learning_encoder(objective) is learns
    assert learning_encoder(torch.nn.Linear(1, 1)).weight.shape == (1, 1)


def test_a_student_waits_for_its_head_and_its_first_layers_learn_less():
    run = make_run("dino_tiny")
    run.encoder.name, run.encoder.patch_size = "test_vit", 4
    objective = fresh_objective(run, torch.arange(8))
    student = objective.get_submodule("student")
    optimizer = make_optimizer(objective, OptimConfig(stages=(0.1,), layer_decay=0.5))
    rates = {}
    for done in (0.0, 0.2):
        set_rate(optimizer, 1.0, done)
        rates[done] = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    own = {id(parameter) for parameter in student.parameters()}
    assert all(rates[0.0][one] == (0.0 if one in own else 1.0) for one in rates[0.0])
    depth = len(student.blocks)
    for block in range(depth):
        assert rates[0.2][id(student.blocks[block].norm1.weight)] == 0.5 ** (depth - block)
    assert rates[0.2][id(student.norm.weight)] == 1.0
