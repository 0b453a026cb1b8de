"""Masks through the view of their images: pixel by pixel what torchvision's nearest neighbour gives."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import stored_samples
from torchvision.transforms import v2

from eyespot.data_pipeline.augment.views import CenterView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading import mask_views as subject
from eyespot.data_pipeline.loading.mask_views import mask_views, seen_from_middle
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def test_views_are_those_of_torchvision():
    """Resize of the short side by nearest neighbour and CenterCrop; on images of other proportions as well."""
    generator = np.random.default_rng(3)
    for height, width, resize, size in (
        (32, 32, 36, 28),
        (40, 71, 20, 16),
        (90, 33, 64, 50),
        (7, 5, 30, 29),
        (4, 90, 32, 28),
    ):
        mask = generator.integers(0, 256, (height, width), np.uint8)
        interpolation = v2.InterpolationMode.NEAREST_EXACT
        view = v2.Compose([v2.Resize(resize, interpolation=interpolation), v2.CenterCrop(size)])
        expected = view(torch.from_numpy(mask)[None])[0].numpy()
        assert np.array_equal(seen_from_middle(mask, CenterView(resize=resize, size=size), 255), expected)


@pytest.mark.parametrize("at_once", [1, 2, 256])
def test_masks_come_in_the_order_asked_for(packed, at_once, monkeypatch):
    monkeypatch.setattr(subject, "READ_AT_ONCE", at_once)
    ids = np.array([7, 0, 3])
    found = np.concatenate(list(mask_views(ShardFolder(packed), ids, CenterView(resize=32, size=32))))
    files = [mask for _, mask in stored_samples(packed).values()]  # in the order of the tars, which is that of the ids
    for seen, sample in zip(found, ids.tolist(), strict=True):
        assert np.array_equal(seen, np.asarray(Image.open(io.BytesIO(files[sample]))))


def test_a_damaged_mask_is_named(packed):
    manifest = ShardFolder(packed).manifest
    rows, index = ShardFolder(packed).masks, ShardFolder(packed).index
    with (packed / manifest.shards[int(index["tar"][4])].tar).open("r+b") as file:
        os.pwrite(file.fileno(), b"\xff", int(rows["offset"][4]) + 40)
    with pytest.raises(UserError, match=r"sample 4 .* is damaged: its bytes changed since they were packed"):
        list(mask_views(ShardFolder(packed), np.arange(12), CenterView(resize=32, size=32)))
