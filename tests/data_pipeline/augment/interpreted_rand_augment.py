"""A program, not a test: what the kernels of RandAugment make of photographs, interpreted on the CPU.

    TRITON_INTERPRET=1 python interpreted_rand_augment.py

As interpreted_views.py, for test_rand_augment_kernels.py.
"""

import json

import numpy as np
import torch
from interpreted_views import AS_LEVELS, drawn, photographs

from eyespot.data_pipeline.augment.color import Operation
from eyespot.data_pipeline.augment.pipeline import OPERATIONS, Alteration
from eyespot.data_pipeline.augment.rand_augment import CHOICES
from eyespot.data_pipeline.augment.view_tables import view_tables
from eyespot.data_pipeline.augment.views import IMAGENET_MEAN, IMAGENET_STD, RandomView
from eyespot.data_pipeline.loading.finish_views import ViewFinisher, _KernelWork, finish_by_torch

JITTER = (0.8, 0.8, 0.8, 0.2)


def augmented(rows: list[list[tuple[Operation, float]]]) -> list[dict[str, float]]:
    """Of each sequence of RandAugment's operations on a photograph of its own: how far the kernels are from torch."""
    steps = np.array([[OPERATIONS.index(operation) for operation, _ in row] for row in rows], np.int8)
    alteration = Alteration(steps=steps, amounts=np.array([[amount for _, amount in row] for row in rows], np.float32))
    pixels = photographs(len(rows), 24)
    tables = view_tables(alteration, len(rows), 24)
    assert tables is not None and tables.augment is not None, "made by torch"
    found = _KernelWork(tables, *AS_LEVELS).made(pixels, torch.float32)
    expected, unchanged = (finish_by_torch(pixels, each, *AS_LEVELS) for each in (alteration, None))
    apart, changed = (found - expected).abs().flatten(1), (expected - unchanged).abs().flatten(1)
    return [
        {"wrong": one.max().item(), "share": (one > 1e-3).float().mean().item(), "changed": other.mean().item()}
        for one, other in zip(apart, changed, strict=True)
    ]


def of_strengths(*strengths: float) -> list[tuple[Operation, float]]:
    """Every operation at these strengths, in both directions where there are two."""
    signed = [(np.array([strength]), np.array([sign])) for strength in strengths for sign in (-1.0, 1.0)]
    every = [(operation, float(amount(*numbers)[0])) for operation, amount in CHOICES for numbers in signed]
    return list(dict.fromkeys(every))


def alone() -> dict[str, dict[str, float]]:
    steps = of_strengths(0.04, 0.5, 1.0)
    names = [f"{operation.__name__} {amount:.3g}" for operation, amount in steps]
    return dict(zip(names, augmented([[step] for step in steps]), strict=True))


def in_pairs() -> dict[str, dict[str, float]]:
    each = dict(of_strengths(0.7))
    pairs = [[one, two] for one in each.items() for two in each.items()]
    return {" ".join(e.__name__ for e, _ in pair): found for pair, found in zip(pairs, augmented(pairs), strict=True)}


def ended(view: RandomView, count: int) -> dict[str, float]:
    """As ``difference``, of a view that is erased and mirrored after its steps; rotations round in their own way."""
    pixels, alteration, flip = photographs(count, view.size), drawn(view, count), np.arange(count) % 2 == 0
    assert alteration is not None and alteration.erasing is not None and alteration.erasing.boxes.any()
    finish = ViewFinisher(IMAGENET_MEAN, IMAGENET_STD)
    (found,), _ = finish([pixels], [alteration], flip=[flip])
    assert list(finish._proven.values()) == [True], "made by torch"
    expected = finish_by_torch(pixels, alteration, IMAGENET_MEAN, IMAGENET_STD)
    expected[flip] = expected[flip].flip(3)
    return {"share": ((found - expected).abs() > 1e-4).float().mean().item()}


def main() -> None:
    torch.set_num_threads(1)
    found = {
        "alone": alone(),
        "pairs": in_pairs(),
        "erased": ended(RandomView(size=32, jitter=JITTER, blur=0.5, solarize=0.2, erase=0.5), 8),
        "augmented": ended(RandomView(size=32, rand_augment=9.0, erase=0.5), 40),
        "all": ended(RandomView(size=32, jitter=JITTER, grayscale=0.2, blur=0.5, rand_augment=9.0, erase=0.5), 24),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
