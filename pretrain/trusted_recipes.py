"""Whose recipes this process may call: eyespot's, and those of modules that its user names with ``--trust-recipe``.

A run folder says in ``run.json`` which function made its settings. Whoever wrote the folder chose that name, so it is
imported only where the user has typed it himself: as the recipe of this command, or after ``--trust-recipe``. What a
command starts on its own (ranks, evaluations, doctor's probes) is told by the same flag. Imports no torch.
"""

import keyword

from eyespot.data_pipeline.errors import UserError

FLAG = "--trust-recipe"

_trusted: set[str] = set()


def take(argv: list[str]) -> list[str]:
    """``argv`` without ``--trust-recipe MODULE``, which may stand anywhere and often; these are trusted from now on.

    Raises:
        UserError: the flag has no value, or one that names no module.
    """
    _trusted.clear()
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word != FLAG and not word.startswith(f"{FLAG}="):
            kept.append(word)
            continue
        name = word.partition("=")[2] if "=" in word else next(words, "")
        if not is_module(name.partition(":")[0]):
            raise UserError(f"{FLAG} {name!r}: write it as package.module, whose recipes run folders may name")
        trust(name)
    return kept


def trust(recipe: str) -> None:
    """The user has named this recipe, or this module: run folders may name it, too."""
    _trusted.add(recipe.partition(":")[0])


def is_trusted(module: str) -> bool:
    """Whether the user has named the module, or a package that it lies in."""
    return any(module == name or module.startswith(f"{name}.") for name in _trusted)


def flags(*recipes: str) -> tuple[str, ...]:
    """What lets another process of this user's take the same recipes: those named here, else all that are trusted."""
    modules = {recipe.partition(":")[0] for recipe in recipes if ":" in recipe} if recipes else _trusted
    return tuple(word for module in sorted(modules) for word in (FLAG, module))


def is_module(name: str) -> bool:
    """Whether it can be the name of a module: words with dots between them."""
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))
