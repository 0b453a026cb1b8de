"""DALI's graphs against torchvision on real photographs, and where each operator of them runs."""

import gc
import io
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from eyespot.data_pipeline.augment.crop_geometry import Geometry, view_geometry
from eyespot.data_pipeline.augment.views import CenterView, RandomView, ViewSpec
from eyespot.data_pipeline.loading import dali_graphs
from eyespot.data_pipeline.loading.nvjpeg import NvjpegConfig
from eyespot.data_pipeline.shards.manifest import ImageStats

NUM_PHOTOS = 24


def photo_files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[::12][:NUM_PHOTOS]]


def geometry_of(views: ViewSpec, files: list[bytes]) -> list[Geometry]:
    sizes = np.array([Image.open(io.BytesIO(file)).size[::-1] for file in files], np.int32)
    ids = np.arange(len(files))
    return [view_geometry(view, f"view{n}", 0, ids, ids, sizes) for n, view in enumerate(views.views)]


def once(inputs: list) -> Callable[[], list]:
    """A source with one batch."""
    batches = iter([inputs])
    return lambda: next(batches)


def torchvision_view(file: bytes, place: Geometry, row: int, size: int) -> torch.Tensor:
    """The usual PIL path, through public torchvision functions; 8-bit levels."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    (y, x), (h, w), (top, left) = place.start[row].tolist(), place.shape[row].tolist(), place.offset[row].tolist()
    image = v2.functional.crop(image, y, x, h, w)
    image = v2.functional.resize(image, place.resized[row].tolist(), v2.InterpolationMode.BICUBIC)
    view = v2.functional.pil_to_tensor(image)[:, top : top + size, left : left + size]
    return (view.flip(2) if place.flip[row] else view).float()


def levels(output) -> torch.Tensor:
    """CHW, 8-bit levels."""
    return torch.from_numpy(np.array(output.as_tensor())).permute(0, 3, 1, 2).float()


def error_of(views: torch.Tensor, expected: torch.Tensor) -> float:
    """Mean absolute error, 8-bit levels; the worst image counts."""
    return (views - expected).abs().mean((1, 2, 3)).max().item()


@pytest.mark.parametrize(
    "views",
    [
        (RandomView(size=32),),
        (RandomView(size=224),),
        (CenterView(resize=256, size=224),),
        (RandomView(size=96), RandomView(size=48, scale=(0.05, 0.3)), CenterView(resize=64, size=64)),
    ],
    ids=["random32", "random224", "center224", "three"],
)
def test_the_graph_agrees_with_torchvision_on_photographs(photo_folder, views):
    spec, files = ViewSpec(views=views), photo_files(photo_folder)
    geometry = geometry_of(spec, files)
    source = once(dali_graphs.view_inputs(spec, files, geometry))
    outputs = dali_graphs.view_pipeline(spec, source, batch_size=NUM_PHOTOS, num_threads=2, device_id=None).run()
    for view, place, output in zip(views, geometry, outputs, strict=True):
        found = levels(output)
        expected = torch.stack([torchvision_view(file, place, row, view.size) for row, file in enumerate(files)])
        assert error_of(found, expected) < 0.5
        assert error_of(found.flip(1), expected) > 3, "the wrong channel order would pass"
        assert error_of(found + 1, expected) > 0.9, "a brightness that is off by one level would pass"
        assert error_of(found.flip(3), expected) > 3, "a missing flip would pass"
        assert error_of(found.roll(1, 3), expected) > 0.9, "a crop that is off by one pixel would pass"


@pytest.mark.parametrize("num_views", [1, 2])
def test_crops_are_the_photographs_own_pixels(photo_folder, num_views):
    spec, files = ViewSpec(views=(RandomView(size=64),) * num_views), photo_files(photo_folder)
    geometry = geometry_of(spec, files)
    source = once(dali_graphs.crop_inputs(files, geometry))
    outputs = dali_graphs.crop_pipeline(spec, source, batch_size=NUM_PHOTOS, num_threads=2).run()
    for place, output in zip(geometry, outputs, strict=True):
        for row, file in enumerate(files):
            image = np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)
            (y, x), (h, w) = place.start[row], place.shape[row]
            difference = np.abs(np.asarray(output.at(row)) - image[y : y + h, x : x + w])
            assert difference.mean() < 0.1
            assert difference.max() <= 8  # another build of libjpeg


def graph(pipeline) -> Iterator[tuple[str, Any]]:
    """Each operator's name and node, by walking the graph back from its outputs."""
    nodes = list(pipeline._graph_out)
    while nodes:
        node = nodes.pop()
        yield node.name.strip("_").rpartition("_")[0].split("[")[0], node
        nodes += node.source.inputs if isinstance(node.source.inputs, list) else list(node.source.inputs or [])


def devices(pipeline) -> dict[str, set[str]]:
    """Operator name -> where its output lies."""
    found: dict[str, set[str]] = {}
    for name, node in graph(pipeline):
        found.setdefault(name, set()).add(node.device)
    return found


