"""Dense protocols: what the patch tokens say about each place of an image, judged by segmentation masks.

Both learn from patches of train, each with the share of every class among its pixels; both give every patch of a test
image a number per class, upsample those bilinearly to the pixels and answer the largest.

linear: BatchNorm without affine and a 1x1 convolution on the last block's patch tokens, as DINOv2 does (Oquab et al.
2023, arXiv:2304.07193, section 7.4). Here to its optimum: logistic regression of standardised tokens, in which each
pixel counts once and shares the logits of its patch; that is cross-entropy with the shares as soft labels.

knn: retrieval from a memory of patches (Balazevic et al. 2023, "Towards in-context scene understanding",
arXiv:2306.01667): each patch takes the shares of its k nearest patches of train by cosine s, weighted by the softmax of
s / 0.02. The search is exact.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, Shaped, UInt8
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from eyespot.eval.protocols import linear
from eyespot.eval.protocols.knn import nearest
from eyespot.eval.protocols.mean_iou import NOTHING, bootstrap_interval, mean_iou, pixel_accuracy, tally
from eyespot.eval.protocols.task import VALIDATION_SHARE, Candidate, stratified_split
from eyespot.eval.results.result import Score

PENALTIES = linear.PENALTIES[::2]
"""10 to 1e-7, a decade apart."""
KS = (10, 30, 90)
TEMPERATURE = 0.02
MAX_PATCHES = 200_000
"""As many patches of train are learned from; of more, a random choice."""
_AT_ONCE = 2**25  # numbers per class and pixel, of the images that are answered together
_QUERIES = 1024  # patches that look for their neighbours at a time
_CHOOSING, _FINAL = 1e-4, 1e-6  # as in linear: the gradient at which a fit ends

Answer = Callable[[Float[Tensor, "b p d"]], dict[str, Float[Tensor, "b p classes"]]]
"""From the tokens of images a number per class for each patch, for each setting of a protocol."""
Counts = dict[str, Int64[np.ndarray, "n 3 classes"]]
"""``miou.tally`` of each setting."""


@dataclass(kw_only=True, slots=True)
class DensePart:
    """Patch tokens and maps of the images that serve one purpose."""

    tokens: Shaped[np.ndarray, "n d_times_p"]
    """Of each image, its patches in rows, one after the other; float32. May lie on disk."""
    rows: Int64[np.ndarray, " m"]
    """Which images of ``tokens`` are meant."""
    maps: UInt8[Tensor, "m s s"] | Float32[Tensor, "m s s"]
    """Theirs, as large as the encoder's view: masks, NOTHING where a pixel says nothing; or depth, 0 where it does."""
    grid: int
    """Patches along a side."""

    def part(self, chosen: Int64[np.ndarray, " k"]) -> "DensePart":
        """Some of the images."""
        return DensePart(tokens=self.tokens, rows=self.rows[chosen], maps=self.maps[chosen], grid=self.grid)

    def images(self, some: Int64[np.ndarray, " b"] | slice) -> Float[Tensor, "b p d"]:
        """The tokens of some images."""
        tokens = torch.from_numpy(np.array(self.tokens[self.rows[some]]))
        return tokens.unflatten(1, (self.grid**2, -1)).to(self.maps.device)


@dataclass(kw_only=True, slots=True)
class DenseTask:
    """One encoder's patches of one data set."""

    train: DensePart
    test: DensePart
    num_classes: int
    """Of masks."""
    seed: int
    """Decides which tenth of train's images is held out, and which patches are learned from."""
    fit: DensePart = field(init=False)
    held: DensePart = field(init=False)

    def __post_init__(self) -> None:
        kept, held = stratified_split(np.zeros(len(self.train.rows), np.int64), VALIDATION_SHARE, self.seed)
        self.fit, self.held = self.train.part(kept), self.train.part(held)


