"""The views that recipes ask for, and a counter of what torch's operators make a GPU do; no GPU is needed."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.recipe_lookup import make_run

RECIPES = ["simclr_r50_in1k", "byol_r50_in1k", "swav_r50_in1k", "dino_vits16_in1k", "mae_vitb16_in1k"]
FREE = {
    *("alias", "detach", "expand", "permute", "select", "slice", "split", "squeeze", "unbind", "unsqueeze", "view"),
    *("empty", "empty_like", "empty_strided", "prim::device"),
}
"""Operators that start no kernel."""


def views_of_recipes() -> dict[str, ViewSpec]:
    found = {"finetune": ViewSpec(views=(RandomView(size=224, scale=(0.08, 1.0), rand_augment=9.0, erase=0.25),))}
    for recipe in RECIPES:
        with torch.device("meta"):
            found[recipe.partition("_")[0]] = fresh_objective(make_run(recipe)).views()
    return found


class GpuWork(TorchDispatchMode):
    """Kernels and copies to the GPU, of fake tensors."""

    def __init__(self):
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.copies = self.waits = self.inverses = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        if name in ("div", "div_"):  # by a Python number: a GPU multiplies by its inverse, which rounds otherwise
            self.inverses += not isinstance(args[1], torch.Tensor)
        devices = {tensor.device.type for tensor in tensors if tensor.ndim}
        if devices == {"cpu", "cuda"}:
            self.copies += 1
            self.waits += not (kwargs or {}).get("non_blocking")
        elif "cuda" in devices and name not in FREE:
            self.kernels[name] += 1
        return result
