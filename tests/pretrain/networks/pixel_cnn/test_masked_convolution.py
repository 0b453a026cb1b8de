"""Masked convolutions against whole ones, in float64, whose kernels have zeros where nothing may be seen."""

import pytest
import torch
import torch.nn.functional as F

from eyespot.pretrain.networks.pixel_cnn.masked_convolution import AboveConv, LeftConv

MAPS = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("first", [True, False])
def test_of_the_rows_above(kernel, first):
    convolution = AboveConv(6, 4, kernel, first=first).double()
    whole = torch.zeros(4, 6, kernel, kernel, dtype=torch.float64)
    whole[:, :, : kernel // 2 + (not first)] = convolution.weight.detach()
    expected = F.conv2d(MAPS, whole, convolution.bias, padding=kernel // 2)
    assert torch.allclose(convolution(MAPS), expected, atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("mask", ["A", "B"])
def test_of_what_is_left_and_of_earlier_colours(kernel, mask):
    """Six channels in are red, red, green, green, blue, blue; two parts of three out are red, green, blue twice."""
    convolution = LeftConv(6, 6, kernel, mask=mask, parts=2).double()
    half, own = kernel // 2, convolution.weight.detach()
    whole = torch.zeros(6, 6, 1, kernel, dtype=torch.float64)
    for out in range(6):
        for into in range(6):
            whole[out, into, 0, :half] = own[out, into, 0, :half]
            if into // 2 < out % 3 or (mask == "B" and into // 2 == out % 3):
                whole[out, into, 0, half] = own[out, into, 0, half]
    expected = F.conv2d(MAPS, whole, convolution.bias, padding=(0, half))
    assert torch.allclose(convolution(MAPS), expected, atol=1e-12)


def test_weights_that_come_in_bf16_leave_maps_in_bf16():
    """As FSDP gathers them, which leaves buffers as they are."""
    convolution = LeftConv(6, 6, 3, mask="A")
    convolution.weight.data, convolution.bias.data = convolution.weight.bfloat16(), convolution.bias.bfloat16()
    assert convolution.mask.dtype == torch.float32
    found = convolution(MAPS.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, convolution.bfloat16()(MAPS.bfloat16()))
