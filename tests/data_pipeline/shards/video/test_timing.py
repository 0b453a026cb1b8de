from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from eyespot.data_pipeline.shards.video.timing import parts, rate, resampled


def clock(times, fps, slack=0.0, last=0.1):
    edges = [Fraction(time).limit_denominator(1000) for time in [*times, times[-1] + last]]
    frames = [(begin, end, number) for number, (begin, end) in enumerate(pairwise(edges))]
    seen = list(resampled(frames, Fraction(fps), Fraction(slack).limit_denominator(1000)))
    return [number for _, number, repeats in seen for _ in range(repeats)], seen


@pytest.mark.parametrize("fps", [1, 3, 7.5, 8, 24, 60])
def test_each_tick_shows_the_last_frame_that_had_begun(fps):
    draws = np.random.default_rng(int(fps * 2))
    times = np.cumsum(np.concatenate([[1.5], draws.integers(1, 400, 30) / 1000])).round(3).tolist()
    shown, seen = clock(times, fps)
    end, expected = times[-1] + 0.1, []
    while (tick := times[0] + len(expected) / fps) < end - 1e-9:
        expected.append(max(number for number, time in enumerate(times) if time <= tick + 1e-9))
    assert shown == expected and [number for _, number, _ in seen] == list(range(31))


def test_what_containers_round_makes_no_frame_come_twice():
    times = [round(number / 24, 3) for number in range(48)]  # Matroska's milliseconds
    assert clock(times, 24, slack=0.001, last=0.042)[0] == list(range(48))


def test_a_single_frame_is_seen_once_and_none_not_at_all():
    assert clock([3.0], 8, last=0.0)[0] == [0]
    assert list(resampled([], Fraction(8), Fraction(0))) == []


def test_long_videos_become_parts_of_about_one_length():
    times = [number / 10 for number in range(125)]
    found = parts(times, 12.5, 5.0)
    assert [part.count for part in found] == [41, 42, 42]
    assert [part.first for part in found] == [0, 41, 83] and found[0].start == 0 and found[-1].end == 12.5
    assert [part.count for part in parts(times, 12.5, 12.5)] == [125] and len(parts(times, 12.5, None)) == 1
    assert all(part.count == 1 for part in parts(times, 12.5, 0.01))


def test_parts_of_uneven_times_are_not_longer_than_asked_for():
    times = [0.0, 0.1, 0.2, 0.3, 5.0, 9.0, 9.1, 9.2]
    found = parts(times, 9.3, 4.0)
    assert sum(part.count for part in found) == 8 and all(part.end - part.start <= 4.7 for part in found)


def test_the_rate_is_the_mean_and_says_whether_it_holds():
    assert rate([number / 25 for number in range(50)], 2.0) == (pytest.approx(25), False)
    assert rate([round(number / 24, 3) for number in range(50)], 2.1) == (pytest.approx(24, rel=1e-3), False)
    mean, variable = rate([0.0, 0.1, 0.2, 0.3, 1.0, 2.0], 2.1)
    assert variable and mean == pytest.approx(2.5)
    assert rate([1.0], 1.5) == (2.0, False) and rate([1.0], 1.0) == (0.0, False)
