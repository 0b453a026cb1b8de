"""Mean IoU against a slow loop and scikit-learn's jaccard_score; the bootstrap against a slow one."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score

from eyespot.eval.protocols.mean_iou import NOTHING, bootstrap_interval, mean_iou, pixel_accuracy, tally


@pytest.fixture
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Answers and masks of seven images; class 4 is never there nor answered, class 3 is answered only."""
    generator = np.random.default_rng(0)
    masks = generator.integers(0, 3, (7, 9, 8)).astype(np.uint8)
    answers = np.where(generator.random((7, 9, 8)) < 0.6, masks, generator.integers(0, 4, (7, 9, 8))).astype(np.uint8)
    masks[generator.random((7, 9, 8)) < 0.2] = NOTHING
    return torch.from_numpy(answers), torch.from_numpy(masks)


def slow_mean_iou(answers, masks) -> float:
    pairs = [(int(a), int(m)) for a, m in zip(answers.flatten(), masks.flatten(), strict=True) if m != NOTHING]
    ratios = []
    for label in sorted({label for pair in pairs for label in pair}):
        both = sum(a == m == label for a, m in pairs)
        ratios.append(both / sum(label in pair for pair in pairs))
    return sum(ratios) / len(ratios)


def test_against_scikit_learn_and_a_loop(pictures):
    answers, masks = pictures
    counts = tally(answers, masks, 5)
    known = (masks != NOTHING).numpy()
    true, given = masks.numpy()[known], answers.numpy()[known]
    assert mean_iou(counts.sum(0)) == pytest.approx(jaccard_score(true, given, average="macro"), abs=1e-15)
    assert mean_iou(counts.sum(0)) == pytest.approx(slow_mean_iou(answers, masks), abs=1e-15)
    assert pixel_accuracy(counts) == pytest.approx(accuracy_score(true, given), abs=1e-15)
    for place, found in enumerate(mean_iou(counts)):
        assert found == pytest.approx(slow_mean_iou(answers[place], masks[place]), abs=1e-15)


def test_counts_are_sums_whatever_the_division(pictures):
    answers, masks = pictures
    whole = tally(answers, masks, 5)
    parts = [tally(answers[start : start + 3], masks[start : start + 3], 5) for start in (0, 3, 6)]
    assert np.array_equal(np.concatenate(parts), whole) and whole.dtype == np.int64
    assert (whole[:, 2].sum(1) == (masks != NOTHING).sum((1, 2)).numpy()).all()


def test_extremes():
    masks = torch.tensor([[[0, 1], [2, NOTHING]]], dtype=torch.uint8)
    right = torch.tensor([[[0, 1], [2, 1]]])
    assert mean_iou(tally(right, masks, 3)) == 1 and pixel_accuracy(tally(right, masks, 3)) == 1
    assert mean_iou(tally((right + 1) % 3, masks, 3)) == 0
    nothing = torch.full_like(masks, NOTHING)
    assert mean_iou(tally(right, nothing, 3)) == 1  # and not nan


def test_the_interval_is_that_of_whole_images(pictures):
    answers, masks = pictures
    counts = tally(answers, masks, 5)
    generator = np.random.default_rng(1)
    slow = [mean_iou(counts[generator.integers(0, 7, 7)].sum(0)) for _ in range(4000)]
    low, high = bootstrap_interval(counts)
    assert (low, high) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.01)
    assert low < mean_iou(counts.sum(0)) < high
    assert bootstrap_interval(counts) == (low, high)
    wide = bootstrap_interval(counts, confidence=0.99)
    assert wide[0] < low and wide[1] > high
