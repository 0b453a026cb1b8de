"""MSN against a slow, obvious reference in float64: view by view and image by image; micro-batches and ranks."""

import math

import pytest
import timm
import torch
from cut_batches import Cut, assert_one_batch

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, encode_visible, features, make_encoder
from eyespot.pretrain.objectives.msn import MSN
from eyespot.pretrain.optim.optimizers import parameter_groups
from eyespot.pretrain.recipe_lookup import make_run

COUNT, LARGE, SMALL = 4, 24, 16


def make_msn(**changes) -> MSN:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=LARGE, patch_size=4))
    numbers = {"num_small": 2, "hidden_dim": 12, "out_dim": 5, "num_prototypes": 7, "weight": 0.6}
    numbers |= {"teacher_temperature": 0.05} | changes
    config = MSN.Config(small=RandomView(size=SMALL, scale=(0.1, 0.3)), **numbers)
    objective = config.build(encoder, LARGE)
    with torch.no_grad():  # teacher and student start alike
        for parameter in objective.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return objective.double()


def make_batch(count: int = COUNT, first: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(1 + first)
    sizes = (LARGE, LARGE, SMALL, SMALL)
    views = [torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64) for size in sizes]
    ids = torch.arange(first, first + count)
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def slow_answers(msn: MSN, rows, temperature):
    for row in rows:
        unit = row / row.norm()
        weights = torch.stack([torch.exp(unit @ c / c.norm() / temperature) for c in msn.prototypes.weight])
        yield weights / weights.sum()


def slow_balanced(answers):
    """Columns and rows by turns, three times."""
    table = torch.stack(answers)
    for _ in range(3):
        table = table / table.sum(0) * (len(table) / table.shape[1])
        table = table / table.sum(1, keepdim=True)
    return table


def slow_loss(msn: MSN, batch: Batch):
    masked = [
        encode_visible(msn.student, view[None], visible[None])[0, 0]
        for view, visible in zip(batch.views[1], msn.visible(batch), strict=True)
    ]
    small = [msn.student.forward_features(view)[:, 0] for view in batch.views[2:]]
    student = [*slow_answers(msn, msn.student_head(torch.cat([torch.stack(masked), *small])), msn.config.temperature)]
    with torch.no_grad():
        rows = msn.head(msn.encoder.forward_features(batch.views[0])[:, 0])
        if msn.config.balanced:
            goals = slow_balanced([*slow_answers(msn, rows, 0.05)])
        else:
            goals = [*slow_answers(msn, rows, 0.05)]
    losses = [-(goals[place % COUNT] * answer.log()).sum() for place, answer in enumerate(student)]
    mean = sum(student) / len(student)
    return sum(losses) / len(losses) + 0.6 * (mean * mean.log()).sum()


@pytest.mark.parametrize("balanced", [False, True])
def test_loss_and_gradients_equal_the_slow_reference(balanced):
    msn, batch = make_msn(balanced=balanced), make_batch()
    named = {name: p for name, p in msn.named_parameters() if p.requires_grad}
    assert not any(name.startswith(("encoder.", "head.")) for name in named)
    fast, slow = msn(batch)["loss"], slow_loss(msn, batch)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-6)  # timm resamples positions in float32
    ours, theirs = (torch.autograd.grad(loss, list(named.values())) for loss in (fast, slow))
    for name, one, other in zip(named, ours, theirs, strict=True):
        assert (one - other).abs().max() <= 1e-6 * (1 + other.abs().max()), name


def test_what_is_left_out_does_not_reach_the_answer():
    msn, batch = make_msn(num_small=0), make_batch()
    visible = msn.visible(batch)
    assert visible.shape == (COUNT, int(36 * 0.85))  # as the authors count
    hidden = torch.ones(COUNT, 36).scatter(1, visible, 0.0).view(COUNT, 1, 6, 6)
    places = hidden.repeat_interleave(4, 2).repeat_interleave(4, 3).bool()
    before = msn.embed(batch)["cosines"]
    batch.views[1] = batch.views[1].masked_fill(places, 9.0)
    assert torch.equal(msn.embed(batch)["cosines"], before)
    assert torch.equal(msn.visible(make_batch(3, 1)), visible[1:])


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_patches_in_any_order_are_pooled_as_a_whole_image_is(pool):
    """With a class token, and where timm's own head norms the mean of the patches."""
    torch.manual_seed(0)
    encoder = timm.create_model(
        "test_vit", img_size=LARGE, patch_size=4, num_classes=0, global_pool=pool, class_token=pool == "token"
    )
    msn = MSN.Config(num_small=0, hidden_dim=12, out_dim=5, num_prototypes=7).build(encoder, LARGE)
    with torch.no_grad():
        for parameter in msn.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    msn, images = msn.double(), make_batch().views[0]
    order = torch.rand(COUNT, 36, generator=torch.Generator().manual_seed(2)).argsort(1)
    assert torch.allclose(msn._seen(images, order), features(msn.student, images), rtol=1e-10, atol=1e-12)


