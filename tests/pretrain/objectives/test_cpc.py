"""CPC against a slow reference in float64, patch by patch and place by place; what a prediction can see; recipes."""

import math

import pytest
import torch
from torch import nn

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.loop.schedule import effective_rate
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.cpc import CPC, SCALE
from eyespot.pretrain.recipe_lookup import make_run

COUNT, SIZE, GRID, STRIDE = 3, 8, 4, 4


def make_cpc(**changes) -> CPC:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    sizes = {"grid": GRID, "ahead": 2, "context_dim": 6, "context_blocks": 2, "out_dim": 5}
    objective = CPC.Config(**(sizes | changes)).build(encoder, SIZE).double()
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return objective.eval()


def make_batch(objective: CPC, ids: list[int] | None = None, epoch: int = 0) -> Batch:
    side = objective.views().views[0].size
    images = torch.randn(COUNT, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    numbers = torch.tensor(ids or list(range(COUNT)))
    return Batch(views=[images], ids=numbers, epochs=torch.full_like(numbers, epoch), labels=numbers, seed=0)


def where(way: int, row: int, column: int) -> tuple[int, int]:
    """In the image, the patch that is read at that row and column."""
    last = GRID - 1
    return [(row, column), (last - row, column), (column, row), (column, last - row)][way]


def slow_contexts(context, grid):
    """By row and column as they are read: at each place of each block its own row, three wide, and the one above."""
    for block in context.blocks:
        first, _, wide, _, tall, _, last = block
        inner = {at: (first.weight[:, :, 0, 0] @ x + first.bias).clamp(min=0) for at, x in grid.items()}
        nothing, following = torch.zeros_like(wide.bias), {}
        spread = {
            (r, c): wide.bias + sum(wide.weight[:, :, 0, d + 1] @ inner.get((r, c + d), nothing) for d in (-1, 0, 1))
            for r, c in grid
        }
        for r, c in grid:
            above = tall.weight[:, :, 0, 0] @ spread.get((r - 1, c), nothing)
            both = (above + tall.weight[:, :, 1, 0] @ spread[r, c] + tall.bias).clamp(min=0)
            following[r, c] = grid[r, c] + last.weight[:, :, 0, 0] @ both + last.bias
        grid = following
    return {at: x.clamp(min=0) for at, x in grid.items()}


def slow_loss(cpc: CPC, batch: Batch):
    config, features, rows = cpc.config, {}, {}
    patches = cpc.patches(batch)
    for image in range(COUNT):
        for place in range(GRID**2):
            at = image, place // GRID, place % GRID
            features[at] = cpc.encode(patches[image, place][None])[0]
            rows[at] = cpc.target.weight @ features[at]
    losses, ids = [], batch.ids.tolist()
    for image in range(COUNT):
        for way in range(config.directions):
            read = {(r, c): features[image, *where(way, r, c)] for r in range(GRID) for c in range(GRID)}
            contexts, predictor = slow_contexts(cpc.contexts[way], read), cpc.predictors[way]
            for number, k in enumerate(config.distances):
                own = slice(number * config.out_dim, (number + 1) * config.out_dim)
                for r, c in read:
                    if r + k >= GRID:
                        continue
                    told = SCALE * (predictor.weight[own, :, 0, 0] @ contexts[r, c] + predictor.bias[own])
                    others = [row for (i, *_), row in rows.items() if i == image or ids[i] != ids[image]]
                    right = told @ rows[image, *where(way, r + k, c)]
                    losses.append(torch.stack([told @ row for row in others]).logsumexp(0) - right)
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("ids", "changes"),
    [([0, 1, 2], {"directions": 4, "drop_colors": True}), ([3, 1, 3], {"overlap": 0.0, "skipped": 0, "ahead": 5})],
    ids=["v2", "one image twice"],
)
def test_loss_and_gradients_equal_the_slow_reference(ids, changes):
    cpc = make_cpc(**changes)
    batch = make_batch(cpc, ids)
    names, parameters = zip(*cpc.named_parameters(), strict=True)
    fast, slow = cpc(batch)["loss"], slow_loss(cpc, batch)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-12)
    pairs = zip(names, torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True)
    for name, ours, theirs in pairs:
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-12), name
        assert theirs.abs().max() > 1e-12, name


