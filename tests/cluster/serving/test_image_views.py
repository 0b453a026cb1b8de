"""Images one by one become the pixels that the loader makes of the same images, packed."""

from pathlib import Path

import pytest
import torch
from served import picture

from eyespot.cluster.serving.image_views import ImageViews
from eyespot.data_pipeline.augment.views import CenterView, ViewSpec, center_view
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.shards.image_check import BadImage
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

SHAPES = [(40, 30), (30, 200), (300, 10), (17, 17), (100, 90)]


@pytest.mark.parametrize("view", [center_view(32), center_view(96), CenterView(resize=40, size=48, mode="border")])
def test_the_loaders_pixels(view: CenterView, tmp_path: Path):
    spec = ViewSpec(views=(view,), mean=(0.4, 0.5, 0.6))
    files = [picture(place, shape, form) for place, shape in enumerate(SHAPES) for form in ("PNG", "JPEG", "WEBP")]
    (tmp_path / "images").mkdir()
    for place, file in enumerate(files):
        (tmp_path / "images" / f"{place:02}.img.png").write_bytes(file)
    pack(str(tmp_path / "images"), tmp_path / "shards", workers=1)
    shards = ShardFolder(tmp_path / "shards")
    packed = torch.cat(
        [batch.views[0].clone() for batch in make_pass(LoaderSpec(shards=shards, views=spec, batch_size=8))]
    )
    views = ImageViews(spec, 1_000_000)
    alone = torch.stack([views(file) for file in files])
    unmatched = [rows for rows in alone if not any(torch.equal(rows, other) for other in packed)]
    assert len(packed) == len(files) and not unmatched  # packing shuffles


def test_no_image():
    views = ImageViews(ViewSpec(views=(center_view(32),)), 5_000)
    good = picture(1, form="JPEG")
    for bad, said in (
        (b"", "empty file"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
        (good[:-200], "truncated"),
        (picture(1, (80, 70)), r"more than 0.005 megapixels \(--max-megapixels\)$"),
    ):
        with pytest.raises(BadImage, match=said):
            views(bad)
    assert [views.pixels(file) for file in (b"", good[:-200], picture(1, (80, 70), "WEBP"))] == [0, 1200, 5600]
    assert views(good).shape == (3, 32, 32)
