"""Errors as the console command says them, for functions that a program calls."""

import errno
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.terminal import brief, one_line
from eyespot.pretrain.redaction import masked

P = ParamSpec("P")
T = TypeVar("T")


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


def _said(text: str) -> str:
    return brief(one_line(masked(text)))