@dataclass(kw_only=True, slots=True)
class Bank:
    """Patches to learn from."""

    tokens: Float[Tensor, "n d"]
    shares: Float64[Tensor, "n classes"]
    """Of each class among a patch's pixels, those left out that say nothing."""
    weights: Float64[Tensor, " n"]
    """How many pixels of a patch say something, in units of their mean."""

    @classmethod
    def of(cls, part: DensePart, num_classes: int, seed: int) -> "Bank":
        """Up to MAX_PATCHES of the patches that say something, drawn by ``seed``."""
        per_image = part.grid**2
        total = len(part.rows) * per_image
        places = np.arange(total)
        if total > MAX_PATCHES:
            places = np.sort(np.random.default_rng(seed).permutation(total)[:MAX_PATCHES])
        tokens, counts = [], []
        for some in images_at_once(len(part.rows), num_classes * part.maps.shape[-1] ** 2):
            first, end = np.searchsorted(places, [some.start * per_image, some.stop * per_image])
            chosen = torch.from_numpy(places[first:end] - some.start * per_image)
            found = patch_counts(part.maps[some], part.grid, num_classes).flatten(0, 1)[chosen]
            known = found.sum(1) > 0
            counts.append(found[known])
            tokens.append(part.images(some).flatten(0, 1)[chosen[known.cpu()]])
        pixels = torch.cat(counts).double()
        mass = pixels.sum(1)
        return cls(tokens=torch.cat(tokens), shares=pixels / mass[:, None], weights=mass / mass.mean())

    def targets(self) -> Float64[Tensor, "n classes"]:
        """Of each patch its weight times its shares."""
        return self.shares * self.weights[:, None]


def patch_counts(masks: UInt8[Tensor, "b s s"], grid: int, num_classes: int) -> Int64[Tensor, "b p classes"]:
    """How many pixels of each class lie in each patch; row-major, like the tokens."""
    size = masks.shape[-1]
    patch = torch.arange(size, device=masks.device) * grid // size
    image = torch.arange(len(masks), device=masks.device)
    place = (image[:, None, None] * grid + patch[:, None]) * grid + patch
    known = masks != NOTHING
    found = (place * num_classes + masks)[known].bincount(minlength=len(masks) * grid**2 * num_classes)
    return found.view(len(masks), grid**2, num_classes)


def soft_loss_and_gradient(
    weights: Float64[Tensor, "r1 c"], x: Float64[Tensor, "n r"], targets: Float64[Tensor, "n c"], penalty: float
) -> tuple[Float64[Tensor, ""], Float64[Tensor, "r1 c"]]:
    """Cross-entropy with soft targets plus ridge penalty, and its gradient; ``linear.loss_and_gradient`` for masks.

    Args:
        weights: the last row is the bias.
        x: features.
        targets: of each row its weight times its shares of the classes; the weights have the mean 1.
        penalty: lambda, of the mean loss.
    """
    logits = torch.addmm(weights[-1], x, weights[:-1])
    mass, normaliser = targets.sum(1), logits.logsumexp(1)
    loss = (mass * normaliser - (targets * logits).sum(1)).mean() + penalty / 2 * weights[:-1].square().sum()
    residual = ((logits - normaliser[:, None]).exp_() * mass[:, None] - targets) / len(x)
    return loss, torch.cat([x.T @ residual + penalty * weights[:-1], residual.sum(0, keepdim=True)])


def linear_candidates(task: DenseTask) -> list[Candidate]:
    """A linear classifier of patches: its penalty chosen on the held-out tenth, then fitted on all of train."""
    bank = Bank.of(task.train, task.num_classes, task.seed)
    axes = linear.Axes.of(bank.tokens)  # masks play no part in it, so it may see all of train
    best, best_penalty, start = -1.0, 0.0, torch.empty(0)
    for penalty, answer, weights in _walk(Bank.of(task.fit, task.num_classes, task.seed), axes):
        (score,) = _scores(answer, task.held, task.num_classes).values()
        if score > best:  # of equals the stronger penalty
            best, best_penalty, start = score, penalty, weights
    weights = _fit(axes(bank.tokens), bank.targets(), start, best_penalty, axes, _FINAL)
    counts = _judged(_linear(axes, weights), task.test, task.num_classes)
    return [
        _candidate(metric, {"features": "patches", "lambda": best_penalty}, best, found)
        for metric, found in counts.items()
    ]


def knn_candidates(task: DenseTask) -> list[Candidate]:
    """Shares of the nearest patches, for every k that train is large enough for."""
    bank = Bank.of(task.fit, task.num_classes, task.seed)
    ks = tuple(k for k in KS if k <= len(bank.tokens)) or (len(bank.tokens),)
    tried = _scores(_vote(bank, ks), task.held, task.num_classes)
    bank = Bank.of(task.train, task.num_classes, task.seed)
    counts = _judged(_vote(bank, ks), task.test, task.num_classes)
    return [
        _candidate(metric, {"features": "patches", "k": k}, tried[metric], counts[metric])
        for k, metric in zip(ks, tried, strict=True)
    ]


