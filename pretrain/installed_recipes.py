"""Recipes of other packages that the user has installed: what they declare as entry points.

::

    [project.entry-points."eyespot.recipes"]
    my_method = "my_package.recipes"

The name is a method's, the value the module with its recipes: functions ``my_method_*`` that return a fresh ``Run``, as
in each file of ``pretrain/recipes``. What is declared is read without importing anything; a module is imported only
when one of its recipes may be meant. Who installs a package trusts it, so run folders may name its recipes. What lies
in the current folder is not installed: that may be a stranger's run folder, and Python may look there first. Imports no
torch.
"""

import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyespot.data_pipeline.errors import UserError
from eyespot.pretrain.trusted_recipes import is_module

GROUP = "eyespot.recipes"
OURS = "eyespot.pretrain.recipes"


@dataclass(kw_only=True, slots=True, frozen=True)
class Method:
    """What a package declares."""

    name: str
    """What the names of its recipes begin with, before an underscore."""
    module: str
    """Where they are."""
    package: str
    """The distribution, as pip calls it."""

    def __str__(self) -> str:
        return f"package {self.package}: method {self.name} of {self.module}"

    def may_mean(self, recipe: str) -> bool:
        """Whether the recipe, called by its name or as ``module:function``, can only be this method's."""
        module, _, function = recipe.rpartition(":")
        return module in ("", self.module) and function.startswith(f"{self.name}_")

    def recipes(self) -> dict[str, Callable[[], Any]]:
        """Its recipes by name, imported from where they are installed.

        Raises:
            UserError: the module cannot be imported, or has none.
        """
        try:
            with _without_current_folder():
                module = importlib.import_module(self.module)
        except Exception as error:
            raise UserError(
                f"{self}: cannot be imported ({type(error).__name__}: {error}); see: python -c 'import {self.module}'"
            ) from error
        functions = inspect.getmembers(module, inspect.isfunction)
        found = {name: one for name, one in functions if self.may_mean(name) and one.__module__ == self.module}
        if not found:
            raise UserError(f"{self}: has no recipe; write a function {self.name}_tiny there that returns a Run")
        return found


def methods() -> tuple[list[Method], list[str]]:
    """All that installed packages declare, by name; and what is wrong with some of it, a line each. Imports nothing."""
    found: dict[str, list[Method]] = {}
    wrong = []
    for package, point in sorted(_entry_points()):
        method = Method(name=point.name, module=point.value, package=package)
        if not (point.name.isidentifier() and is_module(point.value)):
            wrong.append(f'package {package}: declares {point.name} = "{point.value}"; write my_method = "module"')
        elif _is_ours(point.name):
            wrong.append(f"{method}: is called like one of eyespot's own; give it another name")
        else:
            found.setdefault(point.name, []).append(method)
    for name, same in found.items():
        if len(same) > 1:
            packages = " and ".join(method.package for method in same)
            wrong.append(f"method {name}: {packages} both declare it; name its recipes as module:function")
    return [same[0] for _, same in sorted(found.items()) if len(same) == 1], wrong


def find(recipe: str) -> tuple[str, Callable[[], Any]] | None:
    """The recipe that is called so: ``module:function``, by which run folders name it, and the function.

    Args:
        recipe: its name, or ``module:function``.

    Returns:
        None where no installed package declares a method that it could be of.

    Raises:
        UserError: one does, and its module cannot be imported or has no such recipe.
    """
    declared = [method for method in methods()[0] if method.may_mean(recipe)]
    if not declared:
        return None
    function, there = recipe.rpartition(":")[2], {}
    for method in declared:
        there = method.recipes()
        if function in there:
            return f"{method.module}:{function}", there[function]
    raise UserError(f"recipe {recipe!r}: {declared[-1]} has no such recipe; it has {', '.join(there)}")


def _is_ours(name: str) -> bool:
    return importlib.util.find_spec(f"{OURS}.{name}") is not None


def _entry_points() -> Iterator[tuple[str, importlib.metadata.EntryPoint]]:
    """Those of GROUP, with the package that each is of, from all installed ones."""
    seen = set()
    for distribution in importlib.metadata.distributions(path=_installed_places()):
        try:
            points = [point for point in distribution.entry_points if point.group == GROUP]
            name = distribution.metadata["Name"] if points else None
        except (OSError, TypeError, ValueError):  # what pip has left of one, or nobody's format
            continue
        if name and name not in seen:  # an earlier place hides it
            seen.add(name)
            yield from ((name, point) for point in points)


def _installed_places() -> list[str]:
    """Where Python finds packages, without the current folder."""
    here = Path.cwd().resolve()
    return [entry for entry in sys.path if entry and Path(entry).resolve() != here]


@contextmanager
def _without_current_folder() -> Iterator[None]:
    """While a module is imported: ``python -m`` and notebooks look into the current folder before all others."""
    first = sys.path[:1]
    if not first or (first[0] and Path(first[0]).resolve() != Path.cwd().resolve()):
        yield
        return
    del sys.path[0]
    try:
        yield
    finally:
        sys.path[:0] = first
