"""The depth probe against loops over patches and pixels and a ridge regression solved as it is written."""

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.protocols import linear
from eyespot.eval.protocols.dense import DensePart, DenseTask
from eyespot.eval.protocols.depth.depth_probe import (
    IMAGES,
    NAMES,
    Patches,
    Ridge,
    errors,
    judged,
    linear_candidates,
    measures,
    patch_sums,
)

GRID, SIDE, WIDTH = 3, 4, 5
SIZE = GRID * SIDE


def make_part(count: int, *, seed: int = 0, noise: float = 0.1) -> DensePart:
    """Depth is a linear function of the patch's token, nearly; a tenth of the pixels was not measured."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, GRID**2, WIDTH, generator=generator)
    depth = 900 + 100 * tokens @ torch.tensor([1.0, -0.5, 0.2, 0.0, 0.0])
    maps = depth.view(count, GRID, GRID).repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2)
    maps = maps * (1 + noise * torch.rand(maps.shape, generator=generator))
    maps[torch.rand(maps.shape, generator=generator) < 0.1] = 0
    maps[0, :SIDE, :SIDE] = 0  # nothing in the first patch of the first image
    return DensePart(tokens=tokens.flatten(1).numpy(), rows=np.arange(count), maps=maps.clamp(min=0), grid=GRID)


def make_task(**changes) -> DenseTask:
    return DenseTask(train=make_part(40, **changes), test=make_part(12, seed=1, **changes), num_classes=0, seed=0)


def test_what_is_learned_from_are_the_means_of_measured_pixels():
    part = make_part(4)
    found, expected = Patches.of(part, seed=0), []
    for image in range(4):
        for patch in range(GRID**2):
            top, left = patch // GRID * SIDE, patch % GRID * SIDE
            pixels = [
                float(part.maps[image, row, column])
                for row in range(top, top + SIDE)
                for column in range(left, left + SIDE)
            ]
            if measured := [pixel for pixel in pixels if pixel > 0]:
                expected.append((sum(measured) / len(measured), len(measured), image, patch))
    assert len(expected) == 4 * GRID**2 - 1
    assert found.depths.tolist() == pytest.approx([row[0] for row in expected], rel=1e-6)
    assert found.weights.tolist() == [row[1] for row in expected]
    tokens = torch.from_numpy(part.tokens).view(4, GRID**2, WIDTH)
    assert torch.equal(found.tokens, torch.stack([tokens[image, patch] for *_, image, patch in expected]))


def test_patches_need_not_divide_the_view():
    maps = torch.ones(1, 7, 7)
    sums, counts = patch_sums(maps, 3)
    assert torch.equal(sums, counts) and counts.sum() == 49 and counts.min() == 4


@pytest.mark.parametrize("penalty", [10.0, 1e-3])
def test_the_answer_is_that_of_the_ridge_regression_as_it_is_written(penalty):
    patches = Patches.of(make_part(20), seed=0)
    ridge = Ridge(patches, linear.Axes.of(patches.tokens))
    x, w = patches.tokens.double(), patches.weights / patches.weights.sum()
    x = (x - x.mean(0)) / x.std(0, unbiased=False)
    with_bias = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    left = with_bias.T @ (w[:, None] * with_bias) + penalty * torch.diag(torch.tensor([1.0] * WIDTH + [0.0]).double())
    solution = torch.linalg.solve(left, with_bias.T @ (w * patches.depths))
    found = ridge(patches.tokens[None], penalty)[0]
    assert torch.allclose(found, with_bias @ solution, rtol=1e-9)


def test_errors_equal_a_loop_over_pixels():
    generator = torch.Generator().manual_seed(0)
    depths = 1 + torch.rand(3, 5, 5, generator=generator, dtype=torch.float64)
    depths[depths < 1.1] = 0
    depths[2] = 0
    answers = 1 + torch.rand(3, 5, 5, generator=generator, dtype=torch.float64)
    found = measures(errors(answers, depths).sum(0).numpy())
    pairs = [(a, d) for a, d in zip(answers.flatten().tolist(), depths.flatten().tolist(), strict=True) if d > 0]
    shares = [sum(max(a / d, d / a) < 1.25**k for a, d in pairs) / len(pairs) for k in (1, 2, 3)]
    relative = sum(abs(a - d) / d for a, d in pairs) / len(pairs)
    rmse = (sum((a - d) ** 2 for a, d in pairs) / len(pairs)) ** 0.5
    assert found.tolist() == pytest.approx([*shares, relative, rmse], rel=1e-12)


def test_it_finds_depth_in_tokens_that_know_it_and_the_mean_in_those_that_do_not():
    (knows,) = linear_candidates(make_task())
    blind = make_task()
    for part in (blind.train, blind.test, blind.fit, blind.held):
        part.tokens = np.zeros((len(part.tokens), GRID**2), np.float32)
    (guess,) = linear_candidates(blind)
    rmse = {name: one.scores["RMSE"].value for name, one in (("knows", knows), ("guess", guess))}
    assert rmse["knows"] < 0.7 * rmse["guess"]
    patches = Patches.of(blind.train, 0)
    mean = (patches.weights @ patches.depths / patches.weights.sum()).item()
    depth = blind.test.maps[blind.test.maps > 0].double()
    assert rmse["guess"] == pytest.approx((depth - mean).square().mean().sqrt().item(), rel=1e-9)
    assert list({"delta1": knows.share, **knows.scores}) == [*NAMES, IMAGES]
    for score in (knows.share, *(knows.scores[name] for name in NAMES[1:])):
        low, high = score.interval
        assert low <= score.value <= high
    assert len(knows.scores[IMAGES].values) == 12


def test_images_without_a_measured_pixel_are_learned_from_and_judged_by_nobody():
    whole, holed = make_task(), make_task()
    for name, some in (("train", [3, 7, 30]), ("test", [0, 5])):
        part = getattr(holed, name)
        part.maps[some] = 0
        others = np.setdiff1d(np.arange(len(part.rows)), some)
        setattr(whole, name, getattr(whole, name).part(others))
    whole = DenseTask(train=whole.train, test=whole.test, num_classes=0, seed=0)
    holed = DenseTask(train=holed.train, test=holed.test, num_classes=0, seed=0)
    (found,), (expected,) = linear_candidates(holed), linear_candidates(whole)
    assert (found.share, found.scores, found.validation) == (expected.share, expected.scores, expected.validation)
    assert len(found.scores[IMAGES].values) == 10
    assert found.settings == expected.settings | {"images measured": "10 of 12"}
    for name in ("train", "test"):
        empty = make_task()
        getattr(empty, name).maps[:] = 0
        with pytest.raises(UserError, match=r"of \d+ depth maps to learn from and \d+ to test on a pixel is measured"):
            linear_candidates(empty)


def test_answers_stay_among_the_depths_of_train():
    task = make_task()
    task.test.tokens = 1000 * task.test.tokens
    patches = Patches.of(task.train, 0)
    ridge = Ridge(patches, linear.Axes.of(patches.tokens))
    sums = judged(ridge, 1e-3, task.test)
    largest = patches.depths.max() - task.test.maps[task.test.maps > 0].min()
    assert measures(sums.sum(0))[-1] < largest


def test_the_unit_changes_nothing_but_the_rmse():
    millimetres, metres = make_task(), make_task()
    for part in (metres.train, metres.test, metres.fit, metres.held):
        part.maps = part.maps / 1000
    (one,), (other,) = linear_candidates(millimetres), linear_candidates(metres)
    assert other.scores["RMSE"].value == pytest.approx(one.scores["RMSE"].value / 1000, rel=1e-5)
    assert other.scores["AbsRel"].value == pytest.approx(one.scores["AbsRel"].value, rel=1e-5)
    assert one.settings == other.settings
