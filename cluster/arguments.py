"""Turns a command line into typed values, and what is wrong with it into one line."""

import contextlib
import dataclasses
import io
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from eyespot.cluster.help_text import STYLE, fitted
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.terminal import FilteredStream, unfiltered

T = TypeVar("T")


def parse(target: type[T] | Callable[..., T], argv: list[str], prog: str, default: T | None = None) -> T:
    """Parses ``argv`` with tyro: fields become flags, docstrings become ``--help``.

    Args:
        target: a dataclass, or a function that is called with what was parsed.
        argv: the words after the subcommand.
        prog: what stands before them, for the help text.
        default: where the values come from that ``argv`` does not give.

    Raises:
        UserError: an unknown flag, a missing or a wrong value.
    """
    arguments: dict[str, Any] = {"default": default} if default is not None else {}
    try:
        return cast(T, _parsed(target, argv, prog, **arguments))
    except UserError as error:
        raise UserError(_named_as_typed(str(error), argv)) from error


def parse_known(target: type[T], argv: list[str], prog: str) -> tuple[T, list[str]]:
    """Parses those flags in ``argv`` that ``target`` has; the other words come back as they are.

    Raises:
        UserError: a missing or a wrong value.
    """
    asks = [word for word in argv if word in ("-h", "--help")]  # of all flags, so not of this parser
    found, others = _parsed(target, [word for word in argv if word not in asks], prog, return_unknown_args=True)
    return found, [*others, *asks]


def _parsed(target: Callable[..., Any], argv: list[str], prog: str, **arguments: Any) -> Any:
    import tyro

    captured = io.StringIO()
    try:
        # A help text has colours, and values that came out of a run folder.
        helps = "-h" in argv or "--help" in argv
        styled = (_HelpText if helps else FilteredStream)(unfiltered(sys.stdout), styled=True)
        with contextlib.redirect_stderr(captured), contextlib.redirect_stdout(styled):
            # A config that may be None keeps its flags where it is given, and has none where it is not.
            config = (tyro.conf.AvoidSubcommands,)
            return tyro.cli(target, args=argv, prog=prog, config=config, registry=_registry(helps=helps), **arguments)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(f"{_one_line(captured.getvalue())} (see {prog} --help)") from None


class _HelpText(FilteredStream):
    """Paragraphs that are wider than the terminal are broken between words."""

    def write(self, text: str, /) -> int:
        """Passes the text on; returns its own length."""
        super().write(fitted(text, shutil.get_terminal_size().columns))
        return len(text)


def _flowing(helptext: Any) -> str | None:
    """A field's docstring without the line breaks of its source; paragraphs stay."""
    text = helptext() if callable(helptext) else helptext
    return None if text is None else "\n\n".join(" ".join(part.split()) for part in str(text).split("\n\n"))


def _registry(*, helps: bool) -> Any:
    """What tyro is told of our configs: a field whose metadata say ``no_flag`` has none, and keeps its value.

    Args:
        helps: the help text is asked for: docstrings then flow.
    """
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

    registry, asked = ConstructorRegistry(), list[StructTypeInfo]()

    @registry.struct_rule
    def without_flags(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not dataclasses.is_dataclass(info.type) or any(info is one for one in asked):
            return None
        kept = {
            f.name: getattr(info.default, f.name, f.default)
            for f in dataclasses.fields(info.type)
            if "no_flag" in f.metadata
        }
        if not kept and not helps:
            return None
        asked.append(info)
        usual = ConstructorRegistry.get_struct_spec(info)
        assert isinstance(usual, StructConstructorSpec)
        fields = tuple(
            dataclasses.replace(one, helptext=partial(_flowing, one.helptext))
            for one in usual.fields
            if one.name not in kept
        )
        return StructConstructorSpec(partial(usual.instantiate, **kept), fields)

    return registry


def _named_as_typed(said: str, argv: list[str]) -> str:
    """A config's complaint, in which the field bears its whole name: a view does not know whose it is."""
    name = said.partition(" ")[0]
    flags = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in argv if word.startswith("--")}
    whole = [flag for flag in flags if flag.endswith(f".{name}")]
    return f"{whole[0]}{said.removeprefix(name)}" if len(whole) == 1 and name not in flags else said


def _missing(box: str) -> list[str]:
    """What was not given, each with what it is, out of the box that says so."""
    lines = [line.strip("│").rstrip() for line in box.splitlines() if line.startswith("│")]
    if not lines or not lines[0].strip().startswith("Missing from"):
        return []
    found: dict[str, list[str]] = {}
    for line in lines[1:]:
        indent = len(line) - len(line.lstrip())
        if indent == 5:
            found[line.strip()] = []
        elif indent == 9 and found:
            found[list(found)[-1]].append(line.strip())
    texts = {name: " ".join(said).removesuffix("(required)").strip() for name, said in found.items()}
    return [f"{name} ({text.partition('. ')[0].rstrip('.')})" if text else name for name, text in texts.items()]


def _one_line(box: str) -> str:
    """The message and the first suggestion out of tyro's box-drawn error text."""
    text = STYLE.sub("", box)
    if missing := _missing(text):
        return f"missing: {'; '.join(missing)}"
    lines = [line.strip(" │") for line in text.splitlines() if line.startswith(("│", " "))]
    lines = [line for line in lines if line and not line.startswith("For full helptext")]
    blocks = " ".join(line if not set(line) <= {"─", "-"} else "\n" for line in lines).split("\n")
    if "│" not in text:  # drawn without a frame, where the terminal is not known to speak UTF-8: the title comes first
        blocks = blocks[1:] or blocks
    message = blocks[0].strip().replace(" (required)", "")
    for block in blocks[1:]:
        if suggestion := re.match(r"\s*Perhaps you meant:\s+(--\S+)", block):
            return f"{message}; perhaps you meant {suggestion.group(1)}"
    return message or "wrong arguments"
