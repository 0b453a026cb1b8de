"""Two lists of places compared by sorting say what two dicts say."""

import numpy as np
import pytest

from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE
from eyespot.data_pipeline.shards.paged.listed_places import PLACE_DTYPE, as_places, compare


def by_dicts(listed: np.ndarray, there: np.ndarray) -> tuple[set, set, int]:
    """Places that are wrong, places that are absent, how many rows are twice."""
    told = {(tar, offset): (size, label) for tar, offset, size, label in listed.tolist()}
    actual = {(tar, offset): (size, label) for tar, offset, size, label in there.tolist()}
    wrong = {place for place, what in told.items() if actual.get(place) != what}
    return wrong, {place for place in actual if place not in told}, len(listed) - len(told)


@pytest.mark.parametrize("case", range(40))
def test_they_are_compared_as_by_dicts(case):
    draw = np.random.default_rng(case)
    there = np.unique(np.array([*zip(*draw.integers(0, 6, (2, 30)), strict=True)]), axis=0)
    there = as_places((int(tar), int(offset) * 512, 7, 1) for tar, offset in draw.permutation(there))
    listed = draw.permutation(there)[: draw.integers(0, len(there) + 1)].copy()
    for column, most in (("size", 9), ("label", 3), ("offset", 4000), ("tar", 9)):
        some = draw.random(len(listed)) < 0.1
        listed[column][some] = draw.integers(0, most, some.sum())
    listed = np.concatenate([listed, listed[: draw.integers(0, 4)]])
    found = compare(listed, there)
    wrong, absent, twice = by_dicts(listed, there)
    assert {*map(tuple, listed[found.wrong][["tar", "offset"]].tolist())} == wrong and len(found.wrong) == len(wrong)
    assert [*map(tuple, there[found.absent][["tar", "offset"]].tolist())] == [
        place for place in map(tuple, there[["tar", "offset"]].tolist()) if place in absent
    ]
    assert found.num_twice == twice
    assert found.is_listed.tolist() == [place not in absent for place in there[["tar", "offset"]].tolist()]


def test_there_may_be_nothing():
    none = as_places(iter(()))
    found = compare(none, none)
    assert none.dtype == PLACE_DTYPE and [len(each) for each in (*found[:2], found.is_listed)] == [0, 0, 0]
    assert found.num_twice == 0


def test_offsets_beyond_32_bits_and_rows_of_an_index():
    rows = np.zeros(2, INDEX_DTYPE)
    rows["offset"], rows["tar"], rows["label"] = [2**40, 2**40 + 512], 7, -1
    found = compare(as_places(rows), as_places([(7, 2**40, 0, -1), (7, 2**40 + 512, 0, -1)]))
    assert not len(found.wrong) and not len(found.absent)
