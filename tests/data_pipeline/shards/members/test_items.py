"""What is held out and in which order items come: by class, seeded, complete."""

import numpy as np

from eyespot.data_pipeline.shards.members.items import Item, hold_out, shuffled


def items_of(counts: dict[int, int]) -> list[Item]:
    return [Item(f"{label}/{number}", label, "", 0, 0) for label, count in counts.items() for number in range(count)]


def test_holdout_is_stratified_seeded_and_complete():
    items = items_of({0: 100, 1: 10, 2: 2, 3: 1, -1: 20})
    train, test = hold_out(items, 0.2, seed=1)
    assert sorted(train + test) == sorted(items)
    assert {label: sum(item.label == label for item in test) for label in range(-1, 4)} == {
        -1: 4,
        0: 20,
        1: 2,
        2: 1,
        3: 0,
    }
    assert (train, test) == hold_out(items, 0.2, seed=1)
    assert test != hold_out(items, 0.2, seed=2)[1]


def test_shuffled_is_a_permutation_of_its_own():
    first = shuffled(1000, 0, "a")
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert not np.array_equal(first, shuffled(1000, 1, "a")) and not np.array_equal(first, shuffled(1000, 0, "b"))
    assert shuffled(8, 0, "a").tolist() == [4, 6, 5, 1, 0, 3, 2, 7]  # shards packed today must come out alike for ever
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.1
