"""BYOL against a slow, obvious reference in float64; its teacher against the closed form."""

import math

import pytest
import torch
from step_passes import take_passes

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.byol import BYOL, squared_distances
from eyespot.pretrain.optim.optimizers import OptimConfig, make_optimizer
from eyespot.pretrain.recipe_lookup import make_run

COUNT, SIZE = 4, 16


def make_byol(encoder: str = "test_resnet", momentum: float = 0.9) -> BYOL:
    torch.manual_seed(0)
    config = EncoderConfig(name=encoder, image_size=SIZE, patch_size=4 if encoder == "test_vit" else None)
    objective = BYOL.Config(hidden_dim=12, out_dim=7, momentum=momentum).build(make_encoder(config), SIZE)
    with torch.no_grad():  # teacher and student start alike; let the comparison tell them apart
        for parameter in objective.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return objective.double()


def make_batch(count: int = COUNT, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    views = [torch.randn(count, 3, SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(2)]
    ids = torch.arange(count)
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def slow_mlp(x, head):
    first, norm, _, last = head
    x = x @ first.weight.T
    x = (x - x.mean(0)) / torch.sqrt(((x - x.mean(0)) ** 2).mean(0) + 1e-5) * norm.weight + norm.bias
    return x.clamp(min=0) @ last.weight.T + last.bias


def slow_loss(byol: BYOL, batch: Batch):
    losses = []
    for seen, other in (batch.views, reversed(batch.views)):
        guesses = slow_mlp(slow_mlp(byol.encoder(seen), byol.projector), byol.predictor)
        goals = slow_mlp(byol.teacher_encoder(other), byol.teacher_projector).detach()
        for guess, goal in zip(guesses, goals, strict=True):
            losses.append(((guess / guess.norm() - goal / goal.norm()) ** 2).sum())
    return torch.stack(losses).sum() / len(batch)


def student(byol: BYOL) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in byol.named_parameters() if not name.startswith("teacher_")}


@pytest.mark.parametrize("encoder", ["test_resnet", "test_vit"])
def test_loss_and_gradients_equal_the_slow_reference(encoder):
    byol, batch = make_byol(encoder), make_batch()
    names, parameters = zip(*student(byol).items(), strict=True)
    fast, slow = byol(batch)["loss"], slow_loss(byol, batch)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    pairs = zip(names, torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True)
    for name, ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= 1e-10, name


def test_the_teacher_takes_no_gradient_and_has_no_predictor():
    byol = make_byol()
    byol(make_batch())["loss"].backward()
    for name, parameter in byol.named_parameters():
        assert (parameter.grad is None) == name.startswith("teacher_"), name
    teacher = {name.removeprefix("teacher_") for name, _ in byol.named_parameters() if name.startswith("teacher_")}
    assert teacher == {name for name in student(byol) if not name.startswith("predictor.")}


def test_the_teacher_is_the_closed_form_average_after_real_steps():
    """Its first weights times all momenta, plus each step's student times (1 - its momentum) times all later ones."""
    byol, steps = make_byol(momentum=0.8), 5
    engine = make_engine(
        "ddp",
        byol,
        World(rank=0, size=1, device=torch.device("cpu")),
        lambda module: make_optimizer(module, OptimConfig(name="sgd", weight_decay=0.0)),
        Settings(accumulate=1, clip=None, precision="fp32"),
    )
    first = {name: p.clone() for name, p in byol.named_parameters() if name.startswith("teacher_")}
    students: list[dict[str, torch.Tensor]] = []
    for step in range(steps):
        take_passes(engine, [(make_batch(seed=step), step)])
        engine.step(0.1)
        byol.after_step((step + 1) / steps)
        students.append({name: p.detach().clone() for name, p in student(byol).items()})
    momenta = [1 - 0.2 * (math.cos(math.pi * (step + 1) / steps) + 1) / 2 for step in range(steps)]
    for name, parameter in byol.named_parameters():
        if name.startswith("teacher_"):
            expected = math.prod(momenta) * first[name]
            for k in range(steps):
                share = (1 - momenta[k]) * math.prod(momenta[k + 1 :])
                expected = expected + share * students[k][name.removeprefix("teacher_")]
            assert torch.allclose(parameter, expected, rtol=1e-12, atol=1e-13), name
            assert not torch.allclose(parameter, first[name], rtol=1e-6), name


def test_at_the_end_the_teacher_stands_still():
    byol = make_byol()
    before = {name: p.clone() for name, p in byol.named_parameters()}
    byol.after_step(1.0)
    for name, parameter in byol.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_teacher_and_student_see_each_view_in_a_pass_of_its_own():
    """Batch norm notes two batches each: its statistics are those of one view."""
    byol = make_byol()
    byol(make_batch())
    counts = {name: int(buffer) for name, buffer in byol.named_buffers() if name.endswith("num_batches_tracked")}
    assert set(counts.values()) == {2}
    assert any(name.startswith("teacher_encoder.") for name in counts)


def test_distances_of_unit_vectors():
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    y = torch.tensor([[5.0, 0.0], [0.0, -1.0], [1.0, -1.0]])
    assert squared_distances(x, y).tolist() == pytest.approx([0.0, 4.0, 2.0], abs=1e-6)
    assert squared_distances(x.bfloat16(), y.bfloat16()).dtype == torch.float32


def test_two_views_of_different_kinds():
    first, second = BYOL.Config().build(make_encoder(EncoderConfig(name="test_resnet")), 32).views().views
    assert (first.size, second.size) == (32, 32)
    assert (first.blur, first.solarize) == (1.0, 0.0)
    assert (second.blur, second.solarize) == (0.1, 0.2)


def test_wrong_numbers_name_their_field():
    with pytest.raises(UserError, match=r"objective\.momentum 1.5"):
        BYOL.Config(momentum=1.5)


def test_byol_on_imagenet_has_the_papers_numbers():
    """Grill et al. 2020, section 3.3 and table 6."""
    run = make_run("byol_r50_in1k")
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(3.2)
    assert (run.optim.name, run.optim.weight_decay, run.data.batch_size) == ("lars", 1.5e-6, 4096)
    assert run.optim.warmup_steps == pytest.approx(10 * 1_281_167 / 4096, abs=1)
    assert run.steps == pytest.approx(1000 * 1_281_167 / 4096, abs=1)
    assert (run.objective.momentum, run.objective.hidden_dim, run.objective.out_dim) == (0.996, 4096, 256)
    for view in (run.objective.first, run.objective.second):
        assert (view.scale, view.jitter, view.jitter_probability) == ((0.08, 1.0), (0.4, 0.4, 0.2, 0.1), 0.8)
        assert (view.flip, view.grayscale, view.blur_sigma) == (0.5, 0.2, (0.1, 2.0))
    assert (run.objective.first.blur, run.objective.first.solarize) == (1.0, 0.0)
    assert (run.objective.second.blur, run.objective.second.solarize) == (0.1, 0.2)
