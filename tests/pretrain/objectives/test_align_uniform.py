"""Alignment and uniformity against a slow, obvious reference in float64: pair by pair, the head layer by layer."""

import math

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.losses import feature_statistics
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.align_uniform import AlignUniform
from eyespot.pretrain.recipe_lookup import make_run

COUNT, SIZE = 5, 16


def make_objective(**changes) -> AlignUniform:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=SIZE))
    objective = AlignUniform.Config(hidden_dim=12, out_dim=7, **changes).build(encoder, SIZE)
    with torch.no_grad():  # residual branches start at scale 0; let the comparison see them
        for parameter in objective.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return objective.double()


def make_batch(ids: list[int] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(COUNT, 3, SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(2)]
    numbers = torch.tensor(ids or list(range(COUNT)))
    return Batch(views=views, ids=numbers, epochs=torch.zeros_like(numbers), labels=numbers, seed=0)


def slow_terms(objective: AlignUniform, batch: Batch):
    config = objective.config
    first, _, last = objective.head
    hidden = (objective.encoder(torch.cat(batch.views)) @ first.weight.T + first.bias).clamp(min=0)
    z = [row / row.norm() for row in hidden @ last.weight.T + last.bias]
    x, y = z[:COUNT], z[COUNT:]
    aligned = sum((a - b).square().sum() ** (config.alpha / 2) for a, b in zip(x, y, strict=True)) / COUNT
    uniform = 0.0
    for view in (x, y):
        pairs = [
            torch.exp(-config.t * (view[i] - view[j]).square().sum())
            for i in range(COUNT)
            for j in range(COUNT)
            if batch.ids[i] != batch.ids[j]
        ]
        uniform = uniform + torch.log(sum(pairs) / len(pairs)) / 2
    return aligned, uniform


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4], [3, 1, 3, 0, 7]], ids=["distinct", "one image twice"])
@pytest.mark.parametrize("changes", [{}, {"alpha": 1.0, "t": 3.0, "alignment_weight": 3.0, "uniformity_weight": 0.9}])
def test_loss_and_gradients_equal_the_slow_reference(ids, changes):
    objective, batch = make_objective(**changes), make_batch(ids)
    names, parameters = zip(*objective.named_parameters(), strict=True)
    found, (aligned, uniform) = objective(batch), slow_terms(objective, batch)
    slow = changes.get("alignment_weight", 1.0) * aligned + changes.get("uniformity_weight", 1.0) * uniform
    for fast, expected in ((found["loss"], slow), (found["alignment"], aligned), (found["uniformity"], uniform)):
        assert fast.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = torch.autograd.grad(found["loss"], parameters), torch.autograd.grad(slow, parameters)
    for name, ours, theirs in zip(names, *gradients, strict=True):
        assert (ours - theirs).abs().max() <= 1e-10, name
        assert theirs.abs().max() > 1e-8, name


def test_the_terms_are_those_that_monitors_measure():
    objective, batch = make_objective(), make_batch()
    rows, found = objective.embed(batch), objective(batch)
    uniform = (feature_statistics.uniformity(rows["first"]) + feature_statistics.uniformity(rows["second"])) / 2
    assert found["alignment"].item() == pytest.approx(feature_statistics.alignment(rows["first"], rows["second"]))
    assert found["uniformity"].item() == pytest.approx(uniform)


def test_views_that_are_one_cost_nothing_and_have_a_gradient():
    """Of the first power too, whose slope at 0 has no value: what is there already is left alone."""
    objective, rows = make_objective(alpha=1.0), torch.eye(7, dtype=torch.float64)[:COUNT].requires_grad_()
    found = objective.compare({"first": rows, "second": rows, "ids": torch.arange(COUNT)})
    assert found["alignment"] == 0
    assert found["uniformity"].item() == pytest.approx(-2 * objective.config.t)  # right angles: distance 2, squared
    assert torch.autograd.grad(found["loss"], rows)[0].isfinite().all()


def test_rows_that_are_all_alike_are_as_far_from_uniform_as_can_be():
    objective = make_objective()
    rows = {name: torch.ones(COUNT, 7) for name in ("first", "second")}
    found = objective.compare({**rows, "ids": torch.arange(COUNT)})
    assert math.isclose(found["loss"].item(), 0.0, abs_tol=1e-5)


@pytest.mark.parametrize("changes", [{"alpha": 0.5}, {"t": 0.0}, {"alignment_weight": -1.0}, {"out_dim": 1}])
def test_wrong_numbers_name_their_field(changes):
    ((field, value),) = changes.items()
    with pytest.raises(UserError, match=rf"objective\.{field} {value}"):
        AlignUniform.Config(**changes)


def test_one_image_is_no_batch():
    AlignUniform.Config().check_batch(2)
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        AlignUniform.Config().check_batch(1)


def test_on_imagenet_it_has_the_papers_numbers():
    """Wang & Isola 2020, section 5: MoCo v2's rates, weight 3 and t = 3."""
    run = make_run("align_uniform_r50_in1k")
    config = run.objective
    assert (config.alignment_weight, config.uniformity_weight, config.alpha, config.t) == (3.0, 1.0, 2.0, 3.0)
    assert (run.optim.name, run.optim.lr, run.optim.weight_decay, run.data.batch_size) == ("sgd", 0.03, 1e-4, 256)
    assert run.steps == pytest.approx(200 * 1_281_167 / 256, abs=1)


def test_on_cifar_it_has_the_rate_of_the_authors_code_for_stl10():
    run = make_run("align_uniform_r18_cifar10")
    config = run.objective
    assert (config.alignment_weight, config.uniformity_weight, config.alpha, config.t) == (1.0, 1.0, 2.0, 2.0)
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(0.36)
