"""Dense protocols against slow references: patches, soft logistic regression, the vote, the whole."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import interpolate

from eyespot.eval.protocols import dense, linear
from eyespot.eval.protocols.dense import Bank, DensePart, DenseTask, knn_candidates, linear_candidates, patch_counts
from eyespot.eval.protocols.mean_iou import NOTHING, mean_iou, tally
from eyespot.eval.protocols.task import Candidate


def make_part(num_images: int = 12, grid: int = 3, size: int = 12, dim: int = 5, seed: int = 0) -> DensePart:
    """Tokens whose first numbers say, through noise, which class most of the patch is; 1 of 8 pixels unknown."""
    generator = np.random.default_rng(seed)
    classes = generator.integers(0, 3, (num_images, grid, grid))
    masks = classes.repeat(size // grid, 1).repeat(size // grid, 2).astype(np.uint8)
    stray = generator.random(masks.shape) < 0.1
    masks[stray] = generator.integers(0, 3, stray.sum())
    masks[generator.random(masks.shape) < 1 / 8] = NOTHING
    tokens = generator.normal(size=(num_images, grid * grid, dim)).astype(np.float32)
    tokens[..., :3] += 2 * np.eye(3, dtype=np.float32)[classes.reshape(num_images, -1)]
    return DensePart(
        tokens=tokens.reshape(num_images, -1), rows=np.arange(num_images), maps=torch.from_numpy(masks), grid=grid
    )


def reported(candidate: Candidate) -> tuple[float, list[float]]:
    """The mean IoU, and that of each image."""
    values = candidate.scores["image mIoU"].values
    assert candidate.share is not None and values is not None
    return candidate.share.value, values


def make_task() -> DenseTask:
    return DenseTask(train=make_part(20, seed=1), test=make_part(10, seed=2), num_classes=3, seed=0)


@pytest.mark.parametrize(("size", "grid"), [(12, 3), (10, 3), (7, 7)])
def test_patch_counts_against_a_loop(size, grid):
    masks = np.random.default_rng(0).choice([0, 1, 2, NOTHING], (2, size, size)).astype(np.uint8)
    slow = np.zeros((2, grid * grid, 3), int)
    for image, row, column in np.ndindex(masks.shape):
        if masks[image, row, column] != NOTHING:
            slow[image, row * grid // size * grid + column * grid // size, masks[image, row, column]] += 1
    assert np.array_equal(patch_counts(torch.from_numpy(masks), grid, 3), slow)


def test_bank_holds_every_patch_that_says_something(monkeypatch):
    part = make_part()
    part.maps[3, :4, 4:8] = NOTHING  # the second patch of the fourth image
    bank = Bank.of(part, 3, seed=0)
    assert len(bank.tokens) == 12 * 9 - 1
    expected = np.delete(part.tokens.reshape(-1, 5), 3 * 9 + 1, 0)
    assert np.array_equal(bank.tokens, expected)
    counts = np.delete(patch_counts(part.maps, 3, 3).reshape(-1, 3).numpy(), 3 * 9 + 1, 0)
    np.testing.assert_allclose(bank.shares, counts / counts.sum(1, keepdims=True))
    np.testing.assert_allclose(bank.weights, counts.sum(1) / counts.sum(1).mean())
    monkeypatch.setattr(dense, "_AT_ONCE", 3 * 12**2 * 5)  # five images at a time
    again = Bank.of(part, 3, seed=0)
    assert torch.equal(again.tokens, bank.tokens) and torch.equal(again.shares, bank.shares)
    monkeypatch.setattr(dense, "MAX_PATCHES", 40)
    few, other = Bank.of(part, 3, seed=0), Bank.of(part, 3, seed=1)
    assert len(few.tokens) in (39, 40) and not torch.equal(few.tokens[:30], other.tokens[:30])
    rows = {row.tobytes(): share for row, share in zip(bank.tokens.numpy(), bank.shares, strict=True)}
    assert all(
        torch.equal(rows[row.tobytes()], share) for row, share in zip(few.tokens.numpy(), few.shares, strict=True)
    )


def test_gradient_of_soft_labels():
    generator = torch.Generator().manual_seed(0)
    x, weights = (torch.randn(size, dtype=torch.float64, generator=generator) for size in ((9, 4), (5, 3)))
    targets = torch.rand(9, 3, dtype=torch.float64, generator=generator)

    def value(weights: torch.Tensor) -> torch.Tensor:
        logs = (x @ weights[:-1] + weights[-1]).log_softmax(1)
        return -(targets * logs).sum() / 9 + 0.3 / 2 * weights[:-1].square().sum()

    loss, gradient = dense.soft_loss_and_gradient(weights, x, targets, 0.3)
    assert loss.item() == pytest.approx(value(weights).item(), abs=1e-14)
    weights.requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(value(weights), weights)[0], rtol=0, atol=1e-14)


def test_linear_is_logistic_regression_of_pixels():
    """scikit-learn, told every pixel with the standardised token of its patch, finds the same classifier."""
    part = make_part(6)
    bank = Bank.of(part, 3, seed=0)
    axes, penalty = linear.Axes.of(bank.tokens), 0.01
    start = torch.zeros(6, 3, dtype=torch.float64)
    weights = dense._fit(axes(bank.tokens), bank.targets(), start, penalty, axes, 1e-10)
    pixels, labels = [], []
    tokens = (bank.tokens.double() - bank.tokens.double().mean(0)) / bank.tokens.double().std(0, correction=0)
    for image, row, column in np.ndindex(part.maps.shape):
        label = int(part.maps[image, row, column])
        if label != NOTHING:
            pixels.append(tokens[image * 9 + row // 4 * 3 + column // 4].numpy())
            labels.append(label)
    slow = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-12, max_iter=5000).fit(np.array(pixels), labels)
    found = torch.addmm(weights[-1], axes(bank.tokens), weights[:-1]).softmax(1)
    np.testing.assert_allclose(found, slow.predict_proba(tokens.numpy()), atol=1e-5)


def slow_vote(train: DensePart, test: DensePart, k: int) -> np.ndarray:
    """Hummingbird's attention, patch by patch in float64."""
    counts = patch_counts(train.maps, train.grid, 3).reshape(-1, 3).numpy().astype(float)
    bank = train.tokens.reshape(len(counts), -1).astype(float)
    bank, counts = bank[counts.sum(1) > 0], counts[counts.sum(1) > 0]
    found = []
    for query in test.tokens.reshape(len(test.rows) * test.grid**2, -1).astype(float):
        cosines = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        near = np.argsort(-cosines)[:k]
        weights = np.exp(cosines[near] / 0.02)
        found.append(weights @ (counts[near] / counts[near].sum(1, keepdims=True)) / weights.sum())
    return np.array(found).reshape(len(test.rows), test.grid**2, 3)


