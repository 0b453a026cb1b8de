"""Columns hold what lists of Python hold."""

import pickle

import numpy as np
import pytest

from eyespot.data_pipeline.shards.members.packed_columns import BLOCK, TOGETHER, Names, Numbers, Texts, alike

COLUMNS = {
    "constant": lambda rng, count: [7] * count,
    "of one byte": lambda rng, count: rng.integers(-100, 100, count).tolist(),
    "rising": lambda rng, count: (np.arange(count) * 100_512).tolist(),
    "of all 64 bits": lambda rng, count: rng.integers(-(2**63), 2**63 - 1, count, endpoint=True).tolist(),
    "the two ends": lambda rng, count: [-(2**63), 2**63 - 1] * (count // 2),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_numbers(name: str):
    rng = np.random.default_rng(0)
    values = COLUMNS[name](rng, 2 * BLOCK + 10)
    one_by_one, at_once = Numbers.of(values), Numbers.of(values[:5])
    at_once.extend(np.array(values[5:]))
    for numbers in (one_by_one, at_once, pickle.loads(pickle.dumps(at_once))):
        assert len(numbers) == len(values) and list(numbers) == values
        assert [int(one) for block in numbers.blocks() for one in block] == values
        assert [numbers[row] for row in (BLOCK, 0, BLOCK - 1)] == [values[row] for row in (BLOCK, 0, BLOCK - 1)]
    for row in (-1, len(values)):
        with pytest.raises(IndexError):
            one_by_one[row]


def test_names():
    rng = np.random.default_rng(0)
    values = [rng.bytes(int(rng.integers(0, 40))) for _ in range(3 * TOGETHER + 5)]
    values[TOGETHER], values[5], values[6] = b"", b"\0\n", b"x" * 70_000
    names = Names()
    for value in values:
        names.append(value)
    assert list(names) == values and names[3:9] == values[3:9]
    order = rng.permutation(len(values)).tolist()
    assert [names[row] for row in order] == [values[row] for row in order]
    for row in (-1, len(values)):
        with pytest.raises(IndexError):
            names[row]


def test_texts_of_two_columns_are_one():
    ours, theirs = [None, "", "a", "b", "a"], ["c", None, "b"] * BLOCK
    texts = Texts.of(ours)
    texts.join(Texts.of(theirs))
    texts.append("a")
    assert list(texts) == [*ours, *theirs, "a"] and set(texts.known) == {None, "", "a", "b", "c"}


def test_a_million_numbers_that_differ_by_little_take_a_byte_each():
    numbers = Numbers.of(2**40 + number % 200 for number in range(20 * BLOCK))
    assert len(pickle.dumps(numbers)) < 1.1 * len(numbers)


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_rows_alike(count: int):
    numbers = (np.random.default_rng(count).integers(-3, 3, count) * 2**60).tolist()
    expected: dict[int, list[int]] = {}
    for row, number in enumerate(numbers):
        expected.setdefault(number, []).append(row)
    assert list(alike(numbers)) == list(expected.values())
