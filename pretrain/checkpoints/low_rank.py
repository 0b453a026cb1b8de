"""Low-rank steps (LoRA) by their names in a state dict: what is read of a checkpoint has them in the weights."""

from collections.abc import Mapping

from torch import Tensor

NAMES = ("lora_a", "lora_b")
"""Of the two parameters, at the end of their names."""


def is_step(name: str) -> bool:
    """Whether a parameter of this name is part of a low-rank step."""
    return name.endswith(NAMES)


def merged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the plain module: the steps added, and left out. What does not fit together stays as it is."""
    found = dict(tensors)
    for name, b in tensors.items():
        layer, _, last = name.rpartition(".")
        weight, a = (tensors.get(f"{layer}.{each}") for each in ("weight", NAMES[0]))
        if last != NAMES[1] or weight is None or a is None or (weight.ndim, a.ndim, b.ndim) != (2, 2, 2):
            continue
        if (*b.shape, *a.shape) == (weight.shape[0], a.shape[0], a.shape[0], weight.shape[1]):
            found[f"{layer}.weight"] = weight + b @ a
            del found[name], found[f"{layer}.{NAMES[0]}"]
    return found
