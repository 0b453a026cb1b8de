"""A program, not a test: what the Triton kernels make of photographs, interpreted on the CPU.

    TRITON_INTERPRET=1 python interpreted_views.py SPECS      SPECS: a pickle of ``view_counts.views_of_recipes()``

Triton wants to be told so before it is imported: test_view_kernels.py runs this in a process of its own, and reads the
JSON that it prints.
"""

import functools
import io
import json
import logging
import pickle
import sys
import tarfile
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from triton.runtime import interpreter

from eyespot.data_pipeline.augment import view_kernels
from eyespot.data_pipeline.augment.pipeline import NOTHING, OPERATIONS, Alteration, view_alteration
from eyespot.data_pipeline.augment.views import IMAGENET_MEAN, IMAGENET_STD, RandomView, ViewSpec
from eyespot.data_pipeline.loading.finish_views import ViewFinisher, finish_by_torch
from eyespot.data_pipeline.shards.sources import CALTECH10

AS_LEVELS = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
AMOUNTS = {
    "brightness": (0.0, 0.6, 1.0, 1.7),
    "contrast": (0.0, 0.4, 1.0, 1.8),
    "saturation": (0.0, 0.4, 1.0, 1.8),
    "hue": (-0.5, -0.21, 0.0, 0.1, 0.5),
    "blur": (0.1, 0.5, 1.0, 1.99),
    "solarize": (0.0,),
}


