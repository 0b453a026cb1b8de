"""CAPI against a slow, obvious reference in float64: patch by patch and place by place; micro-batches and ranks."""

import cmath
import math

import pytest
import torch
from cut_batches import Cut, assert_one_batch
from slow_vit import slow_block, slow_norm

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.capi import CAPI
from eyespot.pretrain.optim.optimizers import parameter_groups
from eyespot.pretrain.recipe_lookup import make_run

COUNT, SIZE, PATCH, GRID = 4, 16, 4, 4
HEAD = 64
"""Channels of one of three heads."""


def make_capi(**changes) -> CAPI:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=PATCH))
    encoder.blocks = encoder.blocks[:2]
    numbers = {"num_prototypes": 6, "predictor_depth": 2, "predictor_heads": 3, "asked_ratio": 0.6} | changes
    objective = CAPI.Config(**numbers).build(encoder, SIZE)
    with torch.no_grad():  # teacher and student start alike
        for parameter in objective.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    objective = objective.double()
    objective.predictor.angles.copy_(
        torch.tensor([slow_angles(patch) for patch in range(GRID * GRID)], dtype=torch.float64)
    )
    return objective


def make_batch(count: int = COUNT, first: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(1 + first)
    ids = torch.arange(first, first + count)
    images = torch.randn(count, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return Batch(views=[images], ids=ids, epochs=torch.zeros_like(ids), labels=ids, seed=0)


def slow_tokens(vit, image, visible):
    tokens = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]]
    for patch in visible:
        top, left = patch // GRID * PATCH, patch % GRID * PATCH
        square = image[:, top : top + PATCH, left : left + PATCH]
        token = (vit.patch_embed.proj.weight * square).sum(dim=(1, 2, 3)) + vit.patch_embed.proj.bias
        tokens.append(token + vit.pos_embed[0, 1 + patch])
    tokens = torch.stack(tokens)
    for block in vit.blocks:
        tokens = slow_block(tokens, block, 3)
    return slow_norm(tokens, vit.norm)


def slow_cosines(rows, prototypes):
    units = torch.stack([c / c.norm() for c in prototypes.weight])
    return torch.stack([units @ (row / row.norm()) for row in rows])


