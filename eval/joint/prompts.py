"""Prompts: what is said of a class, so that a text tower knows it. Names and templates come from files of other people.

A template is a sentence with {} for the name, "a photo of a {}."; all of them are said of each class, as Radford et al.
2021 do (arXiv:2103.00020, section 3.1.4).
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.augment.views import TextView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.data_pipeline.terminal import plural

TEMPLATES = (
    "a photo of a {}.",
    "a picture that shows a {}.",
    "a {} in the middle of the picture.",
    "a {} seen from close by.",
    "a small {} in a large picture.",
    "a drawing of a {}.",
    "{}.",
)
LARGEST = 16 * 2**20
"""Bytes of a file of names or templates."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Wording:
    """What is said of the classes, as the user asks for it."""

    prompts: tuple[str, ...] = ()
    """Templates."""
    prompts_file: Path | None = None
    """Further ones, one a line."""
    names_file: Path | None = None
    """Names of the classes, one a line, in place of the manifest's."""

    def templates(self) -> tuple[str, ...]:
        """Those that are asked for; ours, if none are.

        Raises:
            UserError: a file cannot be read, holds none, or one is wrong.
        """
        given = [(f"--prompt {template!r}", template) for template in self.prompts]
        if self.prompts_file is not None:
            given += _lines(self.prompts_file, "--prompts", "one template a line, such as: a photo of a {}.")
        found: dict[str, str] = {}
        for said, template in given:
            if template.count("{}") != 1:
                raise UserError(f"{said}: must have {{}} once, where the name goes, as in: a photo of a {{}}.")
            if any(unicodedata.category(character) == "Cc" for character in template):
                raise UserError(f"{said}: holds control characters; remove them")
            if template in found:
                raise UserError(f"{said}: stands there twice; remove one")
            found[template] = said
        return tuple(found) or TEMPLATES

    def names(self, classes: Sequence[str]) -> list[str]:
        """Of the classes of a manifest: theirs, with blanks for underscores, or the file's.

        Raises:
            UserError: the file cannot be read, or has another number of lines; a name is empty, holds control
                characters or is that of two classes.
        """
        if self.names_file is None:
            said = [f"class {number}, {name!r}" for number, name in enumerate(classes)]
            names = [name.replace("_", " ").strip(" ") for name in classes]
            fix = "name the classes with --class-names FILE, one a line"
        else:
            fix = "give each class a name of its own"
            lines = _lines(self.names_file, "--class-names", "the name of one class a line, in their order")
            if len(lines) != len(classes):
                raise UserError(
                    f"--class-names {self.names_file}: has {plural(len(lines), 'name')}, and there"
                    f" are {len(classes)} classes;"
                    " write one a line, in the order of eyespot shards info"
                )
            said, names = [each for each, _ in lines], [name for _, name in lines]
        first: dict[str, int] = {}
        for number, name in enumerate(names):
            if not name:
                raise UserError(f"{said[number]}: has no name; {fix}")
            if any(unicodedata.category(character) == "Cc" for character in name):
                raise UserError(f"{said[number]}: holds control characters; {fix}")
            if (other := first.setdefault(name, number)) != number:
                raise UserError(f"{said[number]}: is also the name of class {other}; {fix}")
        return names


def _lines(path: Path, flag: str, what: str) -> list[tuple[str, str]]:
    """What a file's lines are called in a complaint, and the lines without the blanks around them, empty ones left out.

    Raises:
        UserError: it cannot be read, is no UTF-8 or has no lines.
    """
    try:
        text = foreign_json.read_bytes(path, LARGEST).decode("utf-8-sig")
    except foreign_json.ForeignJsonError as error:
        raise UserError(f"{flag} {path}: {error.why}; write {what}") from error
    except OSError as error:
        raise UserError(f"{flag} {path}: {error.strerror or error}; write {what}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{flag} {path}: is not UTF-8; write {what}") from error
    lines = [(f"{flag} {path}, line {number}", line.strip(" \t\r")) for number, line in enumerate(text.split("\n"), 1)]
    found = [(said, line) for said, line in lines if line]
    if not found:
        raise UserError(f"{flag} {path}: is empty; write {what}")
    return found


def prompt_tokens(
    names: Sequence[str], templates: Sequence[str], view: TextView
) -> Int64[np.ndarray, "classes prompts context"]:
    """What is said of each class, as token ids.

    Args:
        names: of the classes.
        templates: with {} for the name.
        view: how the run reads texts.

    Raises:
        UserError: a prompt is cut, or the prompts of two classes are the same to the tokenizer.
    """
    tokens, longer = (load_tokenizer(view.tokenizer, context) for context in (view.context, view.context + 1))
    fix = f"its texts have {plural(view.context, 'token')} (objective.text.context)"
    for name in names:
        for template in templates:
            if len(longer.ids(prompt := _said(template, name))) > view.context:
                raise UserError(f"class {name!r}: {prompt!r} would be cut, for {fix}; shorten name or template")
    found = tokens([_said(template, name) for name in names for template in templates])
    found = found.reshape(len(names), len(templates), view.context)
    seen: dict[bytes, str] = {}
    for name, rows in zip(names, found, strict=True):
        if (other := seen.setdefault(rows.tobytes(), name)) != name:
            raise UserError(
                f"class {name!r}: reads like class {other!r} to the run's tokenizer; name the classes with"
                " --class-names FILE, one a line"
            )
    return found


def _said(template: str, name: str) -> str:
    """Not by ``format``: the template is somebody else's."""
    return template.replace("{}", name)
