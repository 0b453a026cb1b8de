"""iBOT against a slow reference in float64, view by view and patch by patch; its centres, its recipes."""

import pytest
import torch

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import EncoderConfig, encode_visible, features, make_encoder
from eyespot.pretrain.objectives.ibot import IBOT
from eyespot.pretrain.recipes.ibot import ibot_vits16_in1k

COUNT, SIZE, PATCHES, OUT = 4, 16, 16, 7


def make_ibot(**changes) -> IBOT:
    torch.manual_seed(0)
    made = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    settings = {"num_small": 2, "hidden_dim": 8, "bottleneck_dim": 6, "out_dim": OUT, "mask_chance": 0.7}
    settings |= {"first": RandomView(), "second": RandomView(), "small": RandomView(size=8)}
    settings |= {"frozen": 0.0, "warmup": 0.2, "patch_temperature": (0.05, 0.08)}
    return IBOT.Config(**settings | changes).build(made, SIZE).double()


def make_batch(objective: IBOT, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    sizes = [view.size for view in objective.views().views]
    views = [torch.randn(COUNT, 3, size, size, generator=generator, dtype=torch.float64) for size in sizes]
    ids = torch.arange(COUNT) + seed
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def shake(objective: IBOT) -> None:
    """Student, teacher and centres differ."""
    with torch.no_grad():
        for tensor in (*objective.parameters(), objective.centre, objective.patch_centre):
            tensor += 0.05 * torch.randn_like(tensor)


def slow_scores(head, row):
    directions = torch.stack([weight / weight.norm() for weight in head.scores.weight])
    row = head.layers(row[None])[0]
    return directions @ (row / row.norm())


def cross_entropy(goal, centre, temperature, answer):
    goal, answer = ((goal - centre) / temperature).exp(), (answer / 0.1).exp()
    return -(goal / goal.sum() * (answer / answer.sum()).log()).sum()


def slow_student(objective: IBOT, view, hidden):
    """Tokens of one large view with holes."""
    vit = objective.student
    rows = vit.patch_embed.proj(view[None])[0].flatten(1).T
    rows = [objective.mask_token[0, 0] if gone else row for gone, row in zip(hidden, rows, strict=True)]
    tokens = torch.stack([vit.cls_token[0, 0], *rows]) + vit.pos_embed[0]
    return vit.norm(vit.blocks(tokens[None]))[0]


def slow_losses(objective: IBOT, batch: Batch, temperature: float, patch_temperature: float):
    heads = (objective.student_head, objective.student_patch_head or objective.student_head)
    teachers = (objective.head, objective.patch_head or objective.head)
    whole = objective.masks(batch).whole(PATCHES)
    of_views, of_patches = [], []
    for b in range(COUNT):
        with torch.no_grad():
            large = [encode_visible(objective.encoder, view[b][None])[0] for view in batch.views[:2]]
            goals = [slow_scores(teachers[0], tokens[0]) for tokens in large]
        seen = [slow_student(objective, batch.views[v][b], whole[v, b]) for v in range(2)]
        rows = [tokens[0] for tokens in seen] + [features(objective.student, v[b][None])[0] for v in batch.views[2:]]
        answers = [slow_scores(heads[0], row) for row in rows]
        for t in range(2):
            for v in range(4):
                if v != t:
                    of_views.append(cross_entropy(goals[t], objective.centre, temperature, answers[v]))
            own = [
                cross_entropy(
                    slow_scores(teachers[1], large[t][1 + place]).detach(),
                    objective.patch_centre,
                    patch_temperature,
                    slow_scores(heads[1], seen[t][1 + place]),
                )
                for place in range(PATCHES)
                if whole[t, b, place]
            ]
            of_patches.append(torch.stack(own).mean() if own else torch.zeros((), dtype=torch.float64))
    return torch.stack(of_views).mean(), torch.stack(of_patches).mean()


@pytest.mark.parametrize("shared_head", [True, False])
@pytest.mark.parametrize(("progress", "temperatures"), [(0.0, (0.04, 0.05)), (0.1, (0.055, 0.065))])
def test_loss_and_gradients_equal_the_slow_reference(shared_head, progress, temperatures):
    objective = make_ibot(shared_head=shared_head)
    objective.progress.fill_(progress)
    shake(objective)
    batch = make_batch(objective)
    counts = objective.masks(batch).hidden.sum(2)
    assert (counts == 0).any() and (counts > 0).sum() > 1
    fast, (of_views, of_patches) = objective(batch), slow_losses(objective, batch, *temperatures)
    assert fast["class_loss"].item() == pytest.approx(of_views.item(), rel=1e-6)
    assert fast["patch_loss"].item() == pytest.approx(of_patches.item(), rel=1e-6)
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    slow = torch.autograd.grad(of_views + of_patches, trained)
    for ours, theirs in zip(torch.autograd.grad(fast["loss"], trained), slow, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)  # positions are resampled in float32


@pytest.mark.parametrize("shared_head", [True, False])
def test_the_centres_are_moving_averages_of_the_teachers_scores(shared_head):
    objective = make_ibot(centre_momentum=0.8, shared_head=shared_head)
    shake(objective)
    batches = [make_batch(objective, seed) for seed in (1, 2)]
    patch_head = objective.patch_head or objective.head
    with torch.no_grad():
        tokens = [encode_visible(objective.encoder, view) for b in batches for view in b.views[:2]]
        classes = torch.stack([slow_scores(objective.head, row) for part in tokens for row in part[:, 0]])
        patches = torch.stack([slow_scores(patch_head, row) for part in tokens for row in part[:, 1:].flatten(0, 1)])
    expected = [
        0.8 * centre + 0.2 * scores.mean(0)
        for centre, scores in ((objective.centre, classes), (objective.patch_centre, patches))
    ]
    for batch in batches:  # micro-batches of one step
        objective(batch)
    objective.after_step(0.1)
    assert torch.allclose(objective.centre, expected[0], atol=1e-7)
    assert torch.allclose(objective.patch_centre, expected[1], atol=1e-7)


def test_a_skipped_step_and_a_look_do_not_move_the_centres():
    objective = make_ibot()
    objective(make_batch(objective))
    objective.after_skip()
    with torch.no_grad():
        objective(make_batch(objective))
    objective.after_step(0.1)
    assert (objective.centre == 0).all() and (objective.patch_centre == 0).all()


def test_the_teacher_with_both_heads_follows_the_student():
    objective = make_ibot(momentum=0.0, shared_head=False)
    shake(objective)
    objective.after_step(0.0)
    pairs = [(objective.encoder, objective.student), (objective.head, objective.student_head)]
    pairs.append((objective.patch_head, objective.student_patch_head))
    for teacher, student in pairs:
        ours, theirs = teacher.state_dict(), student.state_dict()
        assert ours and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any(parameter.requires_grad for teacher, _ in pairs for parameter in teacher.parameters())


def test_directions_stay_for_a_while():
    objective = make_ibot(frozen=0.1, shared_head=False)
    for progress, moves in ((0.05, False), (0.1, True)):
        objective.after_step(progress)
        objective.zero_grad()
        objective(make_batch(objective))["loss"].backward()
        for head in (objective.student_head, objective.student_patch_head):
            assert (head.scores.weight.grad.abs().sum() > 0) == moves
        assert objective.mask_token.grad.abs().sum() > 0


def test_the_papers_numbers():
    run = ibot_vits16_in1k()
    config, optim = run.objective, run.optim
    assert (run.data.batch_size, config.num_small, config.out_dim, config.shared_head) == (1024, 10, 8192, True)
    assert (config.mask_chance, config.mask_ratios, config.momentum) == (0.5, (0.1, 0.5), 0.996)
    assert (config.first.scale, config.small.scale, config.small.size) == ((0.25, 1.0), (0.05, 0.25), 96)
    assert (config.teacher_temperature, config.patch_temperature) == ((0.04, 0.07), (0.04, 0.07))
    assert (optim.lr, optim.weight_decay, optim.final_weight_decay, optim.clip) == (5e-4, 0.04, 0.4, 3.0)
    assert run.encoder.drop_path == 0.1 and run.steps == round(800 * 1_281_167 / 1024)