def test_nothing_learned_costs_what_is_said_of_it():
    msn = make_msn(balanced=False)
    rows = {"cosines": torch.zeros(COUNT, 3, 7), "goals": torch.zeros(COUNT, 7)}
    found = msn.compare(rows)
    assert found["loss"].item() == pytest.approx(math.log(7) * 0.4)
    assert found["mean_entropy"].item() == pytest.approx(math.log(7))


def test_micro_batches_and_ranks_are_one_batch(on_ranks):
    """The mean answer, and the balance, are of all samples of a step, wherever they are."""
    cut = Cut(make=make_msn, make_batch=make_batch, norms=("student_head", "head"))
    assert_one_batch(cut, on_ranks, loss=1e-10, gradients=1e-6, resampled=1e-6)


def test_prototypes_do_not_decay():
    """As in the authors' init_opt: at unit length in the loss, shorter ones would only turn faster."""
    msn = make_msn()
    decays = {id(p): group["weight_decay"] for group in parameter_groups(msn, 0.1) for p in group["params"]}
    assert decays[id(msn.prototypes.weight)] == 0 and decays[id(msn.student_head[0].weight)] == 0.1


def test_the_smallest_temperature_underflows_nowhere():
    msn = make_msn(teacher_temperature=0.001)
    goals = torch.linspace(-1, 1, 7 * COUNT).view(COUNT, 7)
    found = msn.compare({"cosines": torch.zeros(COUNT, 3, 7), "goals": goals})
    assert found["cross_entropy"].item() == pytest.approx(math.log(7))


def test_the_teacher_follows_with_a_momentum_that_rises_linearly():
    msn = make_msn(momentum=0.9)
    before, student = msn.encoder.norm.weight.clone(), msn.student.norm.weight
    msn.after_step(0.5)
    assert torch.allclose(msn.encoder.norm.weight, 0.95 * before + 0.05 * student)
    now = msn.encoder.norm.weight.clone()
    msn.after_step(0.0, torch.tensor(False))
    assert torch.equal(msn.encoder.norm.weight, now)


def test_a_picture_shows_what_the_student_sees():
    msn, batch = make_msn(), make_batch()
    teacher, student, seen, _ = msn.picture(batch)
    assert torch.equal(teacher, batch.views[0].float()) and torch.equal(student, batch.views[1].float())
    assert torch.equal(seen[seen != 0], student[seen != 0])
    assert (seen != 0).double().mean() == pytest.approx(30 / 36, abs=1e-6)


def test_needs_a_vision_transformer():
    with pytest.raises(UserError, match="MSN needs a plain vision transformer"):
        MSN.Config().build(make_encoder(EncoderConfig(name="test_resnet", image_size=LARGE)), LARGE)


def test_msn_on_imagenet_has_the_authors_numbers():
    """msn_vits16.yaml of the authors' repository."""
    run = make_run("msn_vits16_in1k")
    objective = run.objective
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(1e-3)
    assert effective_rate(run.optim.min_lr, run.data.batch_size) == pytest.approx(1e-6)
    assert (run.optim.weight_decay, run.optim.final_weight_decay, run.optim.clip) == (0.04, 0.4, 3.0)
    assert run.steps == pytest.approx(800 * 1_281_167 / 1024, abs=1)
    assert (objective.num_prototypes, objective.temperature, objective.teacher_temperature) == (1024, 0.1, 0.025)
    assert (objective.num_small, objective.mask_ratio, objective.weight, objective.balanced) == (10, 0.15, 1.0, True)
    assert (objective.hidden_dim, objective.out_dim, objective.small.size) == (2048, 256, 96)
