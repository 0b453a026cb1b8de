"""What fp32 means, and that deterministic is asked of all that could answer otherwise."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.distributed.arithmetic import (
    WORKSPACE,
    _Resampling,
    refusals_in_words,
    rounds_to_tf32,
    set_arithmetic,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def as_before(monkeypatch) -> Iterator[None]:
    monkeypatch.delenv(WORKSPACE, raising=False)
    yield
    set_arithmetic(CPU)


def found() -> tuple:
    convolutions = torch.backends.cudnn.conv.fp32_precision
    return torch.backends.cuda.matmul.fp32_precision, convolutions, torch.backends.cudnn.rnn.fp32_precision


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [(GPU, "fp32", "ieee"), (GPU, "bf16", "ieee"), (GPU, "tf32", "tf32"), (CPU, "tf32", "ieee"), (CPU, "fp32", "ieee")],
)
def test_matrix_products_and_convolutions_mean_the_same(device, precision, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_arithmetic(device, precision)
    assert found() == (expected,) * 3
    assert rounds_to_tf32() == (expected == "tf32")
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == (expected == "tf32")
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"  # a CPU's own is left alone


def test_deterministic_is_asked_of_all_and_taken_back():
    set_arithmetic(GPU, deterministic=True, training=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert os.environ[WORKSPACE] == ":4096:8"
    assert not torch.utils.deterministic.fill_uninitialized_memory
    set_arithmetic(GPU)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("device", "training", "expected"), [(GPU, True, True), (GPU, False, False), (CPU, True, False)]
)
def test_cudnn_searches_for_training_on_a_gpu_alone(device, training, expected):
    set_arithmetic(device, training=training)
    assert torch.backends.cudnn.benchmark is expected


def test_what_cublas_has_been_told_is_kept_or_refused(monkeypatch):
    monkeypatch.setenv(WORKSPACE, ":16:8")
    set_arithmetic(GPU, deterministic=True)
    assert os.environ[WORKSPACE] == ":16:8"
    monkeypatch.setenv(WORKSPACE, ":0:0")
    set_arithmetic(GPU)
    with pytest.raises(UserError, match=r"CUBLAS_WORKSPACE_CONFIG ':0:0': --deterministic needs :4096:8 or :16:8"):
        set_arithmetic(GPU, deterministic=True)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_an_operator_without_a_deterministic_kernel_is_named():
    """resize_ of a quantised tensor is one that refuses on a CPU, too."""
    set_arithmetic(CPU, deterministic=True)
    quantised = torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)
    said = r"deterministic True: torch has no deterministic \S*quantized\S*; leave"
    with pytest.raises(UserError, match=said), refusals_in_words():
        quantised.resize_(4)
    with pytest.raises(RuntimeError, match="another"), refusals_in_words():
        raise RuntimeError("another")


@pytest.mark.parametrize(
    ("accumulate", "said"), [(1, "data.batch_size 1: .*; raise it"), (8, "data.accumulate 8: .*; lower it, or raise")]
)
def test_batch_norm_of_one_image_is_said_in_a_line(accumulate, said):
    with pytest.raises(UserError, match=said), refusals_in_words(accumulate):
        torch.nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))
    with pytest.raises(ValueError, match="another"), refusals_in_words(accumulate):
        raise ValueError("another")


@pytest.mark.parametrize(
    ("before", "after"), [((14, 14), (6, 6)), ((7, 5), (3, 9)), ((4, 6), (4, 11)), ((2, 2), (7, 1))]
)
@pytest.mark.parametrize("given", ["size", "scale"])
def test_positions_are_resampled_with_a_gradient_that_torch_has_on_a_cpu(before, after, given):
    """Of a GPU's kernel it takes the place; here, for once, of a CPU's."""
    generator = torch.Generator().manual_seed(sum(before))
    images = torch.randn(2, 3, *before, generator=generator, dtype=torch.float64, requires_grad=True)
    how = {"size": after} if given == "size" else {"scale_factor": (after[0] / before[0], after[1] / before[1])}
    gradients = []
    try:
        for device_key in (None, "CPU", None):
            _Resampling.replace(device_key)
            resampled = torch.nn.functional.interpolate(images, mode="bicubic", antialias=True, **how)
            gradients += torch.autograd.grad(resampled.sin().sum(), images)
    finally:
        _Resampling.replace(None)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-13)
    assert not torch.equal(gradients[1], gradients[0]) and torch.equal(gradients[2], gradients[0])


def test_the_gradient_is_replaced_on_a_gpu_alone():
    def whose() -> str:
        return torch._C._dispatch_dump("aten::_upsample_bicubic2d_aa_backward")

    before = whose()
    set_arithmetic(CPU, deterministic=True)
    assert whose() == before
    set_arithmetic(GPU, deterministic=True)
    assert whose() != before
    set_arithmetic(GPU)
    assert whose() == before


def test_it_starts_no_cuda():
    """The workspace must be set before; a process that trains on a CPU need not know of GPUs."""
    code = "import torch; from eyespot.pretrain.distributed.arithmetic import set_arithmetic as s;"
    code += "s(torch.device('cuda'), 'tf32', deterministic=True); assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
