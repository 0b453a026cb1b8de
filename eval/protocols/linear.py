"""Linear probe: multinomial logistic regression on standardised, frozen features, to its exact optimum.

Minimises  mean cross-entropy + penalty / 2 * |W|^2  (the bias is free) in float64 with L-BFGS. It is convex, so the
answer depends on no learning rate, epoch count or seed, and scikit-learn's LogisticRegression(C=1/(penalty*n))
gives the same one.

What makes it fast: features are turned once into their principal axes, where the Hessian is nearly diagonal, and
each axis is scaled by its curvature before L-BFGS sees it. That changes the path, not the optimum. The penalties are
walked from strong to weak, each fit starting from the last.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from eyespot.eval.protocols.task import Candidate, Task

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(2, -15, -1))
"""10 to 1e-7, half a decade apart."""
_CHOOSING, FINAL = 1e-3, 1e-9  # gradient (largest entry) at which a fit ends; single precision is enough for the first
_PATIENCE = 2  # penalties in a row that were worse: beyond the best the loss only rises, and weak ones take longest
_MAX_STEPS = 1000
_SMALL = 50_000_000  # multiplications per gradient below which threads cost more than they bring
_RANK_TOLERANCE = 1e-12  # principal axes below this share of the largest variance hold float32 noise only


@dataclass(kw_only=True, slots=True)
class Axes:
    """Standardisation followed by a turn into principal axes."""

    mean: Float64[Tensor, " d"]
    turn: Float64[Tensor, "d r"]
    """Columns: a principal axis divided by each feature's standard deviation."""
    variance: Float64[Tensor, " r"]
    """Of the standardised features along each axis."""

    @classmethod
    def of(cls, features: Float[Tensor, "n d"]) -> "Axes":
        """Measures them on ``features``; a feature that never changes is left out."""
        mean = features.mean(0, dtype=torch.float64)
        gram = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
        for rows in features.split(8192):
            centred = rows.double() - mean
            gram += centred.T @ centred
        gram /= len(features)
        deviation = gram.diagonal().sqrt()
        inverse = torch.where(deviation > 1e-6 * mean.abs(), 1 / deviation, 0.0)
        variance, vectors = torch.linalg.eigh(gram * inverse * inverse[:, None])
        kept = variance > _RANK_TOLERANCE * variance[-1]
        return cls(mean=mean, turn=vectors[:, kept] * inverse[:, None], variance=variance[kept])

    def __call__(self, features: Float[Tensor, "n d"]) -> Float64[Tensor, "n r"]:
        """The standardised features along the principal axes."""
        return torch.cat([(rows.double() - self.mean) @ self.turn for rows in features.split(8192)])


def loss_and_gradient(
    weights: Float[Tensor, "r1 c"], x: Float[Tensor, "n r"], labels: Int[Tensor, " n"], penalty: float
) -> tuple[Float[Tensor, ""], Float[Tensor, "r1 c"]]:
    """Mean cross-entropy plus ridge penalty, and its gradient; the last row of ``weights`` is the bias."""
    logits = torch.addmm(weights[-1], x, weights[:-1])
    normaliser = logits.logsumexp(1)
    loss = (normaliser - logits.gather(1, labels[:, None])[:, 0]).mean() + penalty / 2 * weights[:-1].square().sum()
    residual = (logits - normaliser[:, None]).exp_()
    residual[torch.arange(len(x), device=x.device), labels] -= 1
    residual /= len(x)
    slope = (residual.T @ x).T  # for few classes faster than x.T @ residual
    return loss, torch.cat([slope + penalty * weights[:-1], residual.sum(0, keepdim=True)])


def fit(
    x: Float[Tensor, "n r"],
    labels: Int[Tensor, " n"] | Float64[Tensor, "n c"],
    start: Float64[Tensor, "r1 c"],
    *,
    penalty: float,
    variance: Float64[Tensor, " r"],
    tolerance: float = FINAL,
    loss_and_gradient: Callable[..., tuple[Tensor, Tensor]] = loss_and_gradient,
) -> Float64[Tensor, "r1 c"]:
    """Logistic regression by L-BFGS from ``start``.

    Args:
        x: features along their principal axes.
        labels: classes, 0..c-1, or what else the loss takes for labels.
        start: weights to begin with; the last row is the bias.
        penalty: lambda, of the mean loss.
        variance: of x along each axis, for scaling.
        tolerance: ends where no entry of the scaled gradient is larger.
        loss_and_gradient: what is minimised.
    """
    from scipy.optimize import minimize  # takes a second to import, in every process of a run

    probabilities = torch.addmm(start[-1], x.double(), start[:-1]).softmax(1)
    curvature = (probabilities * (1 - probabilities)).mean().clamp_min(1e-8)
    scale = torch.cat([curvature * variance + penalty, curvature[None]]).rsqrt()[:, None]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = scale * torch.from_numpy(flat).to(x.device).view_as(start)
        loss, gradient = loss_and_gradient(weights.to(x.dtype), x, labels, penalty)
        return loss.item(), (scale * gradient).flatten().cpu().numpy()

    options = {"maxiter": _MAX_STEPS, "maxfun": 2 * _MAX_STEPS, "gtol": tolerance, "ftol": 0.0, "maxcor": 20}
    found = minimize(objective, (start / scale).flatten().cpu().numpy(), jac=True, method="L-BFGS-B", options=options)
    return scale * torch.from_numpy(found.x).to(x.device).view_as(start)