def slow_angles(patch):
    """Of each pair of a head's channels: first by the row, then by the column, both between 0 and 1."""
    frequencies = [2 * math.pi * 7 * 10000 ** -(i / (HEAD // 4 - 1)) for i in range(HEAD // 4)]
    return [place * f for place in (patch // GRID / (GRID - 1), patch % GRID / (GRID - 1)) for f in frequencies]


def slow_turned(rows, angles):
    """Row by row, pair by pair."""
    turned = []
    for row, of_row in zip(rows, angles, strict=True):
        points = [torch.complex(row[i], row[i + HEAD // 2]) for i in range(HEAD // 2)]
        points = [point * cmath.exp(1j * angle) for point, angle in zip(points, of_row, strict=True)]
        turned.append(torch.stack([*(point.real for point in points), *(point.imag for point in points)]))
    return torch.stack(turned)


def slow_predictor(predictor, tokens, visible, asked):
    queries = torch.stack([predictor.mask_token[0, 0]] * len(asked))
    of_queries = [slow_angles(patch) for patch in asked]
    of_keys = [[0.0] * (HEAD // 2), *(slow_angles(patch) for patch in visible)]  # the class token lies nowhere
    for block in predictor.blocks:
        query, key, value = (
            slow_norm(queries, block.norm1) @ block.query.weight.T,
            *(tokens @ layer.weight.T for layer in (block.key, block.value)),
        )
        heads = []
        for head in range(3):
            part = slice(head * HEAD, (head + 1) * HEAD)
            cosines = slow_turned(query[:, part], of_queries) @ slow_turned(key[:, part], of_keys).T
            heads.append(torch.softmax(cosines / 8, 1) @ value[:, part])
        queries = queries + torch.cat(heads, 1) @ block.proj.weight.T
        x = slow_norm(queries, block.norm2) @ block.mlp.fc1.weight.T
        queries = queries + 0.5 * x * (1 + torch.erf(x / math.sqrt(2))) @ block.mlp.fc2.weight.T
    return slow_cosines(slow_norm(queries, predictor.norm), predictor.scores)


def slow_assigned(logits):
    """Of one place: columns and rows by turns, three times."""
    table = torch.exp(logits / 0.06 - 200)
    for _ in range(3):
        table = table / table.sum(0) * (len(table) / table.shape[1])
        table = table / table.sum(1, keepdim=True)
    return table


def slow_loss(capi: CAPI, batch: Batch):
    with torch.no_grad():
        of_all = [slow_tokens(capi.encoder, image, range(GRID * GRID))[1:] for image in batch.views[0]]
    layer = capi.clusters
    logits = torch.stack([torch.stack([layer.weight @ (t / t.norm()) + layer.bias for t in rows]) for rows in of_all])
    clusters = torch.stack([slow_assigned(logits[:, place].detach()) for place in range(GRID * GRID)], 1)
    prediction, clustering = [], []
    seen, wanted = (places.tolist() for places in capi.drawn(batch))
    for number, (image, visible, asked) in enumerate(zip(batch.views[0], seen, wanted, strict=True)):
        scores = slow_predictor(capi.predictor, slow_tokens(capi.student, image, visible), visible, asked)
        for patch, row in zip(asked, scores, strict=True):
            prediction.append(-(clusters[number, patch] * torch.log(torch.softmax(row / 0.12, 0))).sum())
        for patch in range(GRID * GRID):
            answer = torch.log_softmax(logits[number, patch] / 0.12, 0)
            clustering.append(-(clusters[number, patch] * answer).sum())
    return torch.stack(prediction).mean() + torch.stack(clustering).mean()


def test_loss_and_gradients_equal_the_slow_reference():
    capi, batch = make_capi(), make_batch()
    named = {name: p for name, p in capi.named_parameters() if p.requires_grad}
    assert not any(name.startswith("encoder.") for name in named)
    fast, slow = capi(batch)["loss"], slow_loss(capi, batch)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-10)
    ours, theirs = (torch.autograd.grad(loss, list(named.values())) for loss in (fast, slow))
    for name, one, other in zip(named, ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-11), name


def test_nothing_learned_costs_twice_the_logarithm():
    capi, batch = make_capi(), make_batch()
    rows = {"scores": torch.zeros(COUNT, 6, 6), "logits": torch.zeros(COUNT, 16, 6), **capi.targets(batch)}
    found = capi.compare(rows)
    assert found["loss"].item() == pytest.approx(2 * math.log(6))
    assert found["mean_entropy"].item() == pytest.approx(math.log(6))
    assert found["entropy"].item() == pytest.approx(math.log(6))


def test_clusters_are_distinct_before_anything_was_learned():
    """The weights of the layer that clusters are as long as the authors': an assignment is nearly one cluster's."""
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=PATCH))
    capi = CAPI.Config(num_prototypes=16, predictor_heads=2).build(encoder, SIZE)
    assert capi.clusters.weight.square().mean().item() == pytest.approx(1, abs=0.1)
    batch = make_batch(32)
    batch.views[0] = batch.views[0].float()
    with torch.no_grad():
        found = capi(batch)
    assert found["entropy"] < 0.4 * math.log(16) and found["mean_entropy"] > 0.9 * math.log(16)


def test_only_hidden_patches_are_asked_about_each_once_and_any():
    capi, batch = make_capi(), make_batch(64)
    visible, asked = capi.drawn(batch)
    assert asked.shape[1] == int(0.6 * 10)
    for seen, wanted in zip(visible.tolist(), asked.tolist(), strict=True):
        assert len({*seen, *wanted}) == len(seen) + len(wanted)
    assert asked.unique().tolist() == list(range(16))
    assert make_capi(asked_ratio=0.01).drawn(batch)[1].shape[1] == 1
    visible, asked = make_capi(asked_ratio=1.0).drawn(batch)
    assert torch.equal(torch.cat([visible, asked], 1).sort(1).values, torch.arange(16).expand(64, -1))


def test_the_clusters_learn_at_half_the_rate_and_do_not_decay():
    capi = make_capi()
    of = {id(p): group for group in parameter_groups(capi, 0.1) for p in group["params"]}
    weight, bias, patches, block = (
        of[id(p)]
        for p in (
            capi.clusters.weight,
            capi.clusters.bias,
            capi.student.patch_embed.proj.weight,
            capi.student.blocks[0].attn.qkv.weight,
        )
    )
    assert [group.get("lr_scale", 1.0) for group in (weight, bias, patches, block)] == [0.5, 0.5, 0.2, 1.0]
    assert [group["weight_decay"] for group in (weight, bias, patches, block)] == [0, 0, 0.1, 0.1]


def test_micro_batches_and_ranks_are_one_batch(on_ranks):
    """Clusters are balanced over all samples of a step, wherever they are."""
    cut = Cut(make=make_capi, make_batch=make_batch)
    assert_one_batch(cut, on_ranks, loss=1e-10, gradients=1e-11, resampled=1e-11)


def test_masks_are_the_samples_own():
    capi = make_capi()
    for together, shifted in zip(capi.drawn(make_batch(6)), capi.drawn(make_batch(4, 2)), strict=True):
        assert torch.equal(together[2:], shifted) and together.unique(dim=0).shape[0] > 1
    assert capi.num_visible == 6


def test_the_teacher_follows():
    capi = make_capi(momentum=0.9, warmup=0.5)
    before, student = capi.encoder.norm.weight.clone(), capi.student.norm.weight
    capi.after_step(0.5)
    assert torch.allclose(capi.encoder.norm.weight, 0.9 * before + 0.1 * student)
    now = capi.encoder.norm.weight.clone()
    capi.after_step(0.6, torch.tensor(False))
    assert torch.equal(capi.encoder.norm.weight, now)


def test_the_teacher_stands_still_at_first_and_slows_down_along_four_fifths_of_half_a_cosine():
    """WarmupThenCosine of the authors' utils.py, truncate_cos 0.8."""
    capi = make_capi(momentum=0.9, warmup=0.2)
    momenta = [capi.teacher_momentum(progress) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert momenta == pytest.approx(
        [1.0, 0.95, 0.9, *(1 - 0.1 * (1 + math.cos(math.pi * share)) / 2 for share in (0.4, 0.8))]
    )
    assert make_capi(warmup=0.0).teacher_momentum(0.0) == pytest.approx(0.999)


def test_a_picture_shows_what_the_student_sees():
    capi, batch = make_capi(), make_batch()
    images, seen = capi.picture(batch)
    assert torch.equal(images, batch.views[0].float())
    assert torch.equal(seen[seen != 0], images[seen != 0])
    assert (seen != 0).double().mean() == pytest.approx(6 / 16, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mask_ratio": 0.05}, r"objective\.mask_ratio 0\.05: nothing hidden of 16 patches; raise it"),
        ({"predictor_heads": 5}, r"objective\.predictor_heads 5: must divide the encoder's 64 channels"),
        ({"predictor_heads": 32}, r"objective\.predictor_heads 32: 2 channels each, no multiple of 4"),
        ({"crop_scale": (1.0, 0.5)}, r"objective\.crop_scale \(1\.0, 0\.5\): must have the smaller area first"),
    ],
)
def test_wrong_numbers_name_their_field(changes, said):
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=PATCH))
    with pytest.raises(UserError, match=said):
        CAPI.Config(**changes).build(encoder, SIZE)


def test_needs_a_vision_transformer():
    with pytest.raises(UserError, match="CAPI needs a plain vision transformer"):
        CAPI.Config().build(make_encoder(EncoderConfig(name="test_resnet", image_size=32)), 32)


def test_capi_on_imagenet_has_the_papers_numbers():
    run = make_run("capi_vitl14_in1k")
    assert effective_rate(run.optim.lr, run.data.batch_size) == pytest.approx(1e-3)
    assert (run.steps, run.data.batch_size) == (500_000, 2048)
    objective = run.objective
    assert (objective.num_prototypes, objective.mask_ratio, objective.momentum) == (16384, 0.65, 0.999)
    assert (objective.teacher_temperature, objective.temperature, objective.predictor_depth) == (0.06, 0.12, 12)
    assert (objective.asked_ratio, objective.warmup) == (0.05, 0.1)
