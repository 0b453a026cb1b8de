"""CAPI against a slow, obvious reference in float64: patch by patch and place by place; micro-batches and ranks."""

import math

import pytest
import torch
from cut_batches import Cut, assert_one_batch
from slow_vit import slow_block, slow_linear, slow_norm, slow_positions

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.capi import CAPI
from eyespot.pretrain.recipe_lookup import make_run

COUNT, SIZE, PATCH, GRID = 4, 16, 4, 4


def make_capi(**changes) -> CAPI:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=PATCH))
    encoder.blocks = encoder.blocks[:2]
    numbers = {"num_prototypes": 6, "predictor_depth": 2, "predictor_heads": 3} | changes
    objective = CAPI.Config(**numbers).build(encoder, SIZE)
    with torch.no_grad():  # teacher and student start alike
        for parameter in objective.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    objective = objective.double()
    objective.predictor.positions.copy_(slow_positions(192, GRID)[None])
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


def slow_predictor(predictor, tokens, hidden):
    queries = torch.stack([predictor.mask_token[0, 0] + slow_positions(192, GRID)[patch] for patch in hidden])
    for block in predictor.blocks:
        query = slow_linear(slow_norm(queries, block.norm1), block.query)
        key, value = slow_linear(tokens, block.key_value).chunk(2, dim=1)
        heads = []
        for head in range(3):
            part = slice(head * 64, (head + 1) * 64)
            heads.append(torch.softmax(query[:, part] @ key[:, part].T / 8, 1) @ value[:, part])
        queries = queries + slow_linear(torch.cat(heads, 1), block.proj)
        x = slow_linear(slow_norm(queries, block.norm2), block.mlp.fc1)
        queries = queries + slow_linear(0.5 * x * (1 + torch.erf(x / math.sqrt(2))), block.mlp.fc2)
    return slow_cosines(slow_norm(queries, predictor.norm), predictor.scores)


def slow_clusters(cosines):
    """Of one place: columns and rows by turns, three times."""
    table = torch.exp(cosines / 0.06)
    for _ in range(3):
        table = table / table.sum(0) * (len(table) / table.shape[1])
        table = table / table.sum(1, keepdim=True)
    return table


def slow_loss(capi: CAPI, batch: Batch):
    with torch.no_grad():
        of_all = [slow_tokens(capi.encoder, image, range(GRID * GRID))[1:] for image in batch.views[0]]
    cosines = torch.stack([slow_cosines(rows, capi.prototypes) for rows in of_all])
    clusters = torch.stack([slow_clusters(cosines[:, place].detach()) for place in range(GRID * GRID)], 1)
    prediction, clustering = [], []
    for number, (image, order) in enumerate(zip(batch.views[0], capi.mask_order(batch).tolist(), strict=True)):
        visible, hidden = order[: capi.num_visible], order[capi.num_visible :]
        scores = slow_predictor(capi.predictor, slow_tokens(capi.student, image, visible), hidden)
        for patch, row in zip(hidden, scores, strict=True):
            prediction.append(-(clusters[number, patch] * torch.log(torch.softmax(row / 0.12, 0))).sum())
        for patch in range(GRID * GRID):
            answer = torch.log(torch.softmax(cosines[number, patch] / 0.12, 0))
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
    rows = {"scores": torch.zeros(COUNT, 10, 6), "cosines": torch.zeros(COUNT, 16, 6), **capi.targets(batch)}
    found = capi.compare(rows)
    assert found["loss"].item() == pytest.approx(2 * math.log(6))
    assert found["mean_entropy"].item() == pytest.approx(math.log(6))


def test_micro_batches_and_ranks_are_one_batch(on_ranks):
    """Clusters are balanced over all samples of a step, wherever they are."""
    cut = Cut(make=make_capi, make_batch=make_batch)
    assert_one_batch(cut, on_ranks, loss=1e-10, gradients=1e-11, resampled=1e-11)


def test_masks_are_the_samples_own():
    capi = make_capi()
    together, shifted = capi.mask_order(make_batch(6)), capi.mask_order(make_batch(4, 2))
    assert torch.equal(together[2:], shifted) and together.unique(dim=0).shape[0] > 1
    assert capi.num_visible == 6


def test_the_teacher_follows():
    capi = make_capi(momentum=0.9)
    before, student = capi.encoder.norm.weight.clone(), capi.student.norm.weight
    capi.after_step(0.5)
    assert torch.allclose(capi.encoder.norm.weight, 0.9 * before + 0.1 * student)
    now = capi.encoder.norm.weight.clone()
    capi.after_step(0.6, torch.tensor(False))
    assert torch.equal(capi.encoder.norm.weight, now)


def test_a_picture_shows_what_the_student_sees():
    capi, batch = make_capi(), make_batch()
    images, seen = capi.picture(batch)
    assert torch.equal(images, batch.views[0].float())
    assert torch.equal(seen[seen != 0], images[seen != 0])
    assert (seen != 0).double().mean() == pytest.approx(6 / 16, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mask_ratio": 0.999}, r"objective\.mask_ratio 0\.999: nothing visible of 16 patches; lower it"),
        ({"predictor_heads": 5}, r"objective\.predictor_heads 5: must divide the encoder's 64 channels"),
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
