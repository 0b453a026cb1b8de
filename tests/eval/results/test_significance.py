import numpy as np
import pytest

from eyespot.eval.results.significance import wilson


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(correct, total, low, high):
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_symmetric_and_inside_0_1():
    low, high = wilson(29, 29)
    assert high == 1.0 and low == pytest.approx(1 - wilson(0, 29)[1])


def test_covers_the_true_proportion_as_often_as_it_says():
    draws = np.random.default_rng(0).binomial(200, 0.9, size=4000)
    covered = np.mean([low <= 0.9 <= high for low, high in (wilson(int(k), 200) for k in draws)])
    assert 0.93 < covered < 0.97


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="0 of 0"):
        wilson(0, 0)