def test_knn_against_a_loop():
    task = make_task()
    found = {candidate.settings["k"]: candidate for candidate in knn_candidates(task)}
    assert sorted(found) == [10, 30, 90]
    for k in (10, 30):
        planes = torch.from_numpy(slow_vote(task.train, task.test, k)).transpose(1, 2).unflatten(2, (3, 3))
        given = interpolate(planes, size=(12, 12), mode="bilinear").argmax(1)
        counts = tally(given, task.test.maps, 3)
        share, values = reported(found[k])
        assert share == pytest.approx(mean_iou(counts.sum(0)), abs=0.003)  # float32 tips a pixel here and there
        np.testing.assert_allclose(values, mean_iou(counts), atol=0.03)
        assert found[k].metric == f"dense-knn/k{k}_T0.02_patches_l2"


@pytest.mark.parametrize("candidates", [linear_candidates, knn_candidates])
def test_learns_what_is_there_and_nothing_else(candidates):
    task = make_task()
    best = max(candidates(task), key=lambda found: found.validation or 0.0)
    share, values = reported(best)
    assert best.share and best.share.interval and best.share.interval[0] < share < best.share.interval[1]
    assert share > 0.5 and best.scores["pixel accuracy"].value > 0.6
    assert best.scores["image mIoU"].value == pytest.approx(np.mean(values), abs=1e-6)
    task.train.maps[:] = task.train.maps[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    shuffled = DenseTask(train=task.train, test=task.test, num_classes=3, seed=0)
    assert reported(max(candidates(shuffled), key=lambda found: found.validation or 0.0))[0] < 0.33


def test_hyper_parameters_never_see_test():
    """Whatever test holds, the same penalty and k are chosen."""
    task, other = make_task(), make_task()
    other.test.maps[:] = (other.test.maps + 1) % 3
    for candidates in (linear_candidates, knn_candidates):
        left, right = candidates(task), candidates(other)
        assert [found.validation for found in left] == [found.validation for found in right]
        assert [found.settings for found in left] == [found.settings for found in right]
    assert set(task.held.rows) & set(task.fit.rows) == set() and len(task.held.rows) == 2


def test_the_order_of_images_plays_no_part():
    task = make_task()
    order = np.random.default_rng(0).permutation(10)
    turned = DenseTask(train=task.train, test=task.test.part(order), num_classes=3, seed=0)
    for candidates in (linear_candidates, knn_candidates):
        for left, right in zip(candidates(task), candidates(turned), strict=True):
            (share, values), (turned_share, turned_values) = reported(left), reported(right)
            assert share == turned_share and [values[row] for row in order] == turned_values


def test_pixels_between_patches_are_interpolated():
    numbers = torch.tensor([[[1.0, 0], [0, 1], [1, 0], [0, 1]]])  # left half class 0, right half class 1
    given = dense.answers(numbers, grid=2, size=8)
    assert (given[0, :, :4] == 0).all() and (given[0, :, 4:] == 1).all()
    assert linear.PENALTIES[0] == dense.PENALTIES[0] == 10
