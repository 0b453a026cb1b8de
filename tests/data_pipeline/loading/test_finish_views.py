"""What torch's operators cost on a GPU where Triton does not make the views, counted on fake tensors."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from view_counts import GpuWork, views_of_recipes

from eyespot.data_pipeline.augment.crop_geometry import view_geometry
from eyespot.data_pipeline.augment.pipeline import view_alteration
from eyespot.data_pipeline.augment.rand_augment_tables import proving_steps
from eyespot.data_pipeline.augment.view_tables import view_tables
from eyespot.data_pipeline.augment.views import IMAGENET_MEAN, IMAGENET_STD, RandomView
from eyespot.data_pipeline.loading import finish_views
from eyespot.data_pipeline.loading.finish_views import ViewFinisher, kernels_can_run

COUNT = 64


@pytest.fixture(scope="module")
def specs():
    return views_of_recipes()


@pytest.mark.parametrize(
    ("method", "kernels"),
    [("simclr", 651), ("byol", 645), ("swav", 2457), ("dino", 3655), ("mae", 4), ("finetune", 338)],
)
def test_all_numbers_of_a_batch_reach_a_gpu_by_one_copy(specs, method, kernels):
    """And how many kernels torch starts where Triton's do not work, which augment/test_view_kernels.py counts."""
    spec, ids = specs[method], np.arange(COUNT)
    alterations = [view_alteration(view, f"view{n}", 0, 0 * ids, ids) for n, view in enumerate(spec.views)]
    sizes = np.full((COUNT, 2), 300, np.int32)
    places = [view_geometry(view, f"view{n}", 0, 0 * ids, ids, sizes) for n, view in enumerate(spec.views)]
    finish, flip = ViewFinisher(spec.mean, spec.std), [place.flip_finished for place in places]
    assert any(each.any() for each in flip) == (method == "finetune")
    with FakeTensorMode(allow_non_fake_inputs=True), GpuWork() as work:
        pixels = [torch.empty(COUNT, v.size, v.size, 3, dtype=torch.uint8, device="cuda") for v in spec.views]
        views, (labels,) = finish([each.permute(0, 3, 1, 2) for each in pixels], alterations, [ids], flip)
    assert (work.copies, work.waits, work.inverses) == (1, 0, 0)
    assert work.kernels.total() <= kernels, work.kernels
    for asked, view in zip(spec.views, views, strict=True):
        assert view.device.type == "cuda" and tuple(view.shape) == (COUNT, 3, asked.size, asked.size)
        assert view.is_contiguous(memory_format=torch.channels_last) and view.dtype == torch.float32
    assert labels.device.type == "cuda"


def test_what_triton_does_not_know_reaches_a_gpu_by_one_copy_too():
    view = RandomView(size=32, jitter=(0.4, 0.4, 0.4, 0.1), sobel=0.5, turn=0.75, noise=0.5, cutout=0.5, erase=0.2)
    ids = np.arange(COUNT)
    alteration = view_alteration(view, "view0", 0, 0 * ids, ids)
    with FakeTensorMode(allow_non_fake_inputs=True), GpuWork() as work:
        pixels = torch.empty(COUNT, 32, 32, 3, dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
        (found,), _ = ViewFinisher(IMAGENET_MEAN, IMAGENET_STD)([pixels], [alteration], [ids], [ids % 2 == 0])
    assert (work.copies, work.waits, work.inverses) == (1, 0, 0)
    assert found.device.type == "cuda" and tuple(found.shape) == (COUNT, 3, 32, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_who_is_named_is_mirrored_at_the_end(specs, dtype):
    ids, view = np.arange(6), specs["finetune"].views[0]
    alteration = view_alteration(view, "view0", 0, 0 * ids, ids)
    assert alteration is not None and alteration.erasing is not None and alteration.erasing.boxes.any()
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 224, 224, 3), np.uint8)).permute(0, 3, 1, 2)
    finish, flip = ViewFinisher(IMAGENET_MEAN, IMAGENET_STD, dtype=dtype), np.array([1, 0, 0, 1, 1, 0], bool)
    plain, _ = finish([pixels, pixels], [alteration, None])
    found, (label,) = finish([pixels, pixels], [alteration, None], [ids], [flip, ~flip])
    for one, other, rows in zip(plain, found, (flip, ~flip), strict=True):
        assert other.dtype == dtype and other.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(other[rows], one[rows].flip(3)) and torch.equal(other[~rows], one[~rows])
    assert label.tolist() == ids.tolist()


@pytest.mark.parametrize("end", ["mirrored", "erased"])
def test_where_few_are_mirrored_or_erased_they_are_among_those_that_prove_the_kernels(end, monkeypatch):
    ids, view = np.arange(COUNT), RandomView(size=32, rand_augment=9.0, erase=1.0)
    alteration, flip = view_alteration(view, "view0", 0, 0 * ids, ids), np.zeros(COUNT, bool)
    alteration.erasing.boxes[:] = 0
    if end == "mirrored":
        flip[COUNT - 1] = True
    else:
        alteration.erasing.boxes[COUNT - 1] = (3, 4, 8, 9)
    calls = []

    def noted(*args):
        calls.append(args)
        return view_tables(*args)

    def broken(*_):
        raise RuntimeError("does not compile")

    monkeypatch.setattr(finish_views, "kernels_can_run", lambda device: True)
    monkeypatch.setattr(finish_views, "view_tables", noted)
    monkeypatch.setattr(finish_views._KernelWork, "made", broken)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (COUNT, 3, 32, 32), np.uint8))
    ViewFinisher(IMAGENET_MEAN, IMAGENET_STD)([pixels], [alteration], [], [flip])
    _, (tried, count, _, mirrored) = calls
    assert count == len(proving_steps()[0]) < COUNT
    if end == "mirrored":
        assert mirrored.sum() == 1
    else:
        assert tried.erasing.boxes.any(1).sum() == 1


def test_without_a_gpu_triton_is_not_asked():
    assert not kernels_can_run(torch.device("cuda")) or torch.cuda.is_available()
    assert not kernels_can_run(torch.device("cpu"))
