"""What the words after a command ask for: a recipe or a recorded run, config files laid over it, and then flags.

    eyespot pretrain mae_tiny --config run.toml --steps 300
    eyespot pretrain --config site.toml --config run.toml       the second wins; one of them names the recipe
    eyespot pretrain --from runs/first --config run.toml        the settings of a run in place of a recipe's

``--from``, ``--config`` and ``--print-config`` may stand anywhere; all other words are the recipe and its flags.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eyespot.cluster.arguments import parse
from eyespot.cluster.config_files.setting_names import as_typed, leaves, unknown
from eyespot.cluster.config_files.toml_file import TomlFile, read_toml
from eyespot.cluster.run_length import Length, settings_named_in, settled
from eyespot.cluster.start_model import with_model, with_teacher
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.terminal import one_line
from eyespot.pretrain.config import Run
from eyespot.pretrain.recipe_lookup import make_recorded, make_run
from eyespot.pretrain.run_json import load_run, overlay, shortened

_OF_FILES = ("--from", "--config", "--print-config")


@dataclass(kw_only=True, slots=True)
class Request:
    """A run whose flags have yet to be read."""

    recipe: str
    recipe_run: Run
    """The recipe's settings, or those of the run that is repeated."""
    run: Run
    """The same with the config files laid over it."""
    files: Sequence[TomlFile] = ()
    said: Sequence[str] = ()
    """What the files say, as flags: "--optim.lr"."""
    epochs: float | None = None
    """The length that they say in epochs."""
    flags: Sequence[str] = ()
    """The words that remain."""
    prog: str = ""
    """What stands before them, for the help text."""
    print_config: bool = False

    def with_flags(self) -> Run:
        """The run that is asked for.

        Raises:
            UserError: a flag is wrong, or what it makes of the files' settings is.
        """
        with self.blamed():
            found = parse(Length, list(self.flags), self.prog, default=Length(run=self.run))
            return self.settled(found.run, found.epochs)

    def says_length(self) -> bool:
        """Whether a file or a flag says how long the run is."""
        return self.epochs is not None or "steps" in settings_named_in([*self.said, *self.flags])

    def settled(self, run: Run, epochs: float | int | None, images: int | None = None) -> Run:
        """The run with its start, its length and what follows; see ``start_model``, ``run_length.settled``."""
        own = settings_named_in([*self.said, *self.flags])
        run = with_teacher(with_model(run, own), own)
        if epochs is not None or "steps" in settings_named_in(self.flags):
            return settled(run, self.recipe_run, self.flags, epochs, images, self.said, self.run.steps)
        return settled(run, self.recipe_run, [*self.said, *self.flags], self.epochs, images)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Errors about what a file says, and no flag, name the file and the line."""
        try:
            yield
        except UserError as error:
            name = _field(str(error))
            if name in settings_named_in(self.flags) or (place := place_of(self.files, name)) is None:
                raise
            raise UserError(f"{place}: {error}") from error


def _recipe(word: str) -> tuple[str, Run]:
    """A recipe's run, and how run folders name the recipe."""
    run = make_run(word)
    return run.recipe, run


def asked(words: Sequence[str], command: str, made: Callable[[str], tuple[str, Run]] = _recipe) -> Request:
    """What ``words`` ask for.

    Args:
        words: those after the command.
        command: "eyespot pretrain".
        made: what the first word means; it names a recipe.

    Raises:
        UserError: nothing says which recipe; a file or what it says is wrong.
    """
    rest, given = _taken(words)
    files = [read_toml(Path(name)) for name in given["--config"]]
    prog = " ".join([command, *(f"{flag} {one}" for flag in _OF_FILES[:2] for one in given[flag])])
    if rest and not rest[0].startswith("-"):
        if given["--from"]:
            raise UserError(f"recipe {rest[0]}: --from {given['--from'][-1]} says it already; leave one of them out")
        recipe, run = made(rest[0])
        prog, rest = f"{prog} {rest[0]}", rest[1:]
    elif given["--from"]:
        if len(given["--from"]) > 1:
            raise UserError(f"--from {' and '.join(given['--from'])}: name one run; what differs goes into --config")
        recipe, run = load_run(Path(given["--from"][0]))
        run.resume, run.stop_after = "never", None
        _refuse_other_recipe(files, recipe)
    else:
        recipe, run = _named(files, rest[:1], command)
    found = laid(recipe, run, files, rest)
    return replace(found, prog=prog, print_config=bool(given["--print-config"]))


