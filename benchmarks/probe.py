"""What the exact linear probe costs: L-BFGS on cached features against 90 epochs of SGD, and against scikit-learn.

Features of CIFAR-10: class token and mean of patches of a ViT with random weights (timm's vit_tiny, 32 px, patches of
8), and the pixels at 16 x 16. All sides get the same float32 features, already in memory, and standardise them.

- SGD: a linear layer, batches of 256, momentum 0.9, cosine to zero, 90 epochs, no augmentation (the features are
  cached), batches by indexing. "given": one run at a rate of 0.1 against one fit at lambda 0.01. "chosen": five rates
  (BYOL's) on nine tenths of train, the best on the other tenth run again on all of train, against the lambda path and
  the fit on all of train: what ``eyespot eval linear`` does. "DataLoader": batches come from torch's DataLoader over a
  TensorDataset, as such loops are usually written.
- scikit-learn: LogisticRegression (lbfgs, float64) at the loosest tolerance with which its objective comes within 1e-7
  of the optimum, against our fit to the end.

Times are CPU seconds of one thread, standardisation included; ratios are medians over rounds in which all sides took
their turn.

    OMP_NUM_THREADS=1 python benchmarks/probe.py cifar10-images.tar.gz [--train 5000] [--test 5000] [--rounds 3]
"""

import argparse
import io
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from results import write_results
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from eyespot.eval.protocols import linear
from eyespot.eval.protocols.task import Task

EPOCHS, BATCH_SIZE, RATES, RATE, PENALTY = 90, 256, (0.4, 0.3, 0.2, 0.1, 0.05), 0.1, 1e-2
SKLEARN_PENALTIES = (1e-1, 1e-3)
TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
GAP = 1e-7


