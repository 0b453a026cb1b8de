"""Which views the kernels can make, and what they are told of them."""

import numpy as np
import pytest

from eyespot.data_pipeline.augment.color import gaussian_weights
from eyespot.data_pipeline.augment.pipeline import BLUR, NOTHING, SOLARIZE, Alteration, view_alteration
from eyespot.data_pipeline.augment.view_tables import CONTRAST, HUE, view_tables
from eyespot.data_pipeline.augment.views import RandomView

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
    steps, amounts, totals, gray_rows, gray_ends, sharp, blurred, radii, weights = tables.arrays
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
        (drawn(RandomView(size=64, rand_augment=9.0)), 64),
        (drawn(RandomView(size=64, jitter=(0.4, 0.4, 0.4, 0.1), erase=0.25)), 64),
        (altered([CONTRAST, CONTRAST]), 64),
        (altered([BLUR, CONTRAST]), 64),
        (altered([BLUR, NOTHING], [NOTHING, BLUR]), 64),
        (None, 4096),
    ],
    ids=["rand augment", "erased", "contrast twice", "contrast after blur", "blurs at two places", "huge"],
)
def test_what_the_kernels_cannot_do_is_left_to_torch(alteration, size):
    count = 40 if alteration is None else len(alteration.steps)
    assert view_tables(alteration, count, size) is None


def test_what_they_can_do_is_not():
    assert view_tables(altered([CONTRAST, BLUR, SOLARIZE], [SOLARIZE, BLUR, NOTHING]), 2, 64) is not None