def walk(
    x: Float[Tensor, "n r"],
    labels: Int[Tensor, " n"],
    *,
    num_classes: int,
    variance: Float64[Tensor, " r"],
    penalties: Sequence[float] = PENALTIES,
) -> Iterator[tuple[float, Float64[Tensor, "r1 c"]]]:
    """Fits every penalty from strong to weak, each from the last one's weights: yields (penalty, weights)."""
    weights = torch.zeros(x.shape[1] + 1, num_classes, dtype=torch.float64, device=x.device)
    for penalty in penalties:
        weights = fit(x, labels, weights, penalty=penalty, variance=variance, tolerance=_CHOOSING)
        yield penalty, weights


def candidates(task: Task) -> list[Candidate]:
    """One probe per kind of features: penalty chosen on the held-out tenth of train, refitted on all of train.

    It is chosen by the tenth's cross-entropy: the accuracy of a few hundred images jumps by more than two penalties
    differ, and what is best by chance is often far too weak.
    """
    return [probe(task, kind) for kind in task.train]


def predictions(
    train: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    *,
    num_classes: int,
    penalty: float,
    tolerance: float = _CHOOSING,
) -> Int[Tensor, " m"]:
    """The class of each test row by a probe of one given penalty, close to its optimum: cheap enough to repeat often.

    Args:
        train: features to learn from; standardised here.
        labels: their classes, 0..num_classes-1.
        test: features of the rows to classify.
        num_classes: how many classes there are.
        penalty: lambda, of the mean loss.
        tolerance: how close, as in `fit`.
    """
    axes = Axes.of(train)
    x = axes(train)
    start = x.new_zeros(x.shape[1] + 1, num_classes)
    with fewer_threads(x, num_classes):
        weights = fit(x, labels, start, penalty=penalty, variance=axes.variance, tolerance=tolerance)
    return predict(axes(test), weights)


def fewer_threads(x: Float[Tensor, "n r"], num_classes: int) -> threadpool_limits:
    """One thread where a fit is many small steps: on a busy machine two wait for each other, 20 times as long.

    SciPy's own arithmetic on the weights is always that small.
    """
    return threadpool_limits(1, None if x.numel() * num_classes < _SMALL else "blas")


def probe(task: Task, kind: str) -> Candidate:
    """The probe of one kind of features: penalty chosen on the held-out tenth of train, refitted on all of train."""
    axes = Axes.of(task.train[kind])  # labels play no part in it, so it may see all of train
    x, labels, variance = axes(task.train[kind]), task.train_labels, axes.variance
    with fewer_threads(x, task.num_classes):
        best_loss, best_penalty, best_weights, behind = float("inf"), 0.0, x[:0], 0
        x_fit, x_held, held = x[task.fit].float(), x[task.held].float(), labels[task.held]
        for penalty, weights in walk(x_fit, labels[task.fit], num_classes=task.num_classes, variance=variance):
            loss = loss_and_gradient(weights.to(x_held.dtype), x_held, held, 0.0)[0].item()
            behind += 1
            if loss < best_loss:  # of equals the stronger penalty
                best_loss, best_penalty, best_weights, behind = loss, penalty, weights, 0
            if behind == _PATIENCE:
                break
        accuracy = (predict(x_held, best_weights) == held).double().mean().item()
        weights = fit(x, labels, best_weights, penalty=best_penalty, variance=variance)
    return Candidate(
        metric=f"linear/{kind}",
        settings={"features": kind, "lambda": best_penalty},
        validation=accuracy,
        predictions=predict(axes(task.test[kind]), weights).cpu().numpy(),
    )


def predict(x: Float[Tensor, "n r"], weights: Float64[Tensor, "r1 c"]) -> Int[Tensor, " n"]:
    """The class of each row."""
    weights = weights.to(x.dtype)
    return torch.addmm(weights[-1], x, weights[:-1]).argmax(1)