@pytest.mark.parametrize("way", range(4), ids=["down", "up", "right", "left"])
def test_a_prediction_sees_the_rows_before_its_own_and_nothing_else(way):
    cpc = make_cpc(directions=4, jitter=0.0, context_dim=24)
    batch = make_batch(cpc)
    image = batch.views[0].requires_grad_()
    predictions = cpc.embed(batch)["predictions"][0].unflatten(0, (4, -1))[way]
    assert len(predictions) == 8 + 4
    places = [(k, r, c) for k in (2, 3) for r in range(GRID - k) for c in range(GRID)]
    for prediction, (k, r, c) in zip(predictions, places, strict=True):
        (slope,) = torch.autograd.grad(prediction.sum(), image, retain_graph=True)
        turned = [slope, slope.flip(2), slope.transpose(2, 3), slope.transpose(2, 3).flip(2)][way][0].abs().sum((0, 2))
        seen = r * STRIDE + SIZE
        assert (turned[:seen] > 0).sum() == min(seen, (min(r, 2) * STRIDE + SIZE)), "two blocks see two rows above"
        assert (turned[seen:] == 0).all() and seen <= (r + k) * STRIDE, "what is predicted was not seen"
        assert cpc.places.view(4, -1)[way][places.index((k, r, c))] == torch.tensor(
            where(way, r + k, c)
        ) @ torch.tensor([GRID, 1])


def test_patches_lose_margins_and_colours_anew_in_each_epoch():
    cpc = make_cpc(jitter=0.25, drop_colors=True)
    patches = cpc.patches(make_batch(cpc))
    assert patches.shape == (COUNT, GRID**2, 3, SIZE, SIZE)
    assert (patches[..., 0] == 0).all() and (patches[..., -1, :] == 0).all()
    kept = patches.abs().amax((3, 4)) > 0
    assert (kept.sum(2) == 1).all()
    assert len({tuple(image.argmax(1).tolist()) for image in kept.int()}) == COUNT
    assert torch.equal(cpc.patches(make_batch(cpc)), patches)
    assert not torch.equal(cpc.patches(make_batch(cpc, epoch=1)), patches)


def test_patches_that_are_all_alike_cannot_be_told_apart():
    cpc = make_cpc(jitter=0.0)
    batch = make_batch(cpc)
    batch.views = [torch.ones_like(batch.views[0])]
    assert cpc(batch)["loss"].item() == pytest.approx(math.log(COUNT * GRID**2), rel=1e-6)


def test_a_picture_shows_the_patches_side_by_side():
    cpc = make_cpc(jitter=0.0, overlap=0.0, skipped=0)
    batch = make_batch(cpc)
    images, boards, told = cpc.picture(batch)
    assert torch.equal(boards, images)
    assert (told[:, :, :SIZE] == 0).all()
    tiles = {tuple(tile.flatten().tolist()) for image in cpc.patches(batch).float() for tile in image}
    drawn = told[:, :, SIZE:].unfold(2, SIZE, SIZE).unfold(3, SIZE, SIZE).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    assert {tuple(tile.flatten().tolist()) for tile in drawn} <= tiles


def test_recipes_have_the_papers_numbers():
    run = make_run("cpc_r101_in1k")
    objective = run.objective.build(make_encoder(EncoderConfig(name="test_vit", image_size=64, patch_size=8)), 64)
    assert run.encoder.image_size == 64 and objective.views().views[0].size == 256 and objective.stride == 32
    assert list(run.objective.distances) == [2, 3, 4, 5, 6], "five rows of seven"
    assert round(64 * run.objective.jitter) == 64 - 60
    assert run.data.batch_size == 32 * 16 and effective_rate(run.optim.lr, 512) == pytest.approx(2e-4)
    second = make_run("cpc_v2_r50_in1k")
    objective = second.objective.build(make_encoder(EncoderConfig(name="test_vit", image_size=80, patch_size=8)), 80)
    assert objective.views().views[0].size == 260 and objective.stride == 36 and len(objective.contexts) == 4
    assert list(second.objective.distances) == [3, 4, 5], "row r ends at 36 r + 80, and row r + 2 begins at 36 r + 72"
    assert effective_rate(second.optim.lr, second.data.batch_size) == pytest.approx(4e-4)


@pytest.mark.parametrize("recipe", ["cpc_r101_in1k", "cpc_v2_r50_in1k"])
def test_no_patch_sees_another_through_a_batch_norm(recipe):
    with torch.device("meta"):
        encoder = make_encoder(make_run(recipe).encoder)
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in encoder.modules())


def test_what_overlaps_the_context_is_not_predicted():
    with pytest.raises(UserError, match=r"^objective\.skipped 0: patches of 8 pixels every 4 .*; set it to 1 or more"):
        make_cpc(skipped=0)
    with pytest.raises(UserError, match=r"^objective\.skipped 1: patches of 8 pixels every 2 .*; set it to 3 or more"):
        make_cpc(overlap=0.75, skipped=1)
    assert list(make_cpc(overlap=0.0, skipped=0).config.distances) == [1, 2]


def test_a_grid_with_nothing_to_predict_is_refused():
    with pytest.raises(UserError, match=r"^objective.skipped 2: nothing is left to predict in a grid of 3 rows"):
        CPC.Config(grid=3, skipped=2)
