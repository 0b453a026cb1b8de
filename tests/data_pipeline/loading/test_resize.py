"""The CPU's resize, flip and normalise, and the memory they write into."""

import gc
from functools import partial

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from eyespot.data_pipeline.augment import crop_geometry
from eyespot.data_pipeline.augment.crop_geometry import center_crops, view_geometry
from eyespot.data_pipeline.augment.pipeline import view_alteration
from eyespot.data_pipeline.augment.views import IMAGENET_MEAN, IMAGENET_STD, CenterView, RandomView
from eyespot.data_pipeline.loading.finish_views import finish_by_torch
from eyespot.data_pipeline.loading.resize import Buffers, resize_pixels, resize_views

SHAPES = [(190, 300), (33, 32), (8, 8), (500, 41), (300, 300)]


def images():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*shape, 3), np.uint8) for shape in SHAPES]


@pytest.mark.parametrize("size", [16, 224])
def test_random_views_equal_torchvisions_tensor_path(size):
    sizes = np.array(SHAPES, np.int32)
    ids = np.arange(len(SHAPES))
    geometry = view_geometry(RandomView(size=size), "view0", 0, ids, ids, sizes)
    assert 0 < geometry.flip.sum() < len(SHAPES)
    places = list(zip(geometry.start.tolist(), geometry.shape.tolist(), strict=True))
    crops = [image[y : y + h, x : x + w] for image, ((y, x), (h, w)) in zip(images(), places, strict=True)]
    out = np.empty((len(SHAPES), 3, size, size), np.float32)
    resize_views(crops, geometry, None, IMAGENET_MEAN, IMAGENET_STD, out)
    normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    for image, ((y, x), (h, w)), flip, found in zip(images(), places, geometry.flip, out, strict=True):
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        view = v2.functional.resized_crop(tensor, y, x, h, w, [size, size], v2.InterpolationMode.BICUBIC, True)
        expected = normalise(view.flip(2) if flip else view)
        assert torch.allclose(torch.from_numpy(found), expected, atol=2e-6)