def laid(recipe: str, run: Run, files: Sequence[TomlFile], flags: Sequence[str] = ()) -> Request:
    """Config files over a run, the later over the earlier, whatever recipe they name.

    Raises:
        UserError: one of them names a setting that the run has not, or says something wrong of it.
    """
    values: dict[str, Any] = {}
    for file in files:
        new = {name: value for name, value in file.values.items() if name != "recipe"}
        for length, other in (("steps", "epochs"), ("epochs", "steps")):
            if length in new and other in new:
                raise UserError(f"{file.place(length)}: {length} and {other} both say how long the run is; keep one")
            if length in new:
                values.pop(other, None)
        values = _merged(values, new)
    request = Request(recipe=recipe, recipe_run=run, run=run, files=files, flags=flags)
    if not files:
        return request
    request.said = [f"--{name}" for name in leaves(values)]
    try:
        epochs = length_in_epochs(run, values.pop("epochs", None))
        if (wrong := unknown(run, values)) is not None:
            raise UserError(f"{wrong[0]}: there is no such setting in {recipe}; {wrong[1]}")
        over = overlay(run, as_typed(run, values), "", partial=True)
    except UserError as error:
        said = str(error).removeprefix(": ")
        raise UserError(f"{place_of(files, _field(said)) or files[-1].path}: {said}") from error
    request.epochs, request.run = epochs, over
    return request


def place_of(files: Sequence[TomlFile], name: str) -> str | None:
    """File and line of what a setting is by; None = no file says it."""
    return next((file.place(name) for file in reversed(files) if name and file.says(name)), None)


def _field(said: str) -> str:
    """Of which setting an error speaks."""
    found = re.match(r"[A-Za-z_][\w.]*", said)
    return found[0].rstrip(".") if found else ""


def _taken(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The words without those of files, and the values of these."""
    given: dict[str, list[str]] = {flag: [] for flag in _OF_FILES}
    rest: list[str] = []
    left = iter(words)
    for word in left:
        flag, sign, value = word.partition("=")
        flag = flag.replace("_", "-")
        if flag not in given:
            rest.append(word)
        elif flag == "--print-config":
            given[flag].append("")
        else:
            value = value if sign else next(left, "")
            if not value or value.startswith("--"):
                what = "the run.json (or run folder) to repeat" if flag == "--from" else "a TOML file of settings"
                raise UserError(f"{flag}: needs {what}")
            given[flag].append(value)
    return rest, given


def named_in(file: TomlFile) -> tuple[str, Run] | None:
    """The recipe that a file names, if it names one. Whoever wrote the file chose it: it runs no code of others.

    Raises:
        UserError: there is none of that name, or it is of a module that the user does not trust.
    """
    if (recipe := file.values.get("recipe")) is None:
        return None
    place = file.place("recipe")
    if not isinstance(recipe, str):
        raise UserError(f'{place}: recipe {shortened(recipe)}: write it as text: recipe = "mae_tiny"')
    try:
        run = make_recorded(recipe, place)
    except UserError as error:
        said = str(error)
        raise UserError(said if said.startswith(place) else f"{place}: {said}") from error
    return run.recipe, run


def _named(files: Sequence[TomlFile], before: Sequence[str], command: str) -> tuple[str, Run]:
    """The recipe of the last file that names one."""
    if found := next(filter(None, map(named_in, reversed(files))), None):
        return found
    if files:
        raise UserError(
            f'recipe: {files[-1].path} names none; write recipe = "..." at its top, or: {command} RECIPE --config'
            f" {files[-1].path}"
        )
    where = f" before {one_line(before[0])}" if before else ""
    raise UserError(f"recipe: missing{where}; write: {command} RECIPE {' '.join(before)} ...")


def _refuse_other_recipe(files: Sequence[TomlFile], recipe: str) -> None:
    for file in files:
        other = file.values.get("recipe", recipe)
        if other != recipe and (found := named_in(file)) is not None and found[0] != recipe:
            raise UserError(
                f"{file.place('recipe')}: recipe {shortened(other)}: the run of --from is of {recipe}; leave one out"
            )


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        name: _merged(one[name], other[name])
        for name in one.keys() & other.keys()
        if isinstance(one[name], Mapping) and isinstance(other[name], Mapping)
    }
    return {**one, **other, **both}


def length_in_epochs(run: Run, value: Any) -> float | None:
    """What a file or a program says as ``--epochs``; None = nothing.

    Raises:
        UserError: it is no number, or out of range.
    """
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e300:
        raise UserError(f"epochs {shortened(value)}: expected a number")
    return Length(run=run, epochs=float(value)).epochs
