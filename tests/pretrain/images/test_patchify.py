"""Patches of images: which pixel lies where, and back."""

import torch

from eyespot.pretrain.images.patchify import patchify, take, unpatchify


def test_patchify_round_trip():
    images = torch.arange(2 * 3 * 8 * 12.0).reshape(2, 3, 8, 12)
    assert torch.equal(unpatchify(patchify(images, 4), 4, (2, 3)), images)


def test_patches_go_row_by_row_and_pixels_have_their_channels_together():
    images = torch.arange(1 * 3 * 4 * 6.0).reshape(1, 3, 4, 6)
    patches = patchify(images, 2)
    assert patches.shape == (1, 6, 12)
    assert torch.equal(patches[0, 4].reshape(2, 2, 3), images[0, :, 2:4, 2:4].permute(1, 2, 0))


def test_take_gives_each_image_its_own_rows():
    rows = torch.arange(2 * 3 * 2.0).reshape(2, 3, 2)
    taken = take(rows, torch.tensor([[2, 0], [1, 1]]))
    assert torch.equal(taken, torch.stack([rows[0, [2, 0]], rows[1, [1, 1]]]))