def read_images(archive: str, split: str, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count // 10`` images of each class, and their labels."""
    found: dict[str, list[np.ndarray]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = member.name.split("/")
            if member.isfile() and parts[-3:-2] == [split] and len(found.setdefault(parts[-2], [])) < count // 10:
                data = tar.extractfile(member)
                assert data is not None
                found[parts[-2]].append(np.asarray(Image.open(io.BytesIO(data.read())).convert("RGB")))
    images = np.concatenate([found[name] for name in sorted(found)])
    labels = torch.arange(len(found)).repeat_interleave(count // 10)
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.47) / 0.25, labels


def encode(images: Tensor) -> dict[str, Tensor]:
    """Features of both kinds."""
    torch.manual_seed(0)
    options = {"pretrained": False, "num_classes": 0, "img_size": 32, "patch_size": 8}
    encoder = cast(Any, timm.create_model("vit_tiny_patch16_224", **options).eval())
    with torch.inference_mode():
        tokens = [encoder.forward_features(batch) for batch in images.split(250)]
    vit = torch.cat([torch.cat([batch[:, 0], batch[:, 1:].mean(1)], 1) for batch in tokens])
    return {"random ViT": vit.clone(), "pixels": F.avg_pool2d(images, 2).flatten(1)}


def batches(x: Tensor, labels: Tensor, *, loader: bool) -> Iterator[list[Tensor]]:
    """One epoch in random order, without what is left over."""
    if loader:
        yield from DataLoader(TensorDataset(x, labels), BATCH_SIZE, shuffle=True, drop_last=True)
        return
    for rows in torch.randperm(len(x))[: len(x) // BATCH_SIZE * BATCH_SIZE].split(BATCH_SIZE):
        yield [x[rows], labels[rows]]


def sgd(train: Tensor, labels: Tensor, test: Tensor, rate: float, *, loader: bool = False) -> Tensor:
    """The classes of ``test`` by 90 epochs of SGD on standardised features."""
    torch.manual_seed(0)
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    train, test = (train - mean) / std, (test - mean) / std
    head = torch.nn.Linear(train.shape[1], 10)
    torch.nn.init.zeros_(head.weight)
    optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * (len(train) // BATCH_SIZE))
    for _ in range(EPOCHS):
        for x, classes in batches(train, labels, loader=loader):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(head(x), classes).backward()
            optimizer.step()
            schedule.step()
    return head(test).argmax(1)


def sgd_chosen(task: Task, *, loader: bool = False) -> Tensor:
    """The rate chosen on the held-out tenth, then a run on all of train."""
    train, labels = task.train["x"], task.train_labels
    fit, held = (train[task.fit], labels[task.fit], train[task.held]), labels[task.held]
    right = {rate: (sgd(*fit, rate, loader=loader) == held).sum().item() for rate in RATES}
    return sgd(train, labels, task.test["x"], max(RATES, key=right.__getitem__), loader=loader)


def lbfgs(task: Task) -> Tensor:
    """One fit, to the end."""
    options = {"num_classes": 10, "penalty": PENALTY, "tolerance": linear.FINAL}
    return linear.predictions(task.train["x"], task.train_labels, task.test["x"], **options)


def lbfgs_chosen(task: Task) -> Tensor:
    """As `eyespot eval linear`."""
    (found,) = linear.candidates(task)
    assert found.predictions is not None
    return torch.from_numpy(found.predictions)


def measure(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[list[float], Any]]:
    """CPU seconds of each side in turn, and what it returned."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for name, side in sides.items():
            begun = time.process_time()
            found[name] = side()
            times[name].append(time.process_time() - begun)
            print(f"{name}: {times[name][-1]:.2f} s", flush=True)
    return {name: (times[name], found[name]) for name in sides}


def ratio(found: dict[str, tuple[list[float], Any]], slow: str, fast: str) -> float:
    """Median over rounds."""
    return statistics.median(a / b for a, b in zip(found[slow][0], found[fast][0], strict=True))


def against_sgd(kind: str, task: Task, rounds: int) -> tuple[list[list[str]], dict[str, list[float]]]:
    """Rows of the table, and seconds."""
    data = task.train["x"], task.train_labels, task.test["x"]
    given = {
        "SGD, given": lambda: sgd(*data, RATE),
        "SGD, given, DataLoader": lambda: sgd(*data, RATE, loader=True),
        "L-BFGS, given": lambda: lbfgs(task),
    }
    chosen = {
        "SGD, chosen": lambda: sgd_chosen(task),
        "SGD, chosen, DataLoader": lambda: sgd_chosen(task, loader=True),
        "L-BFGS, chosen": lambda: lbfgs_chosen(task),
    }
    found = measure(given, rounds) | measure(chosen, 1)
    rows = []
    for slow, fast in (
        ("SGD, given", "L-BFGS, given"),
        ("SGD, given, DataLoader", "L-BFGS, given"),
        ("SGD, chosen", "L-BFGS, chosen"),
        ("SGD, chosen, DataLoader", "L-BFGS, chosen"),
    ):
        sides = [found[slow], found[fast]]
        cells = [
            f"{statistics.median(seconds):.2f} s, {(answers == task.test_labels).float().mean():.2%}"
            for seconds, answers in sides
        ]
        rows.append([f"{kind}: {slow}", *cells, f"{ratio(found, slow, fast):.1f}", ">= 10"])
    return rows, {f"{kind}: {name}": seconds for name, (seconds, _) in found.items()}


def objective(weights: np.ndarray, bias: np.ndarray, x: np.ndarray, labels: np.ndarray, penalty: float) -> float:
    """Mean cross-entropy + penalty / 2 * |W|^2."""
    logits = torch.from_numpy(x @ weights.T + bias)
    return F.cross_entropy(logits, torch.from_numpy(labels)).item() + penalty / 2 * float(np.square(weights).sum())


def scikit_learn(train: np.ndarray, labels: np.ndarray, penalty: float, tolerance: float) -> tuple[Any, np.ndarray]:
    """Standardises and fits."""
    wide = train.astype(np.float64)
    deviation = wide.std(0)
    x = (wide - wide.mean(0)) / np.where(deviation > 0, deviation, 1)
    return LogisticRegression(C=1 / (penalty * len(x)), tol=tolerance, max_iter=10_000).fit(x, labels), x


def ours(train: Tensor, labels: Tensor, penalty: float) -> float:
    """Standardises and fits; the objective."""
    axes = linear.Axes.of(train)
    x = axes(train)
    start = x.new_zeros(x.shape[1] + 1, 10)
    weights = linear.fit(x, labels, start, penalty=penalty, variance=axes.variance)
    return linear.loss_and_gradient(weights, x, labels, penalty)[0].item()


def good_enough(train: np.ndarray, labels: np.ndarray, penalty: float, best: float) -> tuple[float, float]:
    """scikit-learn's loosest tolerance whose objective is within GAP of the best, and how far it is."""
    for tolerance in TOLERANCES:
        model, x = scikit_learn(train, labels, penalty, tolerance)
        gap = objective(model.coef_, model.intercept_, x, labels, penalty) - best
        if gap <= GAP:
            return tolerance, gap
    raise RuntimeError(f"scikit-learn does not come within {GAP} of {best}")


def against_scikit_learn(kind: str, task: Task, rounds: int) -> tuple[list[list[str]], dict[str, list[float]]]:
    """Rows of the table, and seconds."""
    train, labels = task.train["x"], task.train_labels
    rows, seconds = [], {}
    for penalty in SKLEARN_PENALTIES:
        best = ours(train, labels, penalty)
        tolerance, gap = good_enough(train.numpy(), labels.numpy(), penalty, best)
        sides = {
            "scikit-learn": lambda p=penalty, t=tolerance: scikit_learn(train.numpy(), labels.numpy(), p, t),
            "ours": lambda p=penalty: ours(train, labels, p),
        }
        found = measure(sides, rounds)
        cells = [f"{statistics.median(found['scikit-learn'][0]):.2f} s, +{max(gap, 0):.0e}"]
        cells.append(f"{statistics.median(found['ours'][0]):.2f} s, objective {best:.7f}")
        name = f"{kind}, lambda {penalty:g}: scikit-learn, tol {tolerance:g}"
        rows.append([name, *cells, f"{ratio(found, 'scikit-learn', 'ours'):.1f}", ">= 1"])
        seconds |= {f"{kind}, lambda {penalty:g}: {name}": times for name, (times, _) in found.items()}
    return rows, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", help="CIFAR-10 as loose JPEG files: train/CLASS/NAME.jpg, test/CLASS/NAME.jpg")
    parser.add_argument("--train", type=int, default=5_000)
    parser.add_argument("--test", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    (images, labels), (test_images, test_labels) = (
        read_images(options.archive, split, count)
        for split, count in (("train", options.train), ("test", options.test))
    )
    train, test = encode(images), encode(test_images)
    rows, seconds = [], {}
    for kind in train:
        task = Task(
            train={"x": train[kind]},
            train_labels=labels,
            test={"x": test[kind]},
            test_labels=test_labels,
            num_classes=10,
            seed=0,
        )
        for part in (against_sgd, against_scikit_learn):
            more, times = part(f"{kind}, {train[kind].shape[1]} dimensions", task, options.rounds)
            rows += more
            seconds |= times
    write_results(
        "probe",
        title=f"Linear probe on cached features, {len(labels):,} images of CIFAR-10, CPU seconds of one thread",
        header=("what we compare with", "it", "ours", "times faster", "target"),
        rows=rows,
        details={"seconds": seconds},
    )


if __name__ == "__main__":
    main()