def decoder(pipeline) -> tuple[str, dict[str, str]]:
    """The decoder's name, and what it is told."""
    (name, node), *_ = [(name, node) for name, node in graph(pipeline) if name in ("Image", "ImageSlice")]
    lines = str(node.source.spec).partition("Arguments:")[2].splitlines()
    return name, {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("num_views", [1, 2])
def test_one_switch_moves_every_heavy_operator_to_the_gpu(num_views):
    spec = ViewSpec(views=(RandomView(size=64),) * num_views)
    options = dict(source=lambda: None, batch_size=4, num_threads=1)
    on_gpu = devices(dali_graphs.view_pipeline(spec, device_id=0, **options))
    on_cpu = devices(dali_graphs.view_pipeline(spec, device_id=None, **options))
    heavy = {"Resize"} | ({"Image", "Slice"} if num_views > 1 else {"ImageSlice"})
    assert set(on_gpu) == set(on_cpu) == heavy | {"ExternalSource"}
    assert {name for name, where in on_gpu.items() if where == {"gpu"}} == heavy
    assert all(where == {"cpu"} for where in on_cpu.values())


@pytest.mark.parametrize(
    ("num_views", "regions", "operator"), [(1, True, "ImageSlice"), (1, False, "Image"), (2, True, "Image")]
)
def test_the_gpus_decoder_is_told_its_settings(num_views, regions, operator):
    """A decoder that cannot decode regions gets whole images: of regions nvJPEG below 13.2 leaves all to the CPU."""
    spec = ViewSpec(views=(RandomView(size=64),) * num_views)
    stats = ImageStats(mean=(0.5,) * 3, std=(0.2,) * 3, height=(8, 300, 400), width=(8, 200, 600))
    config = NvjpegConfig(hw_decoder_load=0.75, hybrid_huffman_threshold=0)
    options = dict(source=lambda: None, batch_size=64, num_threads=1, regions=regions)
    told = config.decoder_arguments(stats, 64)
    name, arguments = decoder(dali_graphs.view_pipeline(spec, device_id=0, nvjpeg=told, **options))
    expected = dict(device="mixed", jpeg_fancy_upsampling="True", adjust_orientation="False")
    expected |= dict(hw_decoder_load="0.750000", hybrid_huffman_threshold="0")
    expected |= dict(preallocate_height_hint="400", preallocate_width_hint="600")
    assert name == operator
    assert expected.items() <= arguments.items()
    name, arguments = decoder(dali_graphs.view_pipeline(spec, device_id=None, nvjpeg=told, **options))
    assert arguments["device"] == "cpu" and not told.keys() & arguments.keys()


def test_whole_images_give_the_same_views(photo_folder):
    spec, files = ViewSpec(views=(RandomView(size=48),)), photo_files(photo_folder)
    made = []
    for regions in (True, False):
        source = once(dali_graphs.view_inputs(spec, files, geometry_of(spec, files)))
        options = dict(batch_size=NUM_PHOTOS, num_threads=2, device_id=None, regions=regions)
        made.append(levels(dali_graphs.view_pipeline(spec, source, **options).run()[0]))
    assert torch.equal(*made)


class Watched(bytearray):
    __hash__ = object.__hash__

    """A file that can be asked for whether anybody still has it."""


def test_a_gpus_graph_reads_files_where_they_lie(photo_folder):
    """Nobody copies them while all of Python waits; and nobody keeps more than a few batches of them."""
    spec, files = ViewSpec(views=(RandomView(size=48),)), photo_files(photo_folder)
    geometry = geometry_of(spec, files)
    alive: weakref.WeakSet[Watched] = weakref.WeakSet()

    def inputs() -> list:
        watched = [Watched(file) for file in files]
        alive.update(watched)
        return dali_graphs.view_inputs(spec, watched, geometry)

    pipeline = dali_graphs.view_pipeline(spec, inputs, batch_size=NUM_PHOTOS, num_threads=2, device_id=None)
    first = levels(pipeline.run()[0])
    assert all(torch.equal(levels(pipeline.run()[0]), first) for _ in range(12))
    held = dali_graphs.QUEUE_DEPTH + 2
    assert held * NUM_PHOTOS <= len(alive) <= (held + 3) * NUM_PHOTOS
    del pipeline
    gc.collect()
    assert not len(alive)
    crops = dali_graphs.crop_pipeline(spec, lambda: None, batch_size=4, num_threads=1)
    views = dali_graphs.view_pipeline(spec, lambda: None, batch_size=4, num_threads=1, device_id=0)
    for pipeline, no_copy in ((crops, "False"), (views, "True")):
        sources = [str(node.source.spec) for name, node in graph(pipeline) if name == "ExternalSource"]
        assert sources and all(f"no_copy: {no_copy}" in source for source in sources)


def test_what_cannot_be_decoded_is_named(photo_folder):
    file = photo_files(photo_folder)[0]
    width, height = Image.open(io.BytesIO(file)).size
    size = height, width
    files, sizes = (
        [file, file[: len(file) // 2], file, bytes(1000), file],
        [size, size, (width + 1, height), size, size],
    )
    found = dali_graphs.undecodable(files, sizes)
    assert list(found) == [1, 2, 3]
    assert "cannot decode" in found[1] and "cannot decode" in found[3]
    assert f"{width} x {height} pixels" in found[2]
