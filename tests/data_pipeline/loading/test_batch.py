"""The one thing that every objective reads."""

from unittest.mock import patch

import torch
from torch import Tensor

from eyespot.data_pipeline.augment.views import Clip, MaskView, RandomView, ViewSpec
from eyespot.data_pipeline.loading.batch import Batch, noise_views, send


def make_batch(ids: list[int], epochs: list[int]) -> Batch:
    views = [torch.zeros(len(ids), 3, 8, 8), torch.ones(len(ids), 3, 4, 4)]
    return Batch(views=views, ids=torch.tensor(ids), epochs=torch.tensor(epochs), labels=torch.tensor(ids) % 10, seed=9)


def test_numbers_belong_to_the_sample_not_to_the_batch():
    together, alone = make_batch([4, 70_000, 12], [0, 2, 2]), make_batch([12], [2])
    numbers = together.uniforms("mask", 50)
    assert numbers.shape == (3, 50)
    assert (numbers[2] == alone.uniforms("mask", 50)[0]).all()
    assert (numbers[2] != alone.uniforms("other", 50)[0]).any()
    assert len({tuple(row.tolist()) for row in numbers}) == 3


def test_to_moves_tensors_and_leaves_the_rest():
    batch = make_batch([1, 2], [0, 0])
    moved = batch.to("meta")
    assert [view.device.type for view in moved.views] == ["meta", "meta"]
    assert moved.labels.device.type == "meta"
    assert moved.ids.device.type == moved.epochs.device.type == "cpu"
    assert len(moved) == len(batch) == 2
    assert moved.seed == 9


def test_what_a_device_needs_travels_through_pinned_memory():
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor

    batch = make_batch([1, 2], [0, 0])
    with patch.object(Tensor, "pin_memory", pin):
        assert batch.ids_on_device() is batch.ids and not pinned, "on the CPU it is there"
        moved = batch.to("meta")
        found = [moved.ids_on_device(), moved.uniforms("mask", 3), send(batch.ids, torch.device("meta"))]
    assert [tensor.device.type for tensor in found] == ["meta"] * 3
    assert len(pinned) == 3 and pinned[0] is batch.ids


def test_noise_has_the_shapes_and_types_of_views():
    views = (RandomView(size=8), RandomView(size=6, clip=Clip(4)), MaskView(of=1))
    image, clip, mask = noise_views(ViewSpec(views=views), 2, dtype=torch.bfloat16)
    assert (image.shape, clip.shape, mask.shape) == ((2, 3, 8, 8), (2, 4, 3, 6, 6), (2, 4, 1, 6, 6))
    assert (image.dtype, clip.dtype, mask.dtype) == (torch.bfloat16, torch.bfloat16, torch.uint8)
    assert set(mask.unique().tolist()) == {0, 1} and clip.float().std() > 0.8
