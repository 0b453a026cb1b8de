"""Jigsaw: solved, the image is whole; and nothing but the content tells the order."""

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.tiles import NUM_TILES, cut_tiles
from eyespot.pretrain.networks.encoders import EncoderConfig, make_encoder
from eyespot.pretrain.objectives.jigsaw import Jigsaw, laid_back, standardized

COUNT, SIZE = 16, 8


def make_objective(**changes) -> Jigsaw:
    torch.manual_seed(0)
    encoder = make_encoder(EncoderConfig(name="test_vit", image_size=SIZE, patch_size=4))
    config = Jigsaw.Config(num_permutations=24, tile_dim=8, hidden_dim=16, **changes)
    return config.build(encoder, SIZE).eval()


def make_batch(objective: Jigsaw, images=None, epoch: int = 0) -> Batch:
    size = objective.views().views[0].size
    if images is None:
        images = torch.randn(COUNT, 3, size, size, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(len(images))
    return Batch(views=[images], ids=ids, epochs=torch.full_like(ids, epoch), labels=ids, seed=0)


def test_solved_the_image_is_whole():
    """Without room in the cells the tiles are the whole image."""
    objective = make_objective(room=0.0)
    batch = make_batch(objective)
    tiles, answers = objective.puzzles(batch)
    solved = laid_back(tiles, objective.orders[answers])
    assert torch.equal(solved, cut_tiles(batch.views[0], SIZE, torch.zeros(COUNT, 2 * NUM_TILES)))
    lines = [torch.cat(line.unbind(1), dim=3) for line in solved.split(3, dim=1)]
    assert torch.equal(torch.cat(lines, dim=2), batch.views[0])
    assert not torch.equal(tiles, solved)


def test_an_image_has_another_puzzle_in_each_epoch():
    objective = make_objective()
    first, again = (objective.puzzles(make_batch(objective))[1] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, objective.puzzles(make_batch(objective, epoch=1))[1])


def test_the_loss_is_the_slow_reference():
    objective = make_objective().double()
    batch = make_batch(objective)
    batch.views = [view.double() for view in batch.views]
    puzzles, answers = objective.puzzles(batch)
    losses = []
    for tiles, answer in zip(puzzles, answers.tolist(), strict=True):
        rows = []
        for tile in tiles:
            tile = (tile - tile.mean()) / (tile.std(correction=0) + 1e-3)
            rows.append(objective.reduce(objective.encode(tile[None]))[0].clamp(min=0))
        logits = objective.head(torch.cat(rows)[None])[0]
        losses.append(logits.exp().sum().log() - logits[answer])
    assert objective(batch)["loss"].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-10)


def test_brightness_and_contrast_of_a_tile_tell_nothing():
    tiles = torch.randn(2, NUM_TILES, 3, SIZE, SIZE, dtype=torch.float64)
    factor, shift = (torch.rand(2, NUM_TILES, 1, 1, 1, dtype=torch.float64) + 1 for _ in range(2))
    assert torch.allclose(standardized(tiles * factor + shift), standardized(tiles), atol=2e-3)


def test_without_content_all_orders_look_the_same():
    """Tiles that are all alike, as every cell of this image: the padding of none says where it lay."""
    objective = make_objective(room=0.0)
    tile = torch.randn(COUNT, 3, SIZE, SIZE)
    tiles, _ = objective.puzzles(make_batch(objective, tile.repeat(1, 1, 3, 3)))
    assert torch.equal(tiles, tiles[:, :1].expand_as(tiles))


def test_orders_are_saved_with_the_run():
    assert "orders" in make_objective().state_dict()


def test_a_picture_shows_puzzle_guess_and_answer():
    objective = make_objective()
    assert objective.picture(make_batch(objective)).shape == (3, 8, 3, 3 * SIZE, 3 * SIZE)


def test_wrong_numbers_name_their_field():
    with pytest.raises(UserError, match=r"objective\.num_permutations 1"):
        Jigsaw.Config(num_permutations=1)
    with pytest.raises(UserError, match=r"objective\.room -1"):
        Jigsaw.Config(room=-1.0)
