"""The member of a tar that holds an image of bands."""

import numpy as np
import pytest
from banded import npy, scene

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.bands.stored_bands import Bands, bands_size, decode_bands, encode_bands


@pytest.mark.parametrize("bits", [8, 16])
def test_values_come_back_and_lie_in_the_files_memory(bits: int):
    bands = Bands(count=6, bits=bits)
    pixels = scene(0).astype(bands.dtype)
    file = bytearray(encode_bands(pixels))
    found = decode_bands(file, bands)
    assert np.array_equal(found, pixels) and found.dtype == bands.dtype
    assert np.shares_memory(found, np.frombuffer(file, np.uint8))
    assert bands_size(file) == (40, 44)


def test_byte_order_is_the_machines_no_more():
    assert encode_bands(scene(0).astype(">u2")) == encode_bands(scene(0))


@pytest.mark.parametrize(
    "file",
    [
        npy(scene(0).astype(">u2")),
        npy(np.asfortranarray(scene(0))),
        npy(scene(0)[0]),
        npy(scene(0)[..., :5]),
        npy(scene(0).astype(np.uint8)),
        npy(np.array([[[None]]], object)),
        encode_bands(scene(0))[:-1],
        encode_bands(scene(0)) + b"\0",
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65_535,
        b"\x93NUMPY",
        b"",
    ],
    ids=[*("big-endian", "columns", "flat", "five", "8-bit", "objects", "cut", "longer", "nested", "begun", "empty")],
)
def test_what_is_no_such_member_is_refused(file: bytes):
    with pytest.raises(ValueError, match=r"\w"):
        decode_bands(file, Bands(count=6))


def test_bands_are_counted_within_bounds():
    with pytest.raises(UserError, match=r"^bands.count 0: must lie between 1 and 512"):
        Bands(count=0)
