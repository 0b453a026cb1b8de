"""What torch's operators cost on a GPU where Triton does not make the views, counted on fake tensors."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from view_counts import GpuWork, views_of_recipes

from eyespot.data_pipeline.augment.pipeline import view_alteration
from eyespot.data_pipeline.loading.finish_views import ViewFinisher, kernels_can_run

COUNT = 64


@pytest.fixture(scope="module")
def specs():
    return views_of_recipes()


@pytest.mark.parametrize(
    ("method", "kernels"),
    [("simclr", 651), ("byol", 645), ("swav", 2457), ("dino", 3655), ("mae", 4), ("finetune", 335)],
)
def test_all_numbers_of_a_batch_reach_a_gpu_by_one_copy(specs, method, kernels):
    """And how many kernels torch starts; Triton's are counted in augment/test_view_kernels.py."""
    spec, ids = specs[method], np.arange(COUNT)
    alterations = [view_alteration(view, f"view{n}", 0, 0 * ids, ids) for n, view in enumerate(spec.views)]
    finish = ViewFinisher(spec.mean, spec.std)
    with FakeTensorMode(allow_non_fake_inputs=True), GpuWork() as work:
        pixels = [torch.empty(COUNT, v.size, v.size, 3, dtype=torch.uint8, device="cuda") for v in spec.views]
        views, (labels,) = finish([each.permute(0, 3, 1, 2) for each in pixels], alterations, [ids])
    assert (work.copies, work.waits, work.inverses) == (1, 0, 0)
    assert work.kernels.total() <= kernels, work.kernels
    for asked, view in zip(spec.views, views, strict=True):
        assert view.device.type == "cuda" and tuple(view.shape) == (COUNT, 3, asked.size, asked.size)
        assert view.is_contiguous(memory_format=torch.channels_last) and view.dtype == torch.float32
    assert labels.device.type == "cuda"


def test_without_a_gpu_triton_is_not_asked():
    assert not kernels_can_run(torch.device("cuda")) or torch.cuda.is_available()
    assert not kernels_can_run(torch.device("cpu"))
