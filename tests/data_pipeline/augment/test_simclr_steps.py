"""Sobel, quarter turns, noise and cutout against loops over pixels in float64, and on the way of a GPU's views."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import sobel as scipys_sobel
from scipy.stats import kstest

from eyespot.data_pipeline.augment.crop_geometry import random_crops
from eyespot.data_pipeline.augment.pipeline import NOTHING, OPERATIONS, alter, view_alteration
from eyespot.data_pipeline.augment.simclr_steps import TURNS, sobel, view_cutout, view_noise
from eyespot.data_pipeline.augment.view_tables import view_tables
from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.loading.finish_views import ViewFinisher, finish_by_torch
from eyespot.data_pipeline.loading.resize import resize_pixels, resize_views
from eyespot.data_pipeline.random_numbers import normals

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
EACH = [{"sobel": 1.0}, {"turn": 1.0}, {"noise": 1.0}, {"cutout": 1.0}]
ALL = RandomView(size=24, jitter=(0.4, 0.4, 0.4, 0.1), blur=0.5, sobel=0.3, turn=0.75, noise=0.6, cutout=0.6, erase=0.4)


def drawn(view: RandomView, count: int, seed: int = 0, epoch: int = 0, name: str = "view0"):
    found = view_alteration(view, name, seed, np.full(count, epoch), np.arange(count))
    assert found is not None
    return found


def images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def slow_view(image: np.ndarray, view: RandomView, alteration, row: int) -> np.ndarray:
    """One view, pixel by pixel: (3, size, size), normalised."""
    size, levels = view.size, image.transpose(2, 0, 1).astype(np.float64)
    for step in alteration.steps[row].tolist():
        if step == NOTHING:
            continue
        if OPERATIONS[step] is sobel:
            edges = np.zeros_like(levels)
            for channel in range(3):
                for y in range(size):
                    for x in range(size):
                        near = [
                            [
                                levels[channel, min(max(y + dy, 0), size - 1), min(max(x + dx, 0), size - 1)]
                                for dx in (-1, 0, 1)
                            ]
                            for dy in (-1, 0, 1)
                        ]
                        across = sum(w * (r[2] - r[0]) for w, r in zip((1, 2, 1), near, strict=True))
                        down = sum(w * (low - high) for w, low, high in zip((1, 2, 1), near[2], near[0], strict=True))
                        edges[channel, y, x] = min(255.0, (across**2 + down**2) ** 0.5 / 4)
            levels = edges
        else:
            for _ in range(1 + TURNS.index(OPERATIONS[step])):
                turned = np.zeros_like(levels)
                for y in range(size):
                    for x in range(size):
                        turned[:, size - 1 - x, y] = levels[:, y, x]
                levels = turned
    if alteration.noise is not None and alteration.noise.sigmas[row]:
        noise = normals(0, np.zeros(1, int), np.array([row]), "view0/gaussian-noise", 3 * size * size)
        levels = np.clip(levels + alteration.noise.sigmas[row].astype(float) * noise.reshape(3, size, size), 0, 255)
    mean, std = (255 * np.array(each)[:, None, None] for each in (MEAN, STD))
    levels = (levels - mean) / std
    if alteration.cutout is not None:
        top, left, height, width = alteration.cutout[row]
        for y in range(top, top + height):
            for x in range(left, left + width):
                levels[:, y, x] = 0
    return levels


@pytest.mark.parametrize("step", EACH, ids=lambda step: next(iter(step)))
def test_each_step_equals_loops_over_pixels(step):
    view, pixels = RandomView(size=9, flip=0.0, **step), images(12, 9)
    alteration = drawn(view, 12)
    found = finish_by_torch(torch.from_numpy(pixels).permute(0, 3, 1, 2), alteration, MEAN, STD)
    for row, image in enumerate(pixels):
        assert np.abs(found[row].double().numpy() - slow_view(image, view, alteration, row)).max() < 1e-5


def test_sobel_is_scipys_and_an_edge_is_as_strong_as_it_is():
    levels = torch.from_numpy(images(1, 17).astype(np.float32)).permute(0, 3, 1, 2).contiguous()
    expected = [
        np.hypot(scipys_sobel(c, 0, mode="nearest"), scipys_sobel(c, 1, mode="nearest")) / 4
        for c in levels[0].double().numpy()
    ]
    sobel(levels, np.zeros(1, np.float32))
    assert np.abs(levels[0].numpy() - np.minimum(expected, 255)).max() < 1e-3
    edge = torch.zeros(1, 3, 6, 6)
    edge[..., 3:] = 255
    sobel(edge, np.zeros(1, np.float32))
    assert (edge[..., 2:4] == 255).all() and edge.sum() == 255 * 3 * 6 * 2


def test_steps_are_drawn_as_often_as_asked():
    steps = drawn(RandomView(size=8, sobel=0.3, turn=0.75), 20_000).steps
    counts = Counter(steps[:, 1].tolist())
    assert abs((steps[:, 0] != NOTHING).mean() - 0.3) < 0.015
    assert len(counts) == 4 and all(abs(times / 20_000 - 0.25) < 0.015 for times in counts.values())


def test_noise_is_as_strong_as_asked_and_belongs_to_the_sample():
    view = RandomView(size=16, noise=0.5, noise_sigma=(0.02, 0.1))
    noise = view_noise(view, "view0", 0, np.zeros(4000, int), np.arange(4000))
    noisy = noise.sigmas > 0
    assert abs(noisy.mean() - 0.5) < 0.03
    assert kstest(noise.sigmas[noisy] / 255, "uniform", (0.02, 0.08)).pvalue > 1e-3
    rows, added = noise.rows(slice(0, 40)).arrays(16)
    assert rows.tolist() == np.flatnonzero(noisy[:40]).tolist()
    assert kstest((added / noise.sigmas[rows][:, None, None, None]).ravel(), "norm").pvalue > 1e-3
    _, again = noise.rows(rows[3:4]).arrays(16)
    assert np.array_equal(again[0], added[3])


@pytest.mark.parametrize(
    ("size", "share", "side"), [(32, 0.5, 16), (32, 0.25, 8), (9, 0.34, 3), (8, 2.0, 16), (5, 0.01, 1)]
)
def test_squares_are_cut_out_as_their_authors_do(size, share, side):
    """DeVries & Taylor's code: a middle among all pixels, half a side in each direction, clipped to the image."""
    view = RandomView(size=size, cutout=0.7, cutout_side=share)
    boxes = view_cutout(view, "view0", 0, np.zeros(6000, int), np.arange(6000))
    cut = boxes[boxes[:, 2] > 0]
    assert abs(len(cut) / 6000 - 0.7) < 0.03 and not boxes[boxes[:, 2] == 0].any()
    possible = {(max(y - side // 2, 0), min(y - side // 2 + side, size) - max(y - side // 2, 0)) for y in range(size)}
    assert {(top, height) for top, _, height, _ in cut.tolist()} == possible
    assert {(left, width) for _, left, _, width in cut.tolist()} == possible


def test_a_sample_has_the_same_bits_in_any_batch():
    count, alteration = 40, drawn(ALL, 40)
    pixels = torch.from_numpy(images(count, 24)).permute(0, 3, 1, 2)
    together = finish_by_torch(pixels, alteration, MEAN, STD)
    assert {*alteration.steps[:, 7].tolist(), *alteration.steps[:, 8].tolist()} == {
        NOTHING,
        *(OPERATIONS.index(each) for each in (sobel, *TURNS)),
    }
    for row in range(count):
        alone = finish_by_torch(pixels[row : row + 1], alteration.rows(slice(row, row + 1)), MEAN, STD)
        assert torch.equal(alone[0], together[row])


def test_seed_epoch_and_view_draw_anew():
    first = drawn(ALL, 30)
    for other in (drawn(ALL, 30, seed=1), drawn(ALL, 30, epoch=1), drawn(ALL, 30, name="view1")):
        assert first.noise is not None and other.noise is not None
        assert (first.steps[:, 7:] != other.steps[:, 7:]).any() and (first.cutout != other.cutout).any()
        assert (first.noise.sigmas != other.noise.sigmas).any()
        both = np.flatnonzero((first.noise.sigmas > 0) & (other.noise.sigmas > 0))
        one, another = (
            each.rows(both).arrays(24)[1] / each.sigmas[both][:, None, None, None]
            for each in (first.noise, other.noise)
        )
        assert len(both) > 5 and abs(np.corrcoef(one.ravel(), another.ravel())[0, 1]) < 0.05


def test_other_draws_of_a_view_stay_as_they_are():
    plain = drawn(replace(ALL, sobel=0.0, turn=0.0, noise=0.0, cutout=0.0), 50)
    more = drawn(ALL, 50)
    assert (more.steps[:, :7] == plain.steps).all() and (more.amounts[:, :7] == plain.amounts).all()
    assert plain.erasing is not None and more.erasing is not None and plain.noise is None and plain.cutout is None
    assert (plain.erasing.boxes == more.erasing.boxes).all()


def test_a_gpus_way_gives_the_cpus_views():
    """What DALI's place takes here, then ``ViewFinisher``: mirrored last, so that noise and squares lie alike."""
    count, size = 30, 24
    crops, ids = list(images(count, 31)), np.arange(count)
    numbers = np.random.default_rng(1).random((count, 23), np.float32)
    geometry = random_crops(ALL, numbers, np.full((count, 2), 31, np.int32))
    cut = [
        crop[y : y + h, x : x + w] for crop, (y, x), (h, w) in zip(crops, geometry.start, geometry.shape, strict=True)
    ]
    alteration, expected = drawn(ALL, count), np.empty((count, 3, size, size), np.float32)
    resize_views(cut, geometry, alteration, MEAN, STD, expected)
    pixels = np.empty((count, size, size, 3), np.uint8)
    resize_pixels(cut, geometry, pixels)
    assert geometry.flip.any() and not geometry.flip_resized.any()
    (found,), _ = ViewFinisher(MEAN, STD)(
        [torch.from_numpy(pixels).permute(0, 3, 1, 2)], [alteration], [ids], [geometry.flip_finished]
    )
    assert torch.equal(found, torch.from_numpy(expected))


@pytest.mark.parametrize("step", EACH, ids=lambda step: next(iter(step)))
@pytest.mark.parametrize("others", [{}, {"rand_augment": 9.0}, {"jitter": (0.4, 0.4, 0.4, 0.1)}], ids=str)
def test_triton_leaves_them_to_torch(step, others):
    alteration = drawn(RandomView(size=32, **step, **others), 20)
    assert view_tables(alteration, 20, 32) is None


def test_turns_turn_as_often_as_they_say():
    levels = torch.arange(27.0).view(1, 3, 3, 3)
    for times, turn in enumerate(TURNS, 1):
        turned = levels.clone()
        turn(turned, np.zeros(1, np.float32))
        assert torch.equal(turned, torch.rot90(levels, times, (2, 3)))
    around, alteration = levels.repeat(4, 1, 1, 1), drawn(RandomView(size=3, turn=1.0), 4)
    alter(around, alteration)
    assert not (around == levels).flatten(1).all(1).any()
