"""J and F against their definitions, pixel by pixel, and on masks made by hand."""

import math

import numpy as np
import pytest

from eyespot.eval.protocols.propagation.region_boundary import Agreement, agreement, boundary, outline, region, scores


def slow_outline(mask):
    """As the official evaluation's ``_seg2bmap`` says it."""
    height, width = mask.shape
    line = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            right = mask[y, x + 1] if x + 1 < width else False
            below = mask[y + 1, x] if y + 1 < height else False
            across = mask[y + 1, x + 1] if x + 1 < width and y + 1 < height else False
            if (y, x) == (height - 1, width - 1):
                continue
            if y == height - 1:
                line[y, x] = mask[y, x] != right
            elif x == width - 1:
                line[y, x] = mask[y, x] != below
            else:
                line[y, x] = mask[y, x] != right or mask[y, x] != below or mask[y, x] != across
    return line


def slow_boundary(answer, true):
    """Each pixel of a line looks at every pixel of the other one."""
    bound = math.ceil(0.008 * math.hypot(*true.shape))
    lines = [np.argwhere(slow_outline(mask)).tolist() for mask in (answer, true)]
    if not lines[0] or not lines[1]:
        return float(len(lines[0]) == len(lines[1]))
    shares = [
        sum(any((y - v) ** 2 + (x - w) ** 2 <= bound**2 for v, w in other) for y, x in own) / len(own)
        for own, other in (lines, lines[::-1])
    ]
    return 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0


def blob(seed, shape=(60, 80)):
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    centre, radii = generator.uniform(0.2, 0.8, 2) * shape, generator.uniform(0.1, 0.4, 2) * shape
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1


@pytest.mark.parametrize("shape", [(60, 80), (150, 120)])  # bounds of 1 and 2 pixels
def test_f_is_the_definition(shape):
    for seed in range(6):
        answer, true = blob(seed, shape), blob(seed, shape)
        answer = np.roll(answer, seed, axis=1) ^ (np.random.default_rng(seed).random(shape) < 0.001 * seed)
        assert np.array_equal(outline(answer), slow_outline(answer))
        assert boundary(answer, true) == pytest.approx(slow_boundary(answer, true), abs=1e-12)
    assert boundary(blob(1, shape), blob(2, shape)) == pytest.approx(slow_boundary(blob(1, shape), blob(2, shape)))


def test_squares_made_by_hand():
    """A square of 20, moved by 5: they share 15 of 25 columns. Of its outline of 80 pixels the parts that lie along the
    way and within a pixel of the other's sides are right."""
    answer, true = np.zeros((60, 80), bool), np.zeros((60, 80), bool)
    true[20:40, 20:40], answer[20:40, 25:45] = True, True
    assert region(answer, true) == 15 * 20 / (25 * 20)
    assert boundary(answer, true) == pytest.approx(slow_boundary(answer, true))
    assert 0.3 < boundary(answer, true) < 0.6
    assert region(true, true) == boundary(true, true) == 1
    nothing = np.zeros_like(true)
    assert region(nothing, nothing) == boundary(nothing, nothing) == 1
    assert region(true, nothing) == boundary(true, nothing) == boundary(nothing, true) == 0
    assert boundary(np.roll(true, 1, axis=0), true) == 1  # within the bound


def test_objects_and_what_is_ignored():
    mask = np.zeros((40, 40), np.uint8)
    mask[5:15, 5:15], mask[20:30, 20:30], mask[30:, :10] = 1, 2, 255
    wrong = mask.copy()
    wrong[wrong == 255] = 1  # where nothing is known nothing is wrong
    empty = np.zeros_like(mask)
    found = agreement([wrong, empty], [mask, mask], [1, 2], 255)
    assert found == Agreement(regions=[0.5, 0.5], boundaries=[0.5, 0.5]) and found.both == 0.5


def test_scores_count_objects_and_resample_videos():
    videos = [Agreement(regions=[0.8], boundaries=[0.6]), Agreement(regions=[0.2, 0.4], boundaries=[0.1, 0.2])]
    found = scores(videos)
    assert found["J"].value == pytest.approx(1.4 / 3) and found["F"].value == pytest.approx(0.9 / 3)
    assert found["J&F"].value == pytest.approx((1.4 + 0.9) / 6)
    assert found["J&F"].interval == pytest.approx((0.225, 0.7))  # both draws the same video
    assert found["video J&F"].values == [0.7, 0.225] and found["video J&F"].value == pytest.approx(0.4625)
    many = scores([Agreement(regions=[value], boundaries=[value]) for value in np.linspace(0.3, 0.7, 30)])["J&F"]
    error = np.std(np.linspace(0.3, 0.7, 30)) / 30**0.5
    assert many.interval is not None
    assert many.interval == pytest.approx((0.5 - 1.96 * error, 0.5 + 1.96 * error), abs=0.01)