@functools.cache  # reading the archive costs more than what is done with them
def photographs(count: int, size: int) -> torch.Tensor:
    """(count, 3, size, size) 8-bit, channels last, drawn from the 2,000 that the package brings."""
    with tarfile.open(CALTECH10) as tar:
        files = sorted((member for member in tar if member.isfile()), key=lambda member: member.name)
        chosen = np.random.default_rng(size).choice(len(files), count, replace=False)
        images = [Image.open(io.BytesIO(tar.extractfile(files[n]).read())).convert("RGB") for n in sorted(chosen)]
    pixels = np.stack([np.asarray(image.resize((size, size))) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def difference(pixels: torch.Tensor, alteration: Alteration | None, colors: Any = AS_LEVELS) -> dict[str, float]:
    """Between the kernels and the operators of color.py; and how much was changed at all."""
    finish = ViewFinisher(*colors)
    (found,), _ = finish([pixels], [alteration])
    assert list(finish._proven.values()) == [True], "made by torch"
    expected = finish_by_torch(pixels, alteration, *colors)
    unchanged = finish_by_torch(pixels, None, *colors)
    return {
        "wrong": (found - expected).abs().max().item(),
        "changed": (expected - unchanged).abs().mean().item(),
    }


def one_step(name: str, amount: float, count: int) -> Alteration:
    number = [operation.__name__ for operation in OPERATIONS].index(name)
    return Alteration(
        steps=np.full((count, 1), number, np.int8), amounts=np.full((count, 1), amount, np.float32), erasing=None
    )


def all_orders() -> Alteration:
    """The 24 orders of a jitter; every other view blurred, every third solarized after that."""
    steps = np.full((24, 7), NOTHING, np.int8)
    steps[:, :4] = list(permutations(range(4)))
    names = [operation.__name__ for operation in OPERATIONS]
    steps[::2, 5], steps[::3, 6] = names.index("blur"), names.index("solarize")
    numbers = np.random.default_rng(0).random((24, 7))
    amounts = np.where(steps == names.index("hue"), 0.4 * numbers - 0.2, 0.3 + 1.5 * numbers).astype(np.float32)
    return Alteration(steps=steps, amounts=amounts)


def drawn(view: RandomView, count: int) -> Alteration | None:
    return view_alteration(view, "view0", 0, np.zeros(count, np.int64), np.arange(count))


def in_half_precision() -> dict[str, float]:
    """In units of bfloat16's last place; the interpreter cuts off where a GPU rounds."""
    pixels = photographs(6, 24)
    alteration = drawn(RandomView(size=24, jitter=(0.4, 0.4, 0.4, 0.1), blur=0.5), 6)
    (found,), _ = ViewFinisher(IMAGENET_MEAN, IMAGENET_STD, dtype=torch.bfloat16)([pixels], [alteration])
    assert found.dtype == torch.bfloat16
    expected = finish_by_torch(pixels, alteration, IMAGENET_MEAN, IMAGENET_STD)
    place = 2.0 ** (torch.frexp(expected).exponent - 8)
    return {"wrong": ((found.float() - expected).abs() / place).max().item()}


class Traffic:
    """Launches of kernels, and the different bytes that each of them reads and writes."""

    def __init__(self) -> None:
        self.launches: list[int] = []
        self._touched: dict[str, list[np.ndarray]] = {}
        builder, start = interpreter.interpreter_builder, interpreter.GridExecutor.__call__
        load, store = builder.create_masked_load, builder.create_masked_store

        def note(kind: str, pointers: Any, mask: Any) -> None:
            width = pointers.get_element_ty().primitive_bitwidth // 8
            places = np.broadcast_to(pointers.data, np.shape(mask.data))[mask.data]
            self._touched.setdefault(f"{kind} {width}", []).append(places.ravel())

        def noted_load(pointers: Any, mask: Any, *rest: Any) -> Any:
            note("read", pointers, mask)
            return load(pointers, mask, *rest)

        def noted_store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
            note("written", pointers, mask)
            return store(pointers, value, mask, *rest)

        def noted_start(executor: Any, *arguments: Any, **options: Any) -> None:
            self._touched.clear()
            start(executor, *arguments, **options)
            sizes = [
                int(kind.split()[1]) * len(np.unique(np.concatenate(places))) for kind, places in self._touched.items()
            ]
            self.launches.append(sum(sizes))

        builder.create_masked_load, builder.create_masked_store = noted_load, noted_store
        interpreter.GridExecutor.__call__ = noted_start


def costs(spec: ViewSpec, traffic: Traffic) -> list[dict[str, float]]:
    """Of each different view of a recipe made small: launches, and bytes in units of reading and writing it once."""
    size, found = 32, []
    for view in dict.fromkeys(spec.views):
        count, flips = (24, 12) if isinstance(view, RandomView) and view.rand_augment else (10, 0)
        for dtype, width in ((torch.float32, 4), (torch.bfloat16, 2)):
            finish = ViewFinisher(spec.mean, spec.std, dtype=dtype)
            batch = [photographs(count, size)], [drawn(replace(view, size=size), count)], (), [np.arange(count) < flips]
            finish(*batch)
            traffic.launches.clear()
            finish(*batch)
            once = count * size * size * 3 * (1 + width)
            found.append({"launches": len(traffic.launches), "passes": sum(traffic.launches) / once})
    return found


def fallbacks() -> list[bool]:
    """Where a kernel raises or writes something else, torch makes the views, the first batch's too, and says so."""
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logging.getLogger("eyespot").addHandler(handler)
    pixels, alteration = photographs(4, 24), drawn(RandomView(size=24, jitter=(0.4, 0.4, 0.4, 0.1)), 4)
    expected, right, results = finish_by_torch(pixels, alteration, *AS_LEVELS), view_kernels.finish_by_kernels, []

    def no_compiler(*_: Any) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    def wrong(*arguments: Any) -> None:
        right(*arguments)
        arguments[-1][1, 0, 3, 3] += 1

    for broken, word in ((no_compiler, "C compiler"), (wrong, "other values")):
        view_kernels.finish_by_kernels = broken
        finish = ViewFinisher(*AS_LEVELS)
        made = [finish([pixels], [alteration])[0][0] for _ in range(2)]
        results.append(all(torch.equal(each, expected) for each in made) and len(heard) == 1 and word in heard.pop())
    view_kernels.finish_by_kernels = right
    return results


def main() -> None:
    torch.set_num_threads(1)
    small = photographs(4, 24)
    strong = RandomView(size=64, jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, blur=0.5, solarize=0.2)
    found: dict[str, Any] = {
        "steps": {
            f"{name} {amount}": difference(small, one_step(name, amount, 4))
            for name, amounts in AMOUNTS.items()
            for amount in amounts
        },
        "orders": difference(photographs(24, 24), all_orders()),
        "larger": difference(photographs(6, 64), drawn(strong, 6), (IMAGENET_MEAN, IMAGENET_STD)),
        "odd": difference(photographs(3, 45), drawn(replace(strong, size=45, blur=1.0), 3)),
        "nothing": difference(small, None, (IMAGENET_MEAN, IMAGENET_STD)),
        "half": in_half_precision(),
        "fallbacks": fallbacks(),
    }
    specs, traffic = pickle.loads(Path(sys.argv[1]).read_bytes()), Traffic()
    found["costs"] = {method: costs(spec, traffic) for method, spec in specs.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
