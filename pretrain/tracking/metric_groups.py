"""What the numbers of metrics.jsonl are called where people look at charts: ``loss`` is ``train/loss`` there.

MLflow, TensorBoard and W&B make a section of all names before a slash. The names in metrics.jsonl stay as they are.
"""

_GROUPS = {
    "train": ("loss", "epoch"),
    "optim": ("lr", "grad_norm"),
    "data": ("samples_seen", "bad_samples", "refused_samples", "data_wait_share"),
    "speed": ("images_per_second", "frames_per_second", "mfu", "peak_memory_gb"),
}
_PLACES = {name: f"{group}/{name.removeprefix(f'{group}_')}" for group, names in _GROUPS.items() for name in names}


def grouped(name: str) -> str:
    """The name with its section. One that has a slash keeps it; what a method says of itself belongs to ``train``."""
    return name if "/" in name else _PLACES.get(name, f"train/{name}")
