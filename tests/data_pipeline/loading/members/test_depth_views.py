"""Depth is cut and flipped with its image: the image itself, drawn from the depth, shows where each pixel went."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from streams import global_stream, take

from eyespot.data_pipeline.augment.crop_geometry import center_crops
from eyespot.data_pipeline.augment.views import CenterView, Clip, DepthView, RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader, make_pass, make_selection
from eyespot.data_pipeline.loading.members.depth_views import see_depths
from eyespot.data_pipeline.shards.members.depth_maps import depth_png
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

HEIGHT, WIDTH = 24, 30
RAW = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def depth_of(number: int) -> np.ndarray:
    """A ramp: each pixel of each sample has another distance."""
    return (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 32 + number).astype(np.uint16)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Twelve images whose brightness is their depth; sample 7 has none."""
    root = tmp_path_factory.mktemp("depth")
    (root / "in").mkdir()
    for number in range(12):
        Image.fromarray((depth_of(number) >> 8).astype(np.uint8)).save(root / "in" / f"{number:02d}.png")
        if number != 7:
            (root / "in" / f"{number:02d}.depth.png").write_bytes(depth_png(depth_of(number)))
    pack(str(root / "in"), root / "shards", workers=1)
    return root / "shards"


def spec(shards: Path, *views, **changes) -> LoaderSpec:
    asked = dict(shards=ShardFolder(shards), views=ViewSpec(views=views, **RAW), batch_size=4, num_threads=2)
    return LoaderSpec(**{**asked, "max_bad_fraction": 0.5, **changes})


def test_whole_maps_are_exact(shards):
    views = (CenterView(resize=HEIGHT, size=HEIGHT), DepthView(of=0), DepthView(of=0, scale=0.001))
    (batch,) = take(make_selection(spec(shards, *views, batch_size=12), np.arange(12)), 1)
    left = (WIDTH - HEIGHT) // 2
    assert batch.views[1].shape == (12, 1, HEIGHT, HEIGHT) and batch.views[1].dtype == torch.float32
    numbers = [int(value) % 32 for value in batch.views[1][:, 0, 0, 0]]
    assert len(set(numbers)) == 11 and 7 not in numbers, "one without depth is replaced"
    for number, seen, scaled in zip(numbers, batch.views[1][:, 0].numpy(), batch.views[2][:, 0].numpy(), strict=True):
        expected = depth_of(number)[:, left : left + HEIGHT]
        assert np.array_equal(seen, expected)
        assert np.array_equal(scaled, expected.astype(np.float32) * np.float32(0.001))


def test_depth_follows_crop_and_flip_of_its_view(shards):
    """The image is the depth's upper byte, so both show the same ramp; colours change the image alone."""
    views = (
        RandomView(size=HEIGHT, ratio=(1.0, 1.0)),
        DepthView(of=0),
        RandomView(size=16, partner=True),
        DepthView(of=2),
    )
    for batch in take(make_loader(spec(shards, *views)), 6):
        for image, depth in ((batch.views[0], batch.views[1]), (batch.views[2], batch.views[3])):
            levels = depth[:, 0] / 256
            assert (image[:, 0] * 255 - levels).abs().quantile(0.9) < 8, "resized smoothly, and to the nearest pixel"
            across = [side[..., -1].mean((1, 2)) - side[..., 0].mean((1, 2)) for side in (image * 255, levels[:, None])]
            assert torch.equal(across[0] > 0, across[1] > 0), "flipped alike"
    plain, jittered = (
        take(make_loader(spec(shards, RandomView(size=16, jitter=jitter), DepthView(of=0))), 1)[0].views[1]
        for jitter in ((0.0,) * 4, (0.9, 0.9, 0.9, 0.3))
    )
    assert torch.equal(plain, jittered)


def test_it_does_not_depend_on_ranks_or_batches(shards):
    views = (RandomView(size=16), DepthView(of=0), RandomView(size=12, partner=True), DepthView(of=2))
    alone = global_stream(spec(shards, *views), 1, 4)
    assert global_stream(spec(shards, *views, batch_size=8, num_threads=1), 2, 2) == alone


def test_what_cannot_be_shown_is_refused(shards):
    with pytest.raises(UserError, match=r"sample .* it has none of what a view shows beside its image"):
        list(make_pass(spec(shards, CenterView(resize=24, size=24), DepthView(of=0))))
    with pytest.raises(UserError, match=r"views\[1\].of 0: shows a clip, and frames have no depth"):
        ViewSpec(views=(RandomView(size=16, clip=Clip(2)), DepthView(of=0)))
    with pytest.raises(UserError, match=r"views\[1\].of 3: is no view of images; choose one of 0"):
        ViewSpec(views=(RandomView(size=16), DepthView(of=3)))
    place, out = (
        center_crops(CenterView(resize=8, size=8), np.array([[8, 8]], np.int32)),
        np.zeros((1, 1, 8, 8), np.float32),
    )
    with pytest.raises(RuntimeError, match="its depth is no whole PNG"):
        see_depths([bytearray(b"no")], place, 1.0, out, slice(0, 1))


def test_nothing_lies_outside_of_the_image(shards):
    border = CenterView(resize=16, size=40, mode="border")
    (batch,) = take(make_selection(spec(shards, border, DepthView(of=0)), np.arange(2)), 1)
    assert not batch.views[1][:, :, 0].any() and batch.views[1][:, :, 20].any()
