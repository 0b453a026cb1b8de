"""Finds recipes by name: the functions of the files in ``recipes/``, those of installed packages, and anybody's."""

import difflib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain import installed_recipes, trusted_recipes
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


def installed_names() -> tuple[dict[installed_recipes.Method, dict[str, Callable[[], Run]]], list[str]]:
    """The recipes of packages that the user has installed, by method; and a line for each that cannot be had."""
    methods, wrong = installed_recipes.methods()
    found = {}
    for method in methods:
        try:
            found[method] = method.recipes()
        except UserError as error:
            wrong.append(str(error))
    return found, wrong


def all_names() -> dict[str, Callable[[], Run]]:
    """All recipes that can be called by a name: ours, and those of installed packages that can be imported."""
    installed, _ = installed_names()
    return {name: one for there in (*installed.values(), recipe_names()) for name, one in there.items()}


def gates() -> dict[str, Gate]:
    """By method, the ``GATE`` of each file ``recipes/<method>.py`` that has one."""
    return {method: module.GATE for method, module in _files() if hasattr(module, "GATE")}


def _files() -> Iterator[tuple[str, ModuleType]]:
    for info in pkgutil.iter_modules(importlib.import_module(RECIPES).__path__):
        yield info.name, importlib.import_module(f"{RECIPES}.{info.name}")


def make_run(recipe: str) -> Run:
    """A fresh Run of the recipe that the user has named, or of ``package.module:function`` where it lives elsewhere.

    The package may lie in the current folder. What goes wrong inside the user's own module is raised as it is.
    ``recipe`` of what is returned is how run folders name it: of an installed package's ``package.module:function``.

    Raises:
        UserError: there is no such recipe.
    """
    if _is_own(recipe):
        recipe, function = _named(recipe)
        run = function()
    else:
        trusted_recipes.trust(recipe)
        with _current_folder_first():
            run = _function(recipe)()
    if not isinstance(run, Run):
        raise UserError(f"recipe {recipe!r}: returns {type(run).__name__}, not a Run")
    run.recipe = recipe
    return run


def make_recorded(recipe: str, source: str) -> Run:
    """A fresh Run of the recipe that a file names: ours, an installed package's, or of a module that the user trusts.

    Args:
        recipe: its name.
        source: the file.

    Returns:
        The run; its ``recipe`` is how run folders name it, as of ``make_run``.

    Raises:
        UserError: it is neither, or there is no such recipe.
    """
    module = recipe.partition(":")[0]
    trusted = trusted_recipes.is_trusted(module)
    if _is_own(recipe):
        name, own = _named(recipe)
        return _checked(own(), name, source)
    if not trusted and (installed := installed_recipes.find(recipe)):
        return _checked(installed[1](), installed[0], source)
    if not trusted:
        raise UserError(
            f"{source}: names the recipe {recipe!r}, code that is not eyespot's; if it is yours, or you trust who wrote"
            f" it, add {trusted_recipes.FLAG} {module}"
        )
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    function = _function(recipe)
    if not (inspect.isfunction(function) and trusted_recipes.is_trusted(function.__module__)):
        raise UserError(f"{source}: names the recipe {recipe!r}, which {module} does not define")
    return _checked(function(), recipe, source)


def _checked(run: object, recipe: str, source: str) -> Run:
    if not isinstance(run, Run):
        raise UserError(f"{source}: names the recipe {recipe!r}, which returns {type(run).__name__}, not a Run")
    run.recipe = recipe
    return run


def _is_own(recipe: str) -> bool:
    """Whether the name can only mean one of eyespot's, or, without a module, one of an installed package's."""
    return ":" not in recipe or recipe.partition(":")[0].partition(".")[0] == "eyespot"


def _named(recipe: str) -> tuple[str, Callable[[], Run]]:
    """A recipe of eyespot's, by its name or as module:function, or of an installed package; and how files name it."""
    recipes = recipe_names()
    module, _, name = recipe.rpartition(":")
    found = recipes.get(name)
    if found is not None and module in ("", found.__module__):
        return recipe, found
    if not module and (installed := installed_recipes.find(name)):
        return installed
    recipes = all_names()
    close = difflib.get_close_matches(name, recipes, n=1)
    nearest = difflib.get_close_matches(name, recipes, n=3, cutoff=0.0)
    hint = f"perhaps you meant {close[0]}" if close else f"the nearest are {', '.join(nearest)}"
    if name.endswith(".py") or "." in name:
        hint = "a recipe of your own is named as package.module:function"
    raise UserError(f"recipe {recipe!r}: unknown; {hint}; all are listed by: eyespot recipes")


def _function(recipe: str) -> Callable[[], object]:
    """The function that ``package.module:function`` names, whosever it is."""
    module_name, _, name = recipe.partition(":")
    if not trusted_recipes.is_module(module_name):
        path = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise UserError(f"recipe {recipe!r}: write it as package.module:function: {path}:{name or 'function'}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            _note_move(error)
            raise
        raise UserError(
            f"recipe {recipe!r}: {error}; write it as package.module:function, in the folder that holds the package or"
            " with that folder in PYTHONPATH"
        ) from error
    except ImportError as error:
        _note_move(error)
        raise
    function = getattr(module, name, None)
    if function is None:
        there = [known for known, value in vars(module).items() if inspect.isfunction(value) and known[0] != "_"]
        names = ", ".join(there) or "none"
        raise UserError(f"recipe {recipe!r}: {module_name} has no function {name!r}; its functions: {names}")
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:
        raise UserError(f"recipe {recipe!r}: cannot be called without arguments ({error})") from error
    return function


def _note_move(error: ImportError) -> None:
    """A word for the user's own error, where it is our names that have changed."""
    if (error.name or "").split(".")[0] == "eyespot":
        error.add_note("eyespot's modules have moved, see CHANGELOG.md")


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """As ``python -m`` looks for modules; afterwards the current folder comes last, for what they import later."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
