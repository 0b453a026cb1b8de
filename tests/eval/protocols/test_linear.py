import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from eyespot.eval.protocols import linear
from eyespot.eval.protocols.task import Task


@pytest.fixture(scope="module")
def digits():
    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels).float(), torch.from_numpy(labels).long()


@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
def test_equals_scikit_learn(digits, penalty):
    features, labels = digits[0][:600], digits[1][:600]
    wide = features.double().numpy()
    deviation = wide.std(0)
    standard = (wide - wide.mean(0)) / np.where(deviation > 0, deviation, 1)
    reference = LogisticRegression(C=1 / (penalty * 600), solver="newton-cholesky", tol=1e-12, max_iter=1000)
    reference.fit(standard, labels.numpy())

    axes = linear.Axes.of(features)
    x = axes(features)
    weights = linear.fit(x, labels, x.new_zeros(x.shape[1] + 1, 10), penalty=penalty, variance=axes.variance)
    loss, gradient = linear.loss_and_gradient(weights, x, labels, penalty)

    probability = reference.predict_proba(standard)[np.arange(600), labels]
    expected = -np.log(probability).mean() + penalty / 2 * np.square(reference.coef_).sum()
    assert loss.item() == pytest.approx(expected, abs=1e-10)
    assert gradient.abs().max() < 1e-8
    ours = torch.addmm(weights[-1], x, weights[:-1]).softmax(1)
    np.testing.assert_allclose(ours, reference.predict_proba(standard), atol=1e-7)
    coefficients = torch.from_numpy(np.where(deviation > 0, deviation, 0))[:, None] * (axes.turn @ weights[:-1])
    np.testing.assert_allclose(coefficients.T, reference.coef_, rtol=1e-4, atol=1e-6)


def test_strong_penalty_agrees_to_eight_decimals(digits):
    features, labels = digits[0][:300], digits[1][:300]
    axes = linear.Axes.of(features)
    x = axes(features)
    weights = linear.fit(x, labels, x.new_zeros(x.shape[1] + 1, 10), penalty=1.0, variance=axes.variance)
    reference = LogisticRegression(C=1 / 300, solver="newton-cholesky", tol=1e-14).fit(x.numpy(), labels.numpy())
    np.testing.assert_allclose(weights[:-1].T, reference.coef_, atol=1e-8)


def test_gradient_is_the_derivative_of_the_loss():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 5, dtype=torch.float64, generator=generator)
    labels = torch.arange(30) % 3
    weights = torch.randn(6, 3, dtype=torch.float64, generator=generator).requires_grad_()
    plain = torch.nn.functional.cross_entropy(x @ weights[:-1] + weights[-1], labels)
    plain = plain + 0.05 * weights[:-1].square().sum()
    (expected,) = torch.autograd.grad(plain, weights)
    loss, gradient = linear.loss_and_gradient(weights.detach(), x, labels, 0.1)
    torch.testing.assert_close(loss, plain.detach())
    torch.testing.assert_close(gradient, expected)


def test_start_does_not_change_the_optimum(digits):
    features, labels = digits[0][:400], digits[1][:400]
    axes = linear.Axes.of(features)
    x = axes(features)
    starts = x.new_zeros(x.shape[1] + 1, 10), torch.ones(x.shape[1] + 1, 10, dtype=torch.float64).cumsum(1) / 10
    one, two = (linear.fit(x, labels, start, penalty=1e-2, variance=axes.variance) for start in starts)
    torch.testing.assert_close(one - one.mean(1, keepdim=True), two - two.mean(1, keepdim=True), atol=1e-6, rtol=0)


def test_axes_are_standardised_features_without_what_never_changes(digits):
    features = torch.cat([digits[0][:500], torch.full((500, 2), 0.1)], 1)
    axes = linear.Axes.of(features)
    x = axes(features)
    assert x.shape[1] == sum(features[:, column].unique().numel() > 1 for column in range(66))
    torch.testing.assert_close(x.mean(0), torch.zeros_like(x[0]), atol=1e-10, rtol=0)
    torch.testing.assert_close(x.T @ x / 500, torch.diag(axes.variance), atol=1e-9, rtol=0)
    assert axes.variance.sum().item() == pytest.approx(x.shape[1])  # each standardised feature has variance 1


def test_more_features_than_samples():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 200, generator=generator)
    labels = torch.arange(60) % 2
    features[:, :40] += 3.0 * labels[:, None]
    task = Task(
        train={"cls": features[:40]},
        train_labels=labels[:40],
        test={"cls": features[40:]},
        test_labels=labels[40:],
        num_classes=2,
        seed=0,
    )
    (found,) = linear.candidates(task)
    assert found.metric == "linear/cls" and (found.predictions == labels[40:].numpy()).mean() == 1


def test_penalty_is_chosen_on_train_only(digits):
    features, labels = digits
    train, test = slice(0, 1000), slice(1000, 1797)
    task = Task(
        train={"pixels": features[train]},
        train_labels=labels[train],
        test={"pixels": features[test]},
        test_labels=labels[test],
        num_classes=10,
        seed=0,
    )
    (found,) = linear.candidates(task)
    assert found.settings["lambda"] in linear.PENALTIES
    assert (found.predictions == labels[test].numpy()).mean() > 0.9
    task.test_labels = torch.zeros_like(task.test_labels)  # the answer does not know the test labels
    (again,) = linear.candidates(task)
    assert again.settings == found.settings and (again.predictions == found.predictions).all()


def test_penalty_is_that_of_the_least_held_out_loss(digits):
    """By scikit-learn, over the whole path: where ours ends, the loss rises for good. Some labels are wrong."""
    features, labels = digits[0][:600], digits[1][:600].clone()
    labels[::5] = labels[::5].flip(0)
    task = Task(
        train={"pixels": features},
        train_labels=labels,
        test={"pixels": features},
        test_labels=labels,
        num_classes=10,
        seed=0,
    )
    x = linear.Axes.of(features)(features).numpy()
    losses = {}
    for penalty in linear.PENALTIES[:13]:
        reference = LogisticRegression(C=1 / (penalty * len(task.fit)), solver="newton-cholesky", tol=1e-8)
        reference.fit(x[task.fit], labels[task.fit])
        losses[penalty] = log_loss(labels[task.held], reference.predict_proba(x[task.held]))
    (found,) = linear.candidates(task)
    assert found.settings["lambda"] == min(losses, key=losses.__getitem__) not in list(losses)[:3] + list(losses)[-3:]
    assert found.validation is not None and found.validation * len(task.held) % 1 == pytest.approx(0, abs=1e-9)


def test_predictions_are_those_of_scikit_learn(digits):
    features, labels = digits
    deviation = features[:800].double().std(0, correction=0)
    standard = (features.double() - features[:800].double().mean(0)) / torch.where(deviation > 0, deviation, 1)
    reference = LogisticRegression(C=1 / (1e-2 * 800), solver="newton-cholesky", tol=1e-10)
    expected = reference.fit(standard[:800].numpy(), labels[:800].numpy()).predict(standard[800:].numpy())
    found = linear.predictions(features[:800], labels[:800], features[800:], num_classes=10, penalty=1e-2)
    assert (found.numpy() == expected).mean() > 0.995
