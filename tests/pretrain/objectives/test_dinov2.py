"""DINOv2 against a slow reference in float64, all samples at once; many micro-batches against one; its recipes."""

import pytest
import torch
from step_passes import take_passes

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.engine import Settings, make_engine
from eyespot.pretrain.networks.encoders import EncoderConfig, encode_visible, features, make_encoder
from eyespot.pretrain.objectives.dinov2 import DINOv2
from eyespot.pretrain.recipes.dinov2 import dinov2_vitl14_in22k

COUNT, SIZE, PATCHES, OUT = 6, 16, 16, 7
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def make_dinov2(**changes) -> DINOv2:
    torch.manual_seed(0)
    made = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    settings = {"num_small": 2, "hidden_dim": 8, "bottleneck_dim": 6, "out_dim": OUT, "frozen": 0.0, "warmup": 0.2}
    settings |= {"first": RandomView(), "second": RandomView(), "small": RandomView(size=8)}
    objective = DINOv2.Config(**settings | changes).build(made, SIZE).double()
    with torch.no_grad():
        for tensor in objective.parameters():  # student and teacher differ
            tensor += 0.05 * torch.randn_like(tensor)
    return objective


def make_batch(objective: DINOv2, ids: torch.Tensor | None = None) -> Batch:
    ids = torch.arange(COUNT) if ids is None else ids
    generator = torch.Generator().manual_seed(0)
    sizes = [view.size for view in objective.views().views]
    views = [torch.randn(COUNT, 3, size, size, generator=generator, dtype=torch.float64)[ids] for size in sizes]
    return Batch(views=views, ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def slow_scores(head, row):
    directions = torch.stack([weight / weight.norm() for weight in head.scores.weight])
    row = head.layers(row[None])[0]
    return directions @ (row / row.norm())


def slow_balanced(scores, temperature):
    """As the authors' code has it: one matrix of all rows, which sums to 1, made even in turns."""
    weights = (torch.stack(scores) / temperature).exp().T
    weights = weights / weights.sum()
    for _ in range(3):
        weights = weights / weights.sum(1, keepdim=True) / len(weights)
        weights = weights / weights.sum(0, keepdim=True) / weights.shape[1]
    return list((weights * weights.shape[1]).T)


def slow_parts(objective: DINOv2, batch: Batch, temperature: float) -> dict[str, torch.Tensor]:
    def cross_entropy(goal, answer):
        answer = (answer / 0.1).exp()
        return -(goal * (answer / answer.sum()).log()).sum()

    vit, count, whole = objective.student, len(batch), objective.masks(batch).whole(PATCHES)
    seen = {}
    for v in range(2):
        for b in range(count):
            rows = vit.patch_embed.proj(batch.views[v][b][None])[0].flatten(1).T
            rows = [objective.mask_token[0, 0] if whole[v, b, n] else rows[n] for n in range(PATCHES)]
            tokens = torch.stack([vit.cls_token[0, 0], *rows]) + vit.pos_embed[0]
            seen[v, b] = vit.norm(vit.blocks(tokens[None]))[0]
    hidden = [(v, b, n) for v in range(2) for b in range(count) for n in range(PATCHES) if whole[v, b, n]]
    with torch.no_grad():
        large = {key: encode_visible(objective.encoder, batch.views[key[0]][key[1]][None])[0] for key in seen}
        goals = slow_balanced([slow_scores(objective.head, large[key][0]) for key in seen], temperature)
        goals = dict(zip(seen, goals, strict=True))
        patch_goals = slow_balanced(
            [slow_scores(objective.patch_head, large[v, b][1 + n]) for v, b, n in hidden], temperature
        )
    of_views, of_patches, of_neighbours = [], [], []
    for b in range(count):
        rows = [seen[v, b][0] for v in range(2)]
        rows += [features(vit, view[b][None])[0] for view in batch.views[2:]]
        answers = [slow_scores(objective.student_head, row) for row in rows]
        pairs = [(t, v) for t in range(2) for v in range(len(answers)) if t != v]
        of_views += [cross_entropy(goals[t, b], answers[v]) for t, v in pairs]
    for goal, (v, b, n) in zip(patch_goals, hidden, strict=True):
        answer = slow_scores(objective.student_patch_head, seen[v, b][1 + n])
        of_patches.append(cross_entropy(goal, answer) / whole[v, b].sum() / (2 * count))
    for v in range(2):
        units = [seen[v, b][0] / seen[v, b][0].norm() for b in range(count)]
        for b, own in enumerate(units):
            nearest = torch.stack([(own - other).norm() for c, other in enumerate(units) if c != b]).min()
            of_neighbours.append(-nearest.log() / count)
    return {
        "class_loss": torch.stack(of_views).mean(),
        "patch_loss": torch.stack(of_patches).sum(),
        "koleo_loss": torch.stack(of_neighbours).sum(),
    }


@pytest.mark.parametrize(("progress", "temperature"), [(0.0, 0.04), (0.1, 0.055)])
def test_loss_and_gradients_equal_the_slow_reference(progress, temperature):
    objective = make_dinov2(koleo_weight=0.3)
    objective.progress.fill_(progress)
    batch = make_batch(objective)
    counts = objective.masks(batch).hidden.sum(2)
    assert (counts == 0).any() and (counts > 0).sum() > 1
    fast, slow = objective(batch), slow_parts(objective, batch, temperature)
    for name, part in slow.items():
        assert fast[name].item() == pytest.approx(part.item(), rel=1e-5), name
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    loss = slow["class_loss"] + slow["patch_loss"] + 0.3 * slow["koleo_loss"]
    theirs = torch.autograd.grad(loss, trained)
    for one, other in zip(torch.autograd.grad(fast["loss"], trained), theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)  # positions are resampled in float32


def test_micro_batches_equal_one_batch():
    """Balance and neighbours are over all of them, however the hidden patches are dealt out."""
    found = []
    for parts in (1, 3):
        objective = make_dinov2()
        settings = Settings(accumulate=parts, clip=None, precision="fp32")
        engine = make_engine("ddp", objective, ALONE, lambda m: torch.optim.SGD(m.parameters()), settings)
        shares = torch.arange(COUNT).chunk(parts)
        losses = take_passes(engine, [(make_batch(objective, own), place) for place, own in enumerate(shares)])
        gradients = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
        found.append((sum(float(each["loss"]) for each in losses) / parts, gradients))
    (loss, gradients), (other, others) = found
    assert loss == pytest.approx(other, rel=1e-10)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        rounding = 1e-6 if name == "student.pos_embed" else 1e-10  # timm resamples positions in float32
        assert torch.allclose(gradient, others[name], rtol=1e-7, atol=rounding), name


def test_a_batch_without_a_hidden_patch_has_a_finite_loss():
    objective = make_dinov2(mask_chance=1e-9)
    found = objective(make_batch(objective))
    found["loss"].backward()
    assert found["patch_loss"] == 0 and found["loss"].isfinite()
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)


def test_the_authors_numbers():
    run = dinov2_vitl14_in22k()
    config, optim = run.objective, run.optim
    assert (run.data.batch_size, run.steps, optim.warmup_steps) == (3072, 500 * 1250, 80 * 1250)
    assert (config.num_small, config.small.size, config.small.scale) == (8, 98, (0.05, 0.32))
    assert (config.first.scale, config.out_dim, config.bottleneck_dim) == ((0.32, 1.0), 131072, 384)
    assert (config.mask_chance, config.mask_ratios, config.koleo_weight) == (0.5, (0.1, 0.5), 0.1)
    assert (config.momentum, config.teacher_temperature) == (0.994, (0.04, 0.07))
    assert (config.warmup, config.frozen) == (30 / 500, 1 / 500)
    assert (optim.weight_decay, optim.final_weight_decay, optim.clip) == (0.04, 0.2, 3.0)
    assert optim.lr * run.data.batch_size / 256 == pytest.approx(2e-4 * 3**0.5)
    assert run.encoder.drop_path == 0.4