@pytest.mark.parametrize(("size", "count"), [(16, 1300), (40, 200), (300, 10)])
def test_views_are_altered_between_resize_and_normalisation(size, count):
    """In groups of many small views, of a few, and one by one."""
    ids, sizes = np.arange(count), np.tile(np.array(SHAPES, np.int32), (count // len(SHAPES), 1))
    view = RandomView(size=size, jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2, blur=0.5 * (size > 16), solarize=0.2)
    geometry = view_geometry(view, "view0", 0, ids, ids, sizes)
    alteration = view_alteration(view, "view0", 0, ids, ids)
    places = zip(images() * (count // len(SHAPES)), geometry.start, geometry.shape, strict=True)
    crops = [image[y : y + h, x : x + w] for image, (y, x), (h, w) in places]
    levels, found = (np.empty((count, 3, size, size), np.float32) for _ in range(2))
    resize_views(crops, geometry, None, (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255), levels)
    resize_views(crops, geometry, alteration, IMAGENET_MEAN, IMAGENET_STD, found)
    pixels = torch.from_numpy(levels).byte()
    assert torch.equal(torch.from_numpy(found), finish_by_torch(pixels, alteration, IMAGENET_MEAN, IMAGENET_STD))
    assert not torch.equal(torch.from_numpy(found), finish_by_torch(pixels, None, IMAGENET_MEAN, IMAGENET_STD))


@pytest.mark.parametrize("view", [CenterView(resize=40, size=32), CenterView(resize=37, size=20)])
def test_center_views_equal_torchvisions_tensor_path(view):
    transform = v2.Compose(
        [
            v2.Resize(view.resize, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(view.size),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    geometry = center_crops(view, np.array(SHAPES, np.int32))
    out = np.empty((len(SHAPES), 3, view.size, view.size), np.float32)
    resize_views(images(), geometry, None, IMAGENET_MEAN, IMAGENET_STD, out)
    for image, found in zip(images(), out, strict=True):
        expected = transform(torch.from_numpy(image).permute(2, 0, 1))
        assert torch.allclose(torch.from_numpy(found), expected, atol=2e-6)


@pytest.mark.parametrize("shape", [(1, 400), (3, 99), (16, 1001), (300, 3), (500, 9000), (8, 129)])
def test_views_of_strips_are_what_the_whole_image_would_give(shape, monkeypatch):
    """Where the short side divides what is resized, to the bit."""
    image, view = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8), CenterView(resize=256, size=224)
    views = []
    for strip in (crop_geometry.STRIP, 10**9):
        monkeypatch.setattr(crop_geometry, "STRIP", strip)
        geometry = center_crops(view, np.array([shape], np.int32))
        (top, left), (height, width) = geometry.start[0], geometry.shape[0]
        views.append(np.empty((1, 3, 224, 224), np.float32))
        crop = np.ascontiguousarray(image[top : top + height, left : left + width])
        resize_views([crop], geometry, None, IMAGENET_MEAN, IMAGENET_STD, views[-1])
    assert geometry.resized.max() > 16 * 256
    assert np.array_equal(*views)


def test_memory_returns_only_when_its_last_holder_is_gone():
    buffers = Buffers()
    first = buffers.take((2, 3, 4, 4))
    address, part = first.data_ptr(), first[1:, :, 2:]
    del first
    gc.collect()
    second = buffers.take((2, 3, 4, 4))
    assert second.data_ptr() != address
    del part
    assert buffers.take((1, 3, 4, 4)).data_ptr() != address
    assert buffers.take((2, 3, 4, 4)).data_ptr() == address


@pytest.mark.parametrize(
    "alias",
    [
        lambda views: views[:1],
        lambda views: views.permute(0, 2, 3, 1),
        lambda views: views.numpy(),
        lambda views: views.numpy()[1:, ::2],
        lambda views: np.from_dlpack(views),
        lambda views: torch.utils.dlpack.from_dlpack(views)[0],
        lambda views: memoryview(views.numpy()),
        lambda views: views.untyped_storage(),
        lambda views: torch.nn.Parameter(views)[:, 0].detach(),
    ],
    ids=["slice", "permute", "numpy", "numpy slice", "numpy dlpack", "torch dlpack", "buffer", "storage", "parameter"],
)
def test_whatever_shares_memory_keeps_it(alias):
    buffers = Buffers()
    views = buffers.take((2, 3, 4, 4))
    address, kept = views.data_ptr(), alias(views)
    del views
    gc.collect()
    other = buffers.take((2, 3, 4, 4))
    assert other.data_ptr() != address
    del kept
    gc.collect()
    assert buffers.take((2, 3, 4, 4)).data_ptr() == address


def test_normalised_pixels():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), np.uint8)).permute(0, 3, 1, 2)
    expected = v2.functional.normalize(pixels.double() / 255, IMAGENET_MEAN, IMAGENET_STD)
    found = finish_by_torch(pixels, None, IMAGENET_MEAN, IMAGENET_STD)
    assert (
        found.dtype == torch.float32
        and found.is_contiguous(memory_format=torch.channels_last)
        and not found.is_inference()
    )
    assert torch.allclose(found.double(), expected, atol=2e-6)


def deep(bits: int, channels: int = 5) -> list[np.ndarray]:
    generator, kind = np.random.default_rng(1), {8: np.uint8, 16: np.uint16}[bits]
    return [generator.integers(0, 2**bits, (*shape, channels), kind) for shape in SHAPES]


@pytest.mark.parametrize("bits", [8, 16])
def test_bands_are_resized_each_by_itself_and_rounded_to_whole_values(bits):
    """Against float64, which cannot tell what lies between two values: a part of them is one off."""
    ids, sizes, size = np.arange(len(SHAPES)), np.array(SHAPES, np.int32), 24
    geometry = view_geometry(RandomView(size=size, flip=0.0), "view0", 0, ids, ids, sizes)
    places = zip(deep(bits), geometry.start, geometry.shape, strict=True)
    crops = [image[y : y + h, x : x + w] for image, (y, x), (h, w) in places]
    found, peak = np.empty((len(SHAPES), 5, size, size), np.float32), 2**bits - 1
    resize_views(crops, geometry, None, (0.0,) * 5, (1.0,) * 5, found)
    values = found.astype(np.float64) * peak
    assert abs(values - values.round()).max() < 0.02
    for crop, view in zip(crops, values, strict=True):
        exact = torch.from_numpy(crop.astype(np.float64)).permute(2, 0, 1)[None]
        resized = partial(torch.nn.functional.interpolate, mode="bicubic", antialias=True)
        exact = resized(exact, (exact.shape[2], size))
        if bits == 8:  # whole values between the two passes, too, as in RGB
            exact = exact.round().clamp(0, peak)
        exact = resized(exact, (size, size))[0]
        off = (torch.from_numpy(view) - exact.clamp(0, peak)).abs()
        assert off.max() < (1.6 if bits == 8 else 0.6) and off.mean() < 0.4


def test_16_bits_that_are_made_for_a_gpu_are_those_of_the_cpu():
    count, size = len(SHAPES), 24
    ids, sizes = np.arange(count), np.array(SHAPES, np.int32)
    view = RandomView(size=size, jitter=(0.4, 0.4, 0.0, 0.0), jitter_probability=1.0, blur=0.5, noise=0.7, flip=0.5)
    geometry = view_geometry(view, "view0", 0, ids, ids, sizes)
    alteration = view_alteration(view, "view0", 0, ids, ids)
    places = zip(deep(16), geometry.start, geometry.shape, strict=True)
    crops = [image[y : y + h, x : x + w] for image, (y, x), (h, w) in places]
    mean, std = (0.4, 0.5, 0.6, 0.5, 0.4), (0.2, 0.3, 0.2, 0.3, 0.2)
    found, pixels = np.empty((count, 5, size, size), np.float32), np.empty((count, size, size, 5), np.float32)
    resize_views(crops, geometry, alteration, mean, std, found)
    resize_pixels(crops, geometry, pixels)
    finished = finish_by_torch(torch.from_numpy(pixels).permute(0, 3, 1, 2), alteration, mean, std)
    flip = torch.from_numpy(geometry.flip_finished)
    finished[flip] = finished[flip].flip(3)
    assert torch.equal(torch.from_numpy(found), finished)
