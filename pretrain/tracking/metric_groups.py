"""What the numbers of metrics.jsonl are called where people look at charts: ``loss`` is ``train/loss`` there.

MLflow, TensorBoard and W&B make a section of all names before a slash, in alphabetical order. What says nothing about
learning is in ``system``, for which MLflow has a page of its own. The names in metrics.jsonl stay as they are.
"""

_OPTIM = {"lr", "grad_norm"}
_SYSTEM = {"images_per_second", "frames_per_second", "mfu", "peak_memory_gb", "data_wait_share"}


def grouped(name: str) -> str:
    """The name with its section. One that has a slash keeps it; what a method says of itself belongs to ``train``."""
    if name in _SYSTEM or name.startswith("time_share/"):
        return f"system/{name}"
    if "/" in name:
        return name
    return f"optim/{name}" if name in _OPTIM else f"train/{name}"
