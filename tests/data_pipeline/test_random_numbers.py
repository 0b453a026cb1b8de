"""The counter-based generator against its published known answers, and the independence it promises."""

import numpy as np
import pytest
from scipy.stats import kstest

from eyespot.data_pipeline.random_numbers import normals, numbers_below, philox, uniforms, words

# Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, output.
KNOWN_ANSWERS = [
    ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter, key, output):
    assert philox(np.array(counter, np.uint32)[:, None], key)[:, 0].tolist() == output


def test_a_sample_draws_the_same_numbers_wherever_it_sits():
    ids, epochs = np.array([5, 9, 70_000]), np.array([0, 3, 3])
    together = uniforms(7, epochs, ids, "mask", 10)
    alone = uniforms(7, epochs[1:2], ids[1:2], "mask", 10)
    assert (together[1] == alone[0]).all()
    assert (uniforms(7, epochs, ids, "mask", 6) == together[:, :6]).all()


@pytest.mark.parametrize(
    "other", [dict(seed=8), dict(seed=7 + 2**40), dict(epoch=4), dict(sample=10), dict(stream="crop")]
)
def test_each_coordinate_changes_the_numbers(other):
    def draw(seed=7, epoch=3, sample=9, stream="mask"):
        return uniforms(seed, np.array([epoch]), np.array([sample]), stream, 8)

    assert not (draw() == draw(**other)).any()


@pytest.mark.parametrize(("what", "number"), [("sample id", 2**32), ("sample id", -1), ("epoch", 2**32 + 5)])
def test_what_does_not_fit_into_32_bits_is_refused_and_not_wrapped(what, number):
    values = {"sample id": np.array([1, 2**32 - 1]), "epoch": np.array([0, 2**32 - 1])}
    assert len(np.unique(words(7, values["epoch"], values["sample id"], "mask", 8))) == 16
    values[what] = np.array([1, number])
    with pytest.raises(ValueError, match=f"{what} {number}: random numbers are for those from 0 to"):
        words(7, values["epoch"], values["sample id"], "mask", 8)


def test_numbers_are_uniform():
    numbers = uniforms(0, np.zeros(1000, np.int64), np.arange(1000), "x", 100).ravel()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    chi_squared = ((counts - 5000.0) ** 2 / 5000).sum()
    assert chi_squared < 43.8  # 99.9 % point of chi-squared with 19 degrees of freedom


def test_normals_are_normal_and_the_same_wherever_a_sample_sits():
    ids, epochs = np.array([5, 9, 70_000]), np.array([0, 3, 3])
    together = normals(7, epochs, ids, "noise", 9)
    assert together.shape == (3, 9) and together.dtype == np.float32
    assert (together[1] == normals(7, epochs[1:2], ids[1:2], "noise", 9)[0]).all()
    assert (normals(7, epochs, ids, "noise", 5) == together[:, :5]).all()
    many = normals(0, np.zeros(500, np.int64), np.arange(500), "x", 101).ravel()
    assert kstest(many, "norm").pvalue > 1e-3
    assert np.abs(many).max() < 4.3 and abs(many.std() - 1) < 0.01


def test_whole_numbers_below_others_are_exact_parts_of_32_bits():
    bounds = np.array([1, 2, 7, 2**31 + 11, 2**32 - 1])
    drawn = words(4, np.arange(5), np.arange(5), "clip", 1)[:, 0]
    assert numbers_below(bounds, drawn).tolist() == [
        word * bound // 2**32 for word, bound in zip(drawn.tolist(), bounds.tolist(), strict=True)
    ]
    highest = np.full(5, 2**32 - 1, np.uint32)
    assert (numbers_below(bounds, highest) == bounds - 1).all() and not numbers_below(bounds, highest * 0).any()
