import itertools

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.images.tiles import NUM_TILES, cut_grid, cut_tiles, permutations, side_by_side, without_fringes
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.recipe_lookup import make_run


def test_each_tile_lies_in_its_cell_where_its_draws_say():
    images = torch.arange(2 * 3 * 14 * 14).view(2, 3, 14, 14)  # cells of 4, two pixels are left over
    draws = torch.rand(2, 2 * NUM_TILES, generator=torch.Generator().manual_seed(0))
    tiles = cut_tiles(images.float(), 3, draws)
    for image, place in itertools.product(range(2), range(NUM_TILES)):
        down, right = (int(draws[image, 2 * place + axis] * 2) for axis in (0, 1))
        top, left = 4 * (place // 3) + down, 4 * (place % 3) + right
        assert torch.equal(tiles[image, place], images[image, :, top : top + 3, left : left + 3].float())


def test_all_places_in_a_cell_occur_and_no_tile_leaves_it():
    images = torch.arange(9.0).expand(1, 1, 9, 9)  # the column
    seen = {
        tuple(cut_tiles(images, 2, torch.full((1, 2 * NUM_TILES), draw))[0, 4, 0, 0].tolist())
        for draw in np.linspace(0, 0.999, 20, dtype=np.float32).tolist()
    }
    assert seen == {(3.0, 4.0), (4.0, 5.0)}


def test_side_by_side_they_are_the_image():
    images = torch.arange(2 * 3 * 12 * 12.0).view(2, 3, 12, 12)
    assert torch.equal(side_by_side(cut_tiles(images, 4, torch.zeros(2, 2 * NUM_TILES))), images)


def test_tiles_larger_than_their_cells_are_refused():
    with pytest.raises(UserError, match="tiles of 5 pixels"):
        cut_tiles(torch.zeros(1, 3, 12, 12), 5, torch.zeros(1, 2 * NUM_TILES))


def test_squares_of_a_grid_overlap_and_lose_their_margins_where_their_draws_say():
    generator = torch.Generator().manual_seed(0)
    images, draws = torch.randn(2, 3, 9, 9, generator=generator), torch.rand(2, 2 * 9, generator=generator)
    found = cut_grid(images, 5, 2, margin=3, draws=draws)
    assert found.shape == (2, 9, 3, 5, 5)
    for image, place in itertools.product(range(2), range(9)):
        down, right = (int(draws[image, 2 * place + axis] * 4) for axis in (0, 1))
        top, left = 2 * (place // 3) + down, 2 * (place % 3) + right
        whole = torch.zeros(3, 5, 5)
        whole[:, 1:3, 1:3] = images[image, :, top : top + 2, left : left + 2]
        assert torch.equal(found[image, place], whole)
    assert torch.equal(cut_grid(images, 5, 2, draws=draws)[1, 7], images[1, :, 4:9, 2:7])
    with pytest.raises(UserError, match="patches of 10 pixels: the view has 9"):
        cut_grid(images, 10, 2, draws=draws)


def test_one_channel_stays_and_the_others_know_nothing_of_their_own():
    generator = torch.Generator().manual_seed(0)
    tiles, noise = torch.randn(2, 2, 3, 4, 4, generator=generator), torch.randn(2, 2, 3, 1, 1, generator=generator)
    kept = torch.tensor([2, 0])
    found = without_fringes(tiles, kept, noise)
    assert torch.equal(found[0, :, 2], tiles[0, :, 2])
    assert torch.equal(found[1, :, 0], tiles[1, :, 0])
    other = tiles.clone()
    other[0, :, :2] += 5
    other[1, :, 1:] *= -3
    assert torch.equal(without_fringes(other, kept, noise), found)


def test_permutations_are_permutations_and_far_apart():
    found = permutations(100)
    assert found.shape == (100, NUM_TILES)
    assert found[0].tolist() == list(range(NUM_TILES))
    assert (np.sort(found, 1) == np.arange(NUM_TILES)).all()
    distances = (found[:, None] != found[None]).sum(-1)[~np.eye(100, dtype=bool)]
    drawn = np.random.default_rng(0).permuted(np.tile(np.arange(NUM_TILES), (100, 1)), axis=1)
    by_chance = (drawn[:, None] != drawn[None]).sum(-1)[~np.eye(100, dtype=bool)]
    assert distances.min() >= 6 > by_chance.min()
    assert np.array_equal(permutations(10), found[:10])


def test_permutations_are_looked_for_once_and_nobody_changes_them():
    """An objective is made twice before a run, and a checkpoint is read into its copy."""
    found = permutations(3)
    assert permutations(3) is found
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1
    with torch.device("meta"):
        objectives = [fresh_objective(make_run("jigsaw_tiny")) for _ in range(2)]
    kept = permutations(objectives[0].config.num_permutations).copy()
    objectives[0].orders.zero_()
    assert np.array_equal(objectives[1].orders.numpy(), kept)


def test_the_greedy_choice_is_the_best_at_each_step():
    """Of five: among all 9!, none is farther from the four before."""
    found = permutations(5)
    everything = np.array(list(itertools.permutations(range(NUM_TILES))))
    for count in range(1, 5):
        distances = (everything[:, None] != found[None, :count]).sum(-1)
        best = max(zip(distances.min(1).tolist(), distances.sum(1).tolist(), strict=True))
        own = (found[count] != found[:count]).sum(-1)
        assert (own.min(), own.sum()) == best