def _walk(bank: Bank, axes: linear.Axes) -> Iterator[tuple[float, Answer, Float64[Tensor, "r1 c"]]]:
    """From strong to weak penalties, each fit from the last one's weights."""
    x, targets = axes(bank.tokens), bank.targets()
    weights = x.new_zeros(x.shape[1] + 1, targets.shape[1])
    for penalty in PENALTIES:
        weights = _fit(x, targets, weights, penalty, axes, _CHOOSING)
        yield penalty, _linear(axes, weights), weights


def _fit(
    x: Float64[Tensor, "n r"],
    targets: Float64[Tensor, "n c"],
    start: Float64[Tensor, "r1 c"],
    penalty: float,
    axes: linear.Axes,
    tolerance: float,
) -> Float64[Tensor, "r1 c"]:
    with linear.fewer_threads(x, targets.shape[1]):
        return linear.fit(
            x,
            targets,
            start,
            penalty=penalty,
            variance=axes.variance,
            tolerance=tolerance,
            loss_and_gradient=soft_loss_and_gradient,
        )


def _linear(axes: linear.Axes, weights: Float64[Tensor, "r1 c"]) -> Answer:
    def answer(tokens: Float[Tensor, "b p d"]) -> dict[str, Float[Tensor, "b p classes"]]:
        logits = torch.addmm(weights[-1], axes(tokens.flatten(0, 1)), weights[:-1])
        return {"dense-linear/patches": logits.unflatten(0, tokens.shape[:2])}

    return answer


def _vote(bank: Bank, ks: tuple[int, ...]) -> Answer:
    memory, shares = normalize(bank.tokens, dim=1), bank.shares.float()

    def answer(tokens: Float[Tensor, "b p d"]) -> dict[str, Float[Tensor, "b p classes"]]:
        found: dict[str, list[Tensor]] = {f"dense-knn/k{k}_T{TEMPERATURE}_patches_l2": [] for k in ks}
        for rows in normalize(tokens.flatten(0, 1), dim=1).split(_QUERIES):
            similarity, neighbours = nearest(rows, memory, max(ks))
            for k, parts in zip(ks, found.values(), strict=True):
                weights = (similarity[:, :k] / TEMPERATURE).softmax(1)
                parts.append(torch.einsum("qk,qkc->qc", weights, shares[neighbours[:, :k]]))
        return {metric: torch.cat(parts).unflatten(0, tokens.shape[:2]) for metric, parts in found.items()}

    return answer


def answers(numbers: Float[Tensor, "b p classes"], grid: int, size: int) -> UInt8[Tensor, "b size size"]:
    """The class of each pixel: the largest of the patches' numbers, upsampled bilinearly (corners not aligned)."""
    planes = numbers.transpose(1, 2).unflatten(2, (grid, grid))
    return interpolate(planes, size=(size, size), mode="bilinear", align_corners=False).argmax(1).to(torch.uint8)


def _judged(answer: Answer, part: DensePart, num_classes: int) -> Counts:
    size = part.maps.shape[-1]
    found: dict[str, list[np.ndarray]] = {}
    for some in images_at_once(len(part.rows), num_classes * size**2):
        for metric, numbers in answer(part.images(some)).items():
            counts = tally(answers(numbers, part.grid, size), part.maps[some], num_classes)
            found.setdefault(metric, []).append(counts)
    return {metric: np.concatenate(parts) for metric, parts in found.items()}


def _scores(answer: Answer, part: DensePart, num_classes: int) -> dict[str, float]:
    """The mean IoU of each setting."""
    return {metric: mean_iou(counts.sum(0)).item() for metric, counts in _judged(answer, part, num_classes).items()}


def images_at_once(num_images: int, numbers_per_image: int) -> Iterator[slice]:
    """Parts of some images that are answered together: as many as memory has room for."""
    step = max(1, _AT_ONCE // numbers_per_image)
    for start in range(0, num_images, step):
        yield slice(start, min(start + step, num_images))


def _candidate(
    metric: str,
    settings: dict[str, Any],
    validation: float,
    counts: Int64[np.ndarray, "n 3 classes"],
) -> Candidate:
    per_image, (low, high) = mean_iou(counts), bootstrap_interval(counts)
    return Candidate(
        metric=metric,
        settings=settings,
        validation=validation,
        share=Score(value=mean_iou(counts.sum(0)).item(), interval=(float(low), float(high))),
        scores={
            "image mIoU": Score(
                value=float(per_image.mean()), values=[round(value, 6) for value in per_image.tolist()]
            ),
            "pixel accuracy": Score(value=pixel_accuracy(counts)),
        },
    )
