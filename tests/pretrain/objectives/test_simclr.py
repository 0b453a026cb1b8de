"""SimCLR against a slow, obvious reference in float64: one pair after the other, the head layer by layer."""

import math
from dataclasses import replace

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.losses.contrastive import nt_xent_loss
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.simclr import SimCLR
from eyespot.pretrain.recipe_lookup import make_run

COUNT, SIZE = 5, 16


def make_simclr(**changes) -> SimCLR:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_resnet", image_size=SIZE))
    objective = SimCLR.Config(hidden_dim=12, out_dim=7, temperature=0.3, **changes).build(encoder, SIZE)
    with torch.no_grad():  # norms start at shift 0 and residual branches at scale 0; let the comparison see them
        for parameter in objective.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return objective.double()


def make_batch(ids: list[int] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(COUNT, 3, SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(2)]
    numbers = torch.tensor(ids or list(range(COUNT)))
    return Batch(views=views, ids=numbers, epochs=torch.zeros_like(numbers), labels=numbers, seed=0)


def slow_norm(x):
    return (x - x.mean(0)) / torch.sqrt(((x - x.mean(0)) ** 2).mean(0) + 1e-5)


def slow_loss(simclr: SimCLR, batch: Batch):
    features = simclr.encoder(torch.cat(batch.views))
    first, norm, _, last, _ = simclr.head
    hidden = (slow_norm(features @ first.weight.T) * norm.weight + norm.bias).clamp(min=0)
    z = slow_norm(hidden @ last.weight.T)
    z = [row / row.norm() for row in z]
    ids = batch.ids.tolist() * 2
    losses = []
    for i in range(2 * COUNT):
        j = (i + COUNT) % (2 * COUNT)
        others = [k for k in range(2 * COUNT) if k == j or ids[k] != ids[i]]
        if simclr.config.decoupled:
            others.remove(j)
        denominator = sum(torch.exp(z[i] @ z[k] / 0.3) for k in others)
        losses.append(-torch.log(torch.exp(z[i] @ z[j] / 0.3) / denominator))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4], [3, 1, 3, 0, 7]], ids=["distinct", "one image twice"])
@pytest.mark.parametrize("decoupled", [False, True])
def test_loss_and_gradients_equal_the_slow_reference(ids, decoupled):
    simclr, batch = make_simclr(decoupled=decoupled), make_batch(ids)
    names, parameters = zip(*simclr.named_parameters(), strict=True)
    fast, slow = simclr(batch)["loss"], slow_loss(simclr, batch)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    pairs = zip(names, torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True)
    for name, ours, theirs in pairs:
        assert (ours - theirs).abs().max() <= 1e-10, name
        assert theirs.abs().max() > 1e-8, name


@pytest.mark.parametrize("changes", [{"tau_plus": 0.1}, {"beta": 1.0}, {"tau_plus": 0.1, "beta": 0.5}])
def test_other_denominators_reach_the_loss(changes):
    simclr, batch = make_simclr(**changes), make_batch()
    rows = simclr.embed(batch)
    expected = nt_xent_loss([rows["first"], rows["second"]], 0.3, **changes)
    loss = simclr(batch)["loss"].item()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert abs(loss - make_simclr()(batch)["loss"].item()) > 1e-3


def test_the_loss_does_not_depend_on_the_order_of_samples_or_views():
    simclr, batch = make_simclr(), make_batch()
    loss = simclr(batch)["loss"].item()
    order = torch.tensor([3, 0, 4, 1, 2])
    batch.views = [batch.views[1][order], batch.views[0][order]]
    batch.ids = batch.ids[order]
    assert simclr(batch)["loss"].item() == pytest.approx(loss, rel=1e-12)


def test_views_that_do_not_tell_anything_cost_the_logarithm_of_their_number():
    """All embeddings alike: the positive is one of 2N - 1."""
    simclr, batch = make_simclr(), make_batch()
    rows = {name: torch.ones(COUNT, 7) for name in ("first", "second")}
    loss = simclr.compare({**rows, **simclr.targets(batch)})["loss"].item()
    assert loss == pytest.approx(math.log(2 * COUNT - 1), rel=1e-6)


def test_two_views_of_the_encoders_size_unless_told():
    for size, image_size in ((0, 32), (24, 32)):
        config = SimCLR.Config(view=replace(SimCLR.Config().view, size=size))
        first, second = config.build(make_encoder(EncoderConfig(name="test_resnet")), image_size).views().views
        assert first == second
        assert (first.size, first.scale, first.blur) == (size or image_size, (0.08, 1.0), 0.5)


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {"tau_plus": 1.0}, {"tau_plus": -0.1}, {"beta": -1.0}])
def test_wrong_numbers_name_their_field(changes):
    (field,) = changes
    with pytest.raises(UserError, match=rf"objective\.{field} {changes[field]}"):
        SimCLR.Config(**changes)


def test_one_image_is_no_batch():
    SimCLR.Config().check_batch(2)
    with pytest.raises(UserError, match=r"data\.batch_size 1"):
        SimCLR.Config().check_batch(1)


def test_simclr_on_imagenet_has_the_papers_numbers():
    """Chen et al. 2020, section 2.2 and appendix A."""
    run = make_run("simclr_r50_in1k")
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(4.8)
    assert (run.optim.name, run.optim.weight_decay, run.data.batch_size) == ("lars", 1e-6, 4096)
    assert run.optim.warmup_steps == pytest.approx(10 * 1_281_167 / 4096, abs=1)
    assert run.steps == pytest.approx(100 * 1_281_167 / 4096, abs=1)
    objective, view = run.objective, run.objective.view
    assert (objective.temperature, objective.hidden_dim, objective.out_dim) == (0.1, 2048, 128)
    assert (objective.decoupled, objective.tau_plus, objective.beta) == (False, 0.0, 0.0)
    assert (view.scale, view.flip, view.jitter, view.jitter_probability) == (
        (0.08, 1.0),
        0.5,
        (0.8, 0.8, 0.8, 0.2),
        0.8,
    )
    assert (view.grayscale, view.blur, view.blur_sigma, view.solarize) == (0.2, 0.5, (0.1, 2.0), 0.0)


def test_simclr_on_cifar_has_the_papers_numbers():
    """Chen et al. 2020, appendix B.9: colours half as strong, no blur."""
    run = make_run("simclr_r18_cifar10")
    assert (run.optim.lr, run.optim.weight_decay, run.data.batch_size) == (1.0, 1e-6, 1024)
    assert run.steps == pytest.approx(1000 * 50_000 / 1024, abs=1)
    assert (run.objective.temperature, run.objective.view.jitter, run.objective.view.blur) == (
        0.5,
        (0.4, 0.4, 0.4, 0.1),
        0,
    )
