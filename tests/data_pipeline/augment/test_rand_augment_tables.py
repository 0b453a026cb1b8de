"""Which launches RandAugment's steps take, and what the kernels are told of each."""

import numpy as np

from eyespot.data_pipeline.augment.color import brightness, contrast, hue
from eyespot.data_pipeline.augment.pipeline import NOTHING, OPERATIONS
from eyespot.data_pipeline.augment.rand_augment import (
    CHOICES,
    equalize,
    invert,
    posterize,
    rotate,
    sharpness,
    shear_x,
    translate_y,
)
from eyespot.data_pipeline.augment.rand_augment_tables import (
    NUM_MEASURES,
    AugmentTables,
    augment_tables,
    proving_steps,
)

SIZE = 32


def tables_of(*rows: list, amount: float = 0.25) -> AugmentTables | None:
    steps = np.array([[OPERATIONS.index(step) if step else NOTHING for step in row] for row in rows], np.int32)
    return augment_tables(steps, np.full(steps.shape, amount, np.float32), SIZE)


def jobs_of(tables: AugmentTables) -> list[tuple[str, list[list[int]]]]:
    return [(kind, tables.jobs[own].tolist()) for kind, own in tables.launches]


def test_what_changes_each_pixel_by_itself_takes_one_launch():
    tables = tables_of([invert, posterize], [None, rotate], [sharpness, brightness], [invert, shear_x])
    assert tables is not None and (tables.num_measured, tables.num_kept) == (0, 0)
    assert jobs_of(tables) == [("finish", [[0, 0, -1, 2, 0], [1, 0, 1, 2, 0], [2, 0, 0, 2, 0], [3, 0, 1, 2, 0]])]


def test_who_is_measured_or_moved_twice_takes_more():
    tables = tables_of([equalize, contrast], [rotate, equalize], [rotate, shear_x], [invert, None], [sharpness, rotate])
    assert tables is not None and (tables.num_measured, tables.num_kept) == (3, 2)
    measure, again, keep, finish = jobs_of(tables)
    assert measure == ("measure", [[0, 0, -1, 0, 0]])
    assert again == ("measure", [[0, 0, -1, 1, 0], [1, 0, 0, 1, 0]])
    assert keep == ("keep", [[2, 0, 0, 1, 0], [4, 0, 0, 1, 1]])
    assert finish[1][2] == [2, 1, 1, 2, 0] and finish[1][4] == [4, 1, 1, 2, 1], "from memory, and from there on"
    assert tables.places[0].tolist() == [0, NUM_MEASURES] and tables.places[1, 1] == 2 * NUM_MEASURES


def test_numbers_of_moves_are_the_operations_own():
    tables = tables_of([shear_x, rotate], [translate_y, posterize], [None, shear_x], amount=3.0)
    assert tables is not None
    amount = np.array([3.0], np.float32)
    for row, column, operation in ((0, 0, shear_x), (0, 1, rotate), (1, 0, translate_y), (2, 1, shear_x)):
        expected = operation.numbers(amount, SIZE).ravel()
        place = tables.places[row, column]
        assert np.array_equal(tables.given[place : place + len(expected)], expected)
    assert tables.amounts[1, 1] == 2 ** (8 - 3) and len(tables.given) == 3 * 6 * SIZE + 2


def test_what_it_does_not_know_or_would_have_to_keep_twice_is_refused():
    assert tables_of([hue, invert]) is None
    assert tables_of([rotate, rotate, rotate]) is None
    assert tables_of([rotate, invert, rotate]) is not None


def test_the_kernels_are_proven_by_every_operation_and_every_launch():
    steps, amounts = proving_steps()
    assert set(steps[:, 0]) == {OPERATIONS.index(operation) for operation, _ in CHOICES}
    assert (steps[: len(CHOICES), 1] == NOTHING).all()
    tables = augment_tables(steps, amounts, SIZE)
    assert tables is not None
    assert [kind for kind, _ in tables.launches] == ["measure", "measure", "keep", "finish"]
