"""Which views the kernels can make, and what they are told of them."""

import numpy as np
import pytest

from eyespot.data_pipeline.augment.color import gaussian_weights
from eyespot.data_pipeline.augment.pipeline import BLUR, NOTHING, OPERATIONS, SOLARIZE, Alteration, view_alteration
from eyespot.data_pipeline.augment.rand_augment import rotate
from eyespot.data_pipeline.augment.random_erasing import erasing_noise
from eyespot.data_pipeline.augment.view_tables import CONTRAST, HUE, NUM_COLOR_ARRAYS, view_tables
from eyespot.data_pipeline.augment.views import RandomView

ROTATE = OPERATIONS.index(rotate)
STRONG = RandomView(size=224, jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, blur=0.5, solarize=0.2)


def drawn(view: RandomView, count: int = 40) -> Alteration | None:
    return view_alteration(view, "view0", 0, np.zeros(count, np.int64), np.arange(count))


def altered(*rows: list[int]) -> Alteration:
    steps = np.array(rows, np.int8)
    return Alteration(steps=steps, amounts=np.ones(steps.shape, np.float32))


def test_tables_say_what_the_alteration_says():
    alteration = drawn(STRONG)
    tables = view_tables(alteration, 40, 224)
    assert alteration is not None and tables is not None
    ends, noise, steps, amounts, totals, gray_rows, gray_ends, sharp, blurred, radii, weights = tables.arrays
    assert not len(ends) and not len(noise)
    assert (steps == alteration.steps).all() and not totals.any()
    assert (amounts == np.where(steps == HUE, 6 * alteration.amounts, alteration.amounts)).all()
    assert (steps[gray_rows, gray_ends] == CONTRAST).all() and len(gray_rows) == (steps == CONTRAST).sum()
    assert sorted([*sharp, *blurred]) == list(range(40)) and 10 < len(blurred) < 30
    assert tables.blur == 5 and (steps[blurred, 5] == BLUR).all()
    for row, radius, own in zip(blurred, radii, weights, strict=True):
        (expected,) = gaussian_weights(alteration.amounts[row : row + 1, 5], 11).astype(np.float32)
        assert np.array_equal(own[: radius + 1], expected[: radius + 1])
        assert own[radius] > 0 and not own[radius + 1 :].any() and not expected[radius + 1 :].any()
    assert {array.dtype.itemsize for array in tables.arrays} == {4}


def test_a_view_that_is_not_altered_is_sharp():
    tables = view_tables(None, 3, 32)
    assert tables is not None and tables.sharp_rows.tolist() == [0, 1, 2] and tables.steps.shape == (3, 0)


@pytest.mark.parametrize(
    ("alteration", "size"),
    [
        (altered([NOTHING, NOTHING, CONTRAST, CONTRAST]), 64),
        (altered([BLUR, CONTRAST]), 64),
        (altered([BLUR, NOTHING], [NOTHING, BLUR]), 64),
        (altered([NOTHING, NOTHING, ROTATE]), 64),
        (None, 4096),
    ],
    ids=["contrast twice later", "contrast after blur", "blurs at two places", "rotated later", "huge"],
)
def test_what_the_kernels_cannot_do_is_left_to_torch(alteration, size):
    count = 40 if alteration is None else len(alteration.steps)
    assert view_tables(alteration, count, size) is None


def test_what_they_can_do_is_not():
    assert view_tables(altered([CONTRAST, BLUR, SOLARIZE], [SOLARIZE, BLUR, NOTHING]), 2, 64) is not None


def test_rand_augments_steps_come_first_and_have_tables_of_their_own():
    view = RandomView(size=64, jitter=(0.4, 0.4, 0.4, 0.1), rand_augment=9.0, rand_augment_std=0.0)
    alteration = drawn(view)
    tables = view_tables(alteration, 40, 64)
    assert alteration is not None and tables is not None and tables.augment is not None
    assert (tables.augment.steps == alteration.steps[:, :2]).all() and (tables.steps == alteration.steps[:, 2:]).all()
    assert len(tables.arrays) == NUM_COLOR_ARRAYS + len(tables.augment.arrays)
    for steps in (tables.steps, tables.augment.steps):
        assert steps.flags.c_contiguous, "kernels count on it"


def test_a_batch_without_its_own_operations_needs_no_kernels_of_rand_augment():
    tables = view_tables(altered([CONTRAST, SOLARIZE], [SOLARIZE, NOTHING]), 2, 64)
    assert tables is not None and tables.augment is None
    twice = view_tables(altered([CONTRAST, CONTRAST]), 1, 64)
    assert twice is not None and twice.augment is not None


def test_what_is_erased_and_who_is_mirrored():
    alteration = drawn(RandomView(size=64, jitter=(0.4, 0.4, 0.4, 0.1), erase=0.5))
    assert alteration is not None and alteration.erasing is not None
    erasing = alteration.erasing
    mirrored = np.arange(40) % 3 == 0
    tables = view_tables(alteration, 40, 64, mirrored)
    assert tables is not None and tables.kernels[-1]
    assert (tables.ends[:, :4] == erasing.boxes).all() and (tables.ends[:, 5] == mirrored).all()
    erased = np.flatnonzero(erasing.boxes[:, 2])
    assert 10 < len(erased) < 30 and tables.ends[erased, 4].tolist() == list(range(len(erased)))
    assert np.array_equal(tables.noise, erasing_noise(erasing))
    same, nobody = view_tables(alteration, 40, 64), view_tables(altered([SOLARIZE]), 1, 64, np.zeros(1, bool))
    assert same is not None and not same.ends[:, 5].any()
    assert nobody is not None and not len(nobody.ends)
    turned = view_tables(None, 2, 64, np.array([True, False]))
    assert turned is not None and turned.ends.tolist() == [[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]]
