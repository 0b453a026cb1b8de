"""Key points against slow references, and of generated videos where it is known how they move."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from eyespot.eval.encoders.subject import subjects_of
from eyespot.eval.protocols.propagation.carried_points import (
    ALPHAS,
    Arrivals,
    arrivals,
    carried_points,
    heat_maps,
    scores,
    strongest,
)
from eyespot.eval.protocols.propagation.carriers import Carrier, carriers_of
from eyespot.eval.protocols.propagation.key_points import PointedVideo

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def carriers() -> dict[str, Carrier]:
    found = carriers_of(subjects_of("test_resnet", seed=0, pretrained=False), 96, CPU)
    return {carrier.subject.tag: carrier for carrier in found}


def moving(speed: int = 8, count: int = 6) -> PointedVideo:
    """Noise in which every block has its own colour; all goes to the right, and what leaves comes back at the left."""
    blocks = np.random.default_rng(0).integers(0, 255, (12, 12, 3))
    seen = np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)
    frames = [np.roll(seen, speed * frame, axis=1) for frame in range(count)]
    first = np.array([[12.0, 20.0], [44.0, 52.0], [28.0, 76.0], [50.0, 12.0]])
    points = first + np.array([[[speed * frame, 0]] for frame in range(count)])
    return PointedVideo(sample=0, frames=frames, points=points)


def keen(rgb: torch.Tensor) -> torch.Tensor:
    """Features that are alike of equal colours only."""
    turns = 40 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    return torch.einsum("dc,nchw->ndhw", turns, torch.nn.functional.avg_pool2d(rgb, 8)).cos()


def test_points_that_move_with_their_colours_arrive(carriers):
    video, unmoved = moving(), carriers["unmoved-96px"]
    found = carried_points(replace(unmoved, maps=keen), video, CPU)
    still = carried_points(unmoved, video, CPU)
    assert np.array_equal(found[0], video.points[0]) and np.array_equal(still, video.points[:1].repeat(6, axis=0))
    assert np.linalg.norm(found - video.points, axis=2).max() < 2.5
    assert (arrivals(found, video).right == 5).all()
    body = 0.6 * math.hypot(38, 64)
    reached = [sum(8 * frame <= alpha * body for frame in range(1, 6)) for alpha in ALPHAS]
    assert arrivals(still, video).right.mean(1).tolist() == reached == [0, 1]


def test_points_that_the_first_frame_does_not_show_are_not_carried(carriers):
    video = moving()
    video.points[0, 1], video.points[3, 2], video.points[0, 3] = np.nan, np.nan, (97, 3)
    found = carried_points(carriers["colors-8x8-96px"], video, CPU)
    assert np.isnan(found[:, [1, 3]]).all() and np.isfinite(found[:, [0, 2]]).all()
    assert arrivals(found, video).asked.tolist() == [5, 0, 4, 0]


def test_a_heat_map_is_a_gaussian_around_its_point():
    points, (height, width), (rows, columns) = np.array([[10.0, 7.0], [31.9, 0.1]]), (24, 32), (6, 8)
    maps = heat_maps(points, (height, width), (rows, columns))
    for map_, (x, y) in zip(maps, points, strict=True):
        for row in range(rows):
            for column in range(columns):
                square = (x / 4 - column - 0.5) ** 2 + (y / 4 - row - 0.5) ** 2
                assert map_[row, column] == pytest.approx(math.exp(-2 * square), abs=1e-6)
    centres = np.array([[22.0, 10.0], [2.0, 22.0]])
    assert np.allclose(
        strongest(heat_maps(centres, (height, width), (rows, columns)), (height, width)), centres, atol=0.5
    )


def test_the_strongest_places_are_weighted_by_their_shares():
    maps = torch.zeros(2, 3, 4)
    maps[0, 1, 2], maps[0, 1, 3], maps[0, 2, 2], maps[0, 0, 0] = 0.5, 0.25, 0.25, 0.2
    (x, y), lost = strongest(maps, (30, 80))
    assert (x, y) == pytest.approx((0.75 * 50 + 0.25 * 70, 0.75 * 15 + 0.25 * 25)) and np.isnan(lost).all()


def test_arrivals_point_by_point():
    generator = np.random.default_rng(1)
    true, answers = generator.uniform(0, 40, (7, 5, 2)), generator.uniform(0, 40, (7, 5, 2))
    answers = true + (answers - true) * 0.3
    true[2, 1], true[0, 4], answers[4, 3] = np.nan, np.nan, np.nan
    answers[:, 4] = np.nan
    video = PointedVideo(sample=0, frames=[np.zeros((40, 40, 3), np.uint8)] * 7, points=true)
    found = arrivals(answers, video)
    asked, right = np.zeros(5), np.zeros((2, 5))
    for frame in range(1, 7):
        known = [point for point in true[frame] if not np.isnan(point[0])]
        x, y = zip(*known, strict=True)
        body = 0.6 * math.hypot(max(x) - min(x), max(y) - min(y))
        for point in range(4):
            if not np.isnan(true[frame, point, 0]):
                asked[point] += 1
                for place, alpha in enumerate(ALPHAS):
                    right[place, point] += math.dist(answers[frame, point], true[frame, point]) <= alpha * body
    assert np.array_equal(found.asked, asked) and np.array_equal(found.right, right)
    assert 0 < right[0].sum() < right[1].sum() < asked.sum()


def test_scores_are_means_over_points_and_their_intervals_over_videos():
    one = Arrivals(asked=np.array([4.0, 0.0, 2.0]), right=np.array([[1.0, 0, 2], [2, 0, 2]]))
    two = Arrivals(asked=np.array([2.0, 2.0]), right=np.array([[2.0, 1], [2, 1]]))
    found = scores([one, two])
    assert list(found) == ["PCK@0.1", "PCK@0.2", "video PCK@0.1"]
    assert found["PCK@0.1"].value == pytest.approx((3 / 6 + 1 / 2 + 2 / 2) / 3)
    assert found["PCK@0.2"].value == pytest.approx((4 / 6 + 1 / 2 + 2 / 2) / 3)
    assert found["video PCK@0.1"].values == pytest.approx([(1 / 4 + 1) / 2, (1 + 1 / 2) / 2])
    low, high = found["PCK@0.1"].interval
    assert low == pytest.approx(0.625) and high == pytest.approx(0.75)
    alone = scores([two])["PCK@0.2"]
    assert alone.interval == (alone.value, alone.value) == (0.75, 0.75)
