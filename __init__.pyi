"""What type checkers and editors are told of the package's functions, which are imported when they are first used."""

from eyespot.cluster.python_api.embedding import Embeddings, LoadedEncoder, embed, load
from eyespot.cluster.python_api.judging import Page, Results, evaluate, report
from eyespot.cluster.python_api.loading import SampleLoader, loader, objective
from eyespot.cluster.python_api.runs import Trained, fit, recipe, recipes
from eyespot.data_pipeline.errors import Outage, UserError

__version__: str
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
