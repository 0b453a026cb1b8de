"""Finds recipes and gates by name: the functions of the files in ``recipes/``, and what they call GATE."""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.config import Run
from eyespot.pretrain.recipes.gate import Gate

RECIPES = "eyespot.pretrain.recipes"


def recipe_names() -> dict[str, Callable[[], Run]]:
    """All built-in recipes: the functions ``<method>_*`` of each file ``recipes/<method>.py``."""
    found: dict[str, Callable[[], Run]] = {}
    for method, module in _files():
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith(f"{method}_") and function.__module__ == module.__name__:
                found[name] = function
    return found


def gates() -> dict[str, Gate]:
    """By method, the ``GATE`` of each file ``recipes/<method>.py`` that has one."""
    return {method: module.GATE for method, module in _files() if hasattr(module, "GATE")}


def _files() -> Iterator[tuple[str, ModuleType]]:
    for info in pkgutil.iter_modules(importlib.import_module(RECIPES).__path__):
        yield info.name, importlib.import_module(f"{RECIPES}.{info.name}")


def make_run(recipe: str) -> Run:
    """A fresh Run from a recipe's name, or from ``package.module:function`` for recipes that live elsewhere.

    Raises:
        UserError: there is no such recipe.
    """
    if ":" not in recipe:
        recipes = recipe_names()
        if recipe not in recipes:
            close = difflib.get_close_matches(recipe, recipes, n=1)
            hint = f"perhaps you meant {close[0]}" if close else f"there are {', '.join(sorted(recipes))}"
            raise UserError(f"recipe {recipe!r}: unknown; {hint}; see eyespot recipes")
        return recipes[recipe]()
    module_name, _, function_name = recipe.partition(":")
    try:
        run = getattr(importlib.import_module(module_name), function_name)()
    except (ImportError, AttributeError, TypeError) as error:
        ours = isinstance(error, ImportError) and (error.name or "").split(".")[0] == "eyespot"
        hint = "modules have moved, see CHANGELOG.md" if ours else "write it as package.module:function"
        raise UserError(f"recipe {recipe!r}: {error}; {hint}") from error
    if not isinstance(run, Run):
        raise UserError(f"recipe {recipe!r}: returns {type(run).__name__}, not a Run")
    return run
