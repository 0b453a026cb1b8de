"""DINO against a slow reference in float64, pair of views by pair of views; teacher, centre and schedules."""

import math

import pytest
import torch

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, features, make_encoder
from eyespot.pretrain.objectives.dino import DINO

COUNT, SIZE, OUT = 4, 16, 7
LARGE, SMALL = RandomView(), RandomView(size=8)


def make_dino(encoder: str = "test_vit", drop_path: float = 0.0, **changes) -> DINO:
    torch.manual_seed(0)
    patch = 4 if encoder == "test_vit" else None
    made = make_encoder(EncoderConfig(name=encoder, image_size=SIZE, patch_size=patch, drop_path=drop_path))
    settings = {"num_small": 2, "hidden_dim": 8, "bottleneck_dim": 6, "out_dim": OUT}
    settings |= {"first": LARGE, "second": LARGE, "small": SMALL, "frozen": 0.0, "warmup": 0.2}
    return DINO.Config(**settings | changes).build(made, SIZE).double()


def make_batch(objective: DINO, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    sizes = [view.size for view in objective.views().views]
    views = [torch.randn(COUNT, 3, size, size, generator=generator, dtype=torch.float64) for size in sizes]
    ids = torch.arange(COUNT)
    return Batch(views=views, ids=ids, epochs=ids, labels=ids, seed=0)


def shake(objective: DINO) -> None:
    """Student, teacher and centre differ."""
    with torch.no_grad():
        for tensor in (*objective.parameters(), objective.centre):
            tensor += 0.05 * torch.randn_like(tensor)


def slow_scores(encoder, head, views):
    rows = features(encoder, torch.cat(views))
    for layer in head.layers[:-1]:
        rows = layer(rows)
    rows = rows @ head.layers[-1].weight.T + head.layers[-1].bias
    directions = torch.stack([weight / weight.norm() for weight in head.scores.weight])
    return torch.stack([directions @ (row / row.norm()) for row in rows]).chunk(len(views))


def slow_loss(objective: DINO, batch: Batch, temperature: float) -> torch.Tensor:
    large, small = batch.views[:2], batch.views[2:]
    with torch.no_grad():
        goals = slow_scores(objective.encoder, objective.head, large)
    answers = [s for v in (large, small) for s in slow_scores(objective.student, objective.student_head, v)]
    losses = []
    for t in range(2):
        for v in range(4):
            if v == t:
                continue
            for sample in range(COUNT):
                goal = ((goals[t][sample] - objective.centre) / temperature).exp()
                answer = (answers[v][sample] / 0.1).exp()
                losses.append(-(goal / goal.sum() * (answer / answer.sum()).log()).sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
@pytest.mark.parametrize(("progress", "temperature"), [(0.0, 0.04), (0.1, 0.055), (0.5, 0.07)])
def test_loss_and_gradients_equal_the_slow_reference(encoder, progress, temperature):
    objective = make_dino(encoder)
    objective.progress.fill_(progress)
    shake(objective)
    batch = make_batch(objective)
    fast, slow = objective(batch)["loss"], slow_loss(objective, batch, temperature)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-10)
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    for ours, theirs in zip(torch.autograd.grad(fast, trained), torch.autograd.grad(slow, trained), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_the_teacher_is_what_evaluation_reads_and_follows_the_student():
    objective = make_dino(momentum=0.9)
    assert not any(parameter.requires_grad for parameter in objective.encoder.parameters())
    shake(objective)
    pairs = [(objective.encoder, objective.student), (objective.head, objective.student_head)]
    momentum = 1 - 0.1 * (math.cos(math.pi * 0.5) + 1) / 2
    expected = [
        momentum * ours + (1 - momentum) * theirs
        for teacher, student in pairs
        for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True)
    ]
    objective.after_step(0.5)
    found = [parameter for teacher, _ in pairs for parameter in teacher.parameters()]
    assert all(torch.allclose(ours, theirs, atol=1e-12) for ours, theirs in zip(found, expected, strict=True))
    images = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    assert torch.equal(objective.encode(images), features(objective.encoder, images))


def test_only_the_student_drops_paths():
    objective = make_dino(drop_path=0.9).train()
    views = make_batch(objective).views[:2]
    for encoder, steady in ((objective.encoder, True), (objective.student, False)):
        once, again = (features(encoder, views[0]) for _ in range(2))
        assert torch.equal(once, again) == steady


def test_the_centre_is_the_moving_average_of_the_teachers_scores():
    objective = make_dino(centre_momentum=0.8)
    shake(objective)
    batches = [make_batch(objective, seed) for seed in (1, 2)]
    with torch.no_grad():
        scores = [
            row for b in batches for view in slow_scores(objective.encoder, objective.head, b.views[:2]) for row in view
        ]
    expected = 0.8 * objective.centre + 0.2 * sum(scores) / len(scores)
    for batch in batches:  # micro-batches of one step
        objective(batch)
    objective.after_step(0.1)
    assert torch.allclose(objective.centre, expected, atol=1e-12)


def test_a_skipped_step_and_a_look_do_not_move_the_centre():
    objective = make_dino()
    objective(make_batch(objective))
    objective.after_skip()
    with torch.no_grad():
        objective(make_batch(objective))
    objective.after_step(0.1)
    assert (objective.centre == 0).all()


def test_directions_stay_for_a_while():
    objective = make_dino(frozen=0.1)
    for progress, moves in ((0.0, False), (0.05, False), (0.1, True)):
        objective.after_step(progress)
        objective.zero_grad()
        objective(make_batch(objective))["loss"].backward()
        assert (objective.student_head.scores.weight.grad.abs().sum() > 0) == moves
        assert objective.student.pos_embed.grad.abs().sum() > 0


def test_both_kinds_of_collapse_show():
    """The same view of all images: an entropy of the mean that is no larger than that of each."""
    objective = make_dino().eval()
    shake(objective)
    batch = make_batch(objective)
    spread = objective(batch)
    assert spread["teacher_entropy"] < spread["mean_entropy"] <= math.log(OUT)
    batch.views = [batch.views[0][:1].expand_as(batch.views[0])] * 2 + batch.views[2:]
    alike = objective(batch)
    assert alike["teacher_entropy"].item() == pytest.approx(alike["mean_entropy"].item())
    objective.centre.copy_(objective.head(features(objective.encoder, batch.views[0])[None])[0, 0])
    assert objective(batch)["teacher_entropy"].item() == pytest.approx(math.log(OUT))


def test_two_large_views_are_enough():
    objective = make_dino(num_small=0)
    assert objective(make_batch(objective))["loss"].isfinite()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("momentum", 1.5),
        ("centre_momentum", -1.0),
        ("warmup", 2.0),
        ("frozen", -0.1),
        ("student_temperature", 0.0),
        ("teacher_temperature", (0.04, 0.0)),
    ],
)
def test_wrong_numbers_name_their_field(field, value):
    with pytest.raises(UserError, match=f"objective.{field} "):
        DINO.Config(**{field: value})
