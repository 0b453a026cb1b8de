"""The geometry of views against a scalar reference and against torchvision."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from eyespot.data_pipeline.augment.crop_geometry import NUM_DRAWS, NUM_TRIES, center_crops, random_crops, view_geometry
from eyespot.data_pipeline.augment.views import CenterView, RandomView
from eyespot.data_pipeline.random_numbers import uniforms

SIZES = np.array(
    [(1, 1), (1, 500), (500, 1), (2, 3), (32, 32), (190, 300), (300, 190), (480, 640), (4000, 20), (65535, 65535)],
    np.int32,
)


def scalar_crop(numbers, height, width, scale, ratio):
    """RandomResizedCrop for one image: (top, left, height, width)."""
    numbers = [float(number) for number in numbers]
    for number in range(NUM_TRIES):
        u, v = numbers[3 + 2 * number], numbers[4 + 2 * number]
        area = height * width * (scale[0] + (scale[1] - scale[0]) * u)
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * v)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(numbers[1] * (height - h + 1)), math.floor(numbers[2] * (width - w + 1)), h, w
    if width / height < min(ratio):
        w, h = width, round(width / min(ratio))
    elif width / height > max(ratio):
        w, h = round(height * max(ratio)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(("scale", "ratio"), [((0.2, 1.0), (3 / 4, 4 / 3)), ((0.9, 1.0), (1.8, 2.2))])
def test_random_crops_equal_the_scalar_reference(scale, ratio):
    sizes = np.repeat(SIZES, 200, axis=0)
    numbers = uniforms(0, np.zeros(len(sizes), int), np.arange(len(sizes)), "view0", NUM_DRAWS)
    geometry = random_crops(RandomView(size=64, scale=scale, ratio=ratio), numbers, sizes)
    expected = [scalar_crop(row, *size, scale, ratio) for row, size in zip(numbers, sizes.tolist(), strict=True)]
    assert np.concatenate([geometry.start, geometry.shape], 1).tolist() == [list(row) for row in expected]
    assert (geometry.flip == (numbers[:, 0] < 0.5)).all()
    assert (geometry.resized == 64).all()
    assert not geometry.offset.any()


def test_every_crop_lies_inside_its_image():
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 700, (5000, 2)).astype(np.int32)
    numbers = uniforms(0, np.zeros(5000, int), np.arange(5000), "view0", NUM_DRAWS)
    numbers[::7, 1:3] = 1 - 2**-24  # the largest number there is
    geometry = random_crops(RandomView(scale=(0.01, 1.0)), numbers, sizes)
    assert (geometry.start >= 0).all()
    assert (geometry.shape >= 1).all()
    assert (geometry.start + geometry.shape <= sizes).all()


@pytest.mark.parametrize(("height", "width"), [(190, 300), (32, 32), (500, 100)])
def test_random_crops_are_distributed_like_torchvisions(height, width):
    count = 4000
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(224, scale=(0.2, 1.0))
    image = torch.empty(3, height, width)
    peer = [transform.make_params([image]) for _ in range(count)]
    theirs = np.array([[row[name] for name in ("top", "left", "height", "width")] for row in peer])
    sizes = np.tile(np.array([[height, width]], np.int32), (count, 1))
    geometry = view_geometry(RandomView(), "view0", 0, np.zeros(count, int), np.arange(count), sizes)
    ours = np.concatenate([geometry.start, geometry.shape], 1)
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert ks_2samp(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3]).pvalue > 1e-3
    assert abs(geometry.flip.mean() - 0.5) < 0.03


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_flip_is_a_probability(flip):
    numbers = uniforms(0, np.zeros(500, int), np.arange(500), "view0", NUM_DRAWS)
    geometry = random_crops(RandomView(flip=flip), numbers, np.full((500, 2), 50, np.int32))
    assert geometry.flip.mean() == flip


def test_views_of_one_sample_differ_and_do_not_depend_on_the_batch():
    ids, epochs = np.arange(50), np.repeat([0, 1], 25)
    sizes = np.full((50, 2), 200, np.int32)
    first = view_geometry(RandomView(), "view0", 5, epochs, ids, sizes)
    second = view_geometry(RandomView(), "view1", 5, epochs, ids, sizes)
    alone = view_geometry(RandomView(), "view0", 5, epochs[30:31], ids[30:31], sizes[30:31])
    assert (first.start != second.start).any(1).mean() > 0.9
    assert (alone.start == first.start[30:31]).all()
    assert (alone.shape == first.shape[30:31]).all()
    assert (first.rows(slice(30, 31)).start == alone.start).all()


@pytest.mark.parametrize(("resize", "size"), [(256, 224), (32, 32), (37, 20)])
def test_center_crops_round_like_torchvision(resize, size):
    sizes = np.random.default_rng(1).integers(1, 600, (100, 2)).astype(np.int32)
    sizes = sizes[sizes.max(1) < 8 * sizes.min(1)]
    geometry = center_crops(CenterView(resize=resize, size=size), sizes)
    for row, (height, width) in enumerate(sizes.tolist()):
        resized = v2.functional.resize(torch.zeros(1, height, width, dtype=torch.uint8), [resize], interpolation=0)
        assert tuple(resized.shape[1:]) == tuple(geometry.resized[row])
        places = torch.arange(resized[0].numel()).view(1, *resized.shape[1:])
        cut = v2.functional.center_crop(places, [size])
        assert cut[0, 0, 0] == places[(0, *geometry.offset[row])]
    assert (geometry.shape == sizes).all()
    assert not geometry.start.any()
    assert not geometry.flip.any()


STRIPS = [(1, 40_000), (40_000, 1), (65_500, 3), (2, 65_535), (300, 5000), (299, 60_001), (7, 113)]


@pytest.mark.parametrize("resize", [256, 257, 4096])
def test_of_a_strip_no_more_is_resized_than_its_view_needs(resize):
    view, sizes = CenterView(resize=resize, size=resize - 32), np.array(STRIPS, np.int32)
    geometry = center_crops(view, sizes)
    assert (geometry.resized.min(1) == resize).all()
    assert (geometry.resized.max(1) <= 12 * resize).all()
    assert (geometry.start >= 0).all() and (geometry.start + geometry.shape <= sizes).all()
    assert (geometry.offset >= 0).all() and (geometry.offset + view.size <= geometry.resized).all()
    middle = geometry.start + (geometry.offset + view.size / 2) * geometry.shape / geometry.resized
    assert (
        np.abs(middle - sizes / 2) <= np.maximum(1, sizes.min(1, keepdims=True) / resize)
    ).all()  # one pixel of either


def test_a_strip_among_others_changes_none_of_them():
    view, sizes = CenterView(resize=64, size=56), np.array([(40, 50), (1, 9000), (300, 200)], np.int32)
    together, alone = center_crops(view, sizes), center_crops(view, sizes[[0, 2]])
    for name in ("start", "shape", "resized", "offset"):
        assert (getattr(together, name)[[0, 2]] == getattr(alone, name)).all()


@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (2.5, 4.0), (0.1, 0.3)])
@pytest.mark.parametrize("size", [(1, 1), (1, 40_000), (40_000, 1), (3, 65_500)])
def test_random_crops_of_strips_hold_a_pixel_and_lie_inside(size, ratio):
    sizes = np.tile(np.array([size], np.int32), (50, 1))
    view = RandomView(size=32, ratio=ratio)
    geometry = random_crops(view, uniforms(0, np.zeros(50, int), np.arange(50), "view", NUM_DRAWS), sizes)
    assert (geometry.shape >= 1).all() and (geometry.start >= 0).all()
    assert (geometry.start + geometry.shape <= sizes).all()
