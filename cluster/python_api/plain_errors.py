"""Errors as the console command says them, for functions that a program calls."""

import errno
import functools
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.terminal import brief, one_line
from eyespot.pretrain.redaction import masked

P = ParamSpec("P")
T = TypeVar("T")

_FLAG = re.compile(r"(?<![\w-])--(?!trust-recipe)([a-z][\w.-]*)")
_COMMAND = re.compile(r"\beyespot [a-z][^;]*|\btorchrun [^;]*")


def plain_errors(function: Callable[P, T]) -> Callable[P, T]:
    """The function, whose UserError and Outage are one line without secrets, and without what a terminal would obey.

    What it is called with may bear the names of strangers' files.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (UserError, Outage) as error:
            kind = UserError if isinstance(error, UserError) else Outage
            raise kind(_said(str(error))).with_traceback(error.__traceback__) from None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise UserError(_said(f"{error.filename}: {error.strerror}; name another path")) from None

    return call


def refuse_kind(name: str, value: Any, kinds: type | tuple[type, ...], fix: str) -> None:
    """Raises a UserError where an argument is of none of these kinds, as nothing deeper would say it."""
    if not isinstance(value, kinds):
        raise UserError(f"{name}: a {type(value).__name__}; {fix}")


def _said(text: str) -> str:
    return brief(one_line(masked(_as_arguments(text))))


def _as_arguments(text: str) -> str:
    """Flags as a program writes them: "--image-size 5" is "image_size 5"; but in a command they stay."""
    parts, end = [], 0
    for command in _COMMAND.finditer(text):
        parts += [_without_dashes(text[end : command.start()]), command[0]]
        end = command.end()
    return "".join([*parts, _without_dashes(text[end:])])


def _without_dashes(text: str) -> str:
    return _FLAG.sub(lambda found: found[1].replace("-", "_"), text)
