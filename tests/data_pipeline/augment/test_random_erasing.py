"""Random Erasing against timm's: how often, how large, where, and with what."""

import random

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest
from timm.data.random_erasing import RandomErasing

from eyespot.data_pipeline.augment.pipeline import view_alteration
from eyespot.data_pipeline.augment.random_erasing import erase, random_boxes, view_erasing
from eyespot.data_pipeline.augment.views import IMAGENET_MEAN, IMAGENET_STD, RandomView
from eyespot.data_pipeline.loading.finish_views import finish_by_torch


def drawn(probability: float, size: int, count: int, epoch: int = 0):
    ids = np.arange(count)
    return view_erasing(probability, size, "view0", 0, np.full(count, epoch), ids)


def erased_by_timm(size: int, count: int) -> np.ndarray:
    """Top, left, height and width of its rectangles."""
    random.seed(0)
    torch.manual_seed(0)
    views = torch.zeros(count, 1, size, size)
    RandomErasing(1.0, mode="pixel", device="cpu")(views)
    found = []
    for view in views[:, 0].ne(0):
        (rows,), (columns,) = (np.nonzero(view.any(dim).numpy()) for dim in (1, 0))
        found.append((rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1))
    return np.array(found)


def test_rectangles_are_distributed_like_timms():
    theirs, boxes = erased_by_timm(64, 2000), drawn(1.0, 64, 2000).boxes
    assert boxes[:, 2:].all()
    for column in range(4):
        assert ks_2samp(boxes[:, column], theirs[:, column]).pvalue > 1e-3
    assert ks_2samp(boxes[:, 2:].prod(1), theirs[:, 2:].prod(1)).pvalue > 1e-3


@pytest.mark.parametrize("size", [1, 2, 5, 16, 224])
def test_rectangles_lie_inside(size):
    boxes = random_boxes(1.0, size, np.random.default_rng(0).random((5000, 23), np.float32))
    assert (boxes >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= size).all()
    if size > 5:
        assert (boxes[:, 0] == 0).any() and (boxes[:, 0] + boxes[:, 2] == size).any(), "up to the borders"


def test_as_often_as_asked():
    assert abs(drawn(0.25, 32, 20_000).boxes[:, 2].astype(bool).mean() - 0.25) < 0.01


@pytest.mark.parametrize("size", [5, 32, 96])
def test_only_the_rectangle_changes_and_the_noise_is_the_samples(size):
    erasing = drawn(0.6, size, 30)
    views = torch.full((30, 3, size, size), 9.0)
    erase(views, erasing)
    for row, (top, left, height, width) in enumerate(erasing.boxes.tolist()):
        expected = torch.zeros(size, size, dtype=torch.bool)
        expected[top : top + height, left : left + width] = True
        assert torch.equal(views[row] != 9, expected.expand(3, size, size))
        alone = torch.full((1, 3, size, size), 9.0)
        erase(alone, erasing.rows(slice(row, row + 1)))
        assert torch.equal(alone[0], views[row]), "whatever lies beside it"


def test_noise_is_normal_and_another_in_each_view():
    first, second = torch.full((2, 200, 3, 32, 32), 9.0)
    erase(first, drawn(1.0, 32, 200))
    erase(second, drawn(1.0, 32, 200, epoch=1))
    noise = first[first != 9].numpy()
    assert kstest(noise[::7], "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.01
    both = (first != 9) & (second != 9)
    assert (first[both] == second[both]).float().mean() < 0.01


def test_noise_is_in_the_values_that_the_encoder_sees():
    view, ids = RandomView(size=48, erase=1.0), np.arange(6)
    alteration = view_alteration(view, "view0", 0, ids, ids)
    assert alteration is not None and alteration.erasing is not None and alteration.steps.shape == (6, 0)
    black = torch.zeros(6, 3, 48, 48, dtype=torch.uint8)
    found = finish_by_torch(black, alteration, IMAGENET_MEAN, IMAGENET_STD)
    plain = finish_by_torch(black, None, IMAGENET_MEAN, IMAGENET_STD)
    expected = plain.clone()
    erase(expected, alteration.erasing)
    assert torch.equal(found, expected) and not torch.equal(found, plain)
