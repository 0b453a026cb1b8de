"""Answer: what a request gets, and the words of its address."""

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec


class NotFound(Exception):
    """There is nothing at that address; the message says what was asked for."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Answer:
    """A body, and what it is."""

    body: bytes
    kind: str
    """Its media type."""
    status: HTTPStatus = HTTPStatus.OK

    @classmethod
    def text(cls, status: HTTPStatus, words: str) -> "Answer":
        """A plain line."""
        return cls(body=f"{words}\n".encode(errors="replace"), kind="text/plain; charset=utf-8", status=status)

    @classmethod
    def html(cls, page: str) -> "Answer":
        """A page."""
        return cls(body=page.encode(errors="replace"), kind="text/html; charset=utf-8")

    @classmethod
    def json(cls, values: Any) -> "Answer":
        """Plain values."""
        return cls(body=msgspec.json.encode(values), kind="application/json")


class Query:
    """The words behind the question mark of an address.

    Args:
        pairs: names and values; a name may stand there several times.
    """

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def all(self, name: str) -> list[str]:
        """Every value of a name once."""
        return list(dict.fromkeys(value for known, value in self._pairs if known == name))

    def one(self, name: str, default: str = "") -> str:
        """The last value of a name."""
        return next((value for known, value in reversed(self._pairs) if known == name), default)

    def number(self, name: str, default: float | int) -> float | int:
        """As a finite number; the default where it is none."""
        try:
            value = float(self.one(name))
        except ValueError:
            return default
        return value if math.isfinite(value) else default
