"""Secrets stay out of what is written: run.json, logs, MLflow, tracebacks. The run itself works with the real values.

A secret is what the environment holds under a name that says so (``MLFLOW_TRACKING_PASSWORD``, ``HF_TOKEN``,
``GITHUB_PAT``, ``AWS_SECRET_ACCESS_KEY``), ``user:password@`` and ``?token=`` in an address, an ``Authorization:``
header, and what has the form of a known service's token. They are written as ``***``. Any other secret on a command
line or in a file, which the environment lacks, cannot be told from other text.
"""

import functools
import json
import logging
import os
import re
import sys
import threading
import traceback
import types
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from eyespot.data_pipeline.terminal import printable

T = TypeVar("T")

MASK = "***"
MIN_LENGTH = 6
"""Shorter values would hide half of every text."""

_NAME = re.compile(
    r"(^|_)(TOKEN|SECRETS?|PASSWORD|PASSWD|PASSPHRASE|PWD|CREDENTIALS?|PAT|AUTHORIZATION|BEARER|COOKIE"
    r"|(API|ACCESS|PRIVATE|SECRET|AUTH|SIGNING)_?KEY|KEY(?=$))(?!.*_(FILE|PATH|DIR|NAME|URL|URI|TYPE)$)(_|$)",
    re.IGNORECASE,
)
_QUERY = re.compile(
    r"""([?&;][\w.-]*(?:token|secret|password|passwd|api[-_]?key|signature|credential|auth)[\w.-]*=|[?&;](?:key|sig|pat)=)"""
    r"""[^&;\s"'<>#]+""",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"""((?:authorization|x-api-key|private-token|x-auth-token)["']?\s*[:=]\s*["']?(?:(?:bearer|basic|token|digest)\s+)?)"""
    r"""[^\s"',;]+""",
    re.IGNORECASE,
)
_FORMS = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}"
    r"|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})"
)
"""Tokens of GitHub, GitLab, Hugging Face, OpenAI, Slack, AWS, and JSON web tokens."""
_LOGIN = re.compile(r"""://[^/\s"'<>]*@""")


def masked(text: str) -> str:
    """``text`` with every secret in it written as ``***``."""
    if found := _pattern(tuple(filter(_is_secret, os.environ.items()))):
        text = found.sub(MASK, text)
    text = _LOGIN.sub(f"://{MASK}@", text) if "@" in text else text
    return _FORMS.sub(MASK, _HEADER.sub(rf"\1{MASK}", _QUERY.sub(rf"\1{MASK}", text)))


def masked_values(values: T) -> T:
    """Plain JSON values, their texts masked."""
    found: Any = values
    if isinstance(values, str):
        found = masked(values)
    elif isinstance(values, dict):
        found = {name: masked_values(value) for name, value in values.items()}
    elif isinstance(values, list | tuple):
        found = type(values)(masked_values(value) for value in values)
    return found


class MaskedFormatter(logging.Formatter):
    """Formats a record, traceback included, then masks it and escapes what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        """The line without secrets."""
        return printable(masked(super().format(record)))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Only the first line of a message begins like a line of the log: a name in it must not feign another."""
        return super().formatMessage(record).replace("\n", "\n    ")


def mask_tracebacks() -> None:
    """From now on the traceback of an error that nobody catches is masked, in every thread."""
    sys.excepthook = _say
    threading.excepthook = _say_of_thread


def _is_secret(variable: tuple[str, str]) -> bool:
    name, value = variable
    return len(value) >= MIN_LENGTH and name != "PWD" and _NAME.search(name) is not None


@functools.lru_cache(maxsize=4)
def _pattern(variables: tuple[tuple[str, str], ...]) -> re.Pattern[str] | None:
    """Matches the values, longest first, also as ``repr``, JSON and addresses write them, and each line of them."""
    texts: set[str] = set()
    for name, value in variables:
        if "CREDENTIAL" in name.upper() and value.startswith("/") and Path(value).exists():
            continue  # GOOGLE_APPLICATION_CREDENTIALS names a file: no secret, and part of other paths
        for part in (value, *value.splitlines()):
            texts |= {part, part.strip(), repr(part)[1:-1], json.dumps(part)[1:-1], quote(part, safe=""), quote(part)}
    long_enough = sorted((text for text in texts if len(text) >= MIN_LENGTH), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, long_enough))) if long_enough else None


def _say(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    sys.stderr.write(printable(masked("".join(traceback.format_exception(kind, error, trace)))))


def _say_of_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_type is SystemExit:
        return
    name = found.thread.name if found.thread is not None else "unknown"
    error = found.exc_value or found.exc_type()
    sys.stderr.write(printable(f"Exception in thread {name}:\n"))
    _say(found.exc_type, error, found.exc_traceback)
