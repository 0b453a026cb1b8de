"""eyespot: self-supervised pretraining for vision, from shards to released weights.

    import eyespot
    run = eyespot.recipe("simclr_r10_caltech10", data={"shards": "data/caltech10"}, run_dir="runs/first")
    eyespot.fit(run)
    encoder = eyespot.load("runs/first")
    embeddings = eyespot.embed(encoder, "photos/")
    eyespot.evaluate("linear", "runs/first", "data/caltech10")

What ``__all__`` lists is public; docs/python.md says what that promises. Nothing heavy is imported before it is used;
``__init__.pyi`` tells type checkers what will be.
"""

import importlib
import warnings
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "Embeddings",
    "LoadedEncoder",
    "Outage",
    "Page",
    "Results",
    "SampleLoader",
    "Trained",
    "UserError",
    "__version__",
    "embed",
    "evaluate",
    "fit",
    "load",
    "loader",
    "objective",
    "recipe",
    "recipes",
    "report",
]

_API = "eyespot.cluster.python_api"
_PLACES = {
    **dict.fromkeys(("Trained", "fit", "recipe", "recipes"), f"{_API}.runs"),
    **dict.fromkeys(("Embeddings", "LoadedEncoder", "embed", "load"), f"{_API}.embedding"),
    **dict.fromkeys(("SampleLoader", "loader", "objective"), f"{_API}.loading"),
    **dict.fromkeys(("Page", "Results", "evaluate", "report"), f"{_API}.judging"),
    **dict.fromkeys(("Outage", "UserError"), "eyespot.data_pipeline.errors"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        there = ", ".join(__all__)
        raise AttributeError(f"module 'eyespot' has no attribute {name!r}; its functions: {there}")
    # In a notebook without ipywidgets tqdm would advise each reader, as others import it, to install them.
    warnings.filterwarnings("ignore", "IProgress not found")
    value = globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
