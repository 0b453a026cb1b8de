"""Ranges of a config's numbers: declared beside the field with annotated-types, checked here.

    steps: Annotated[int, Ge(1)] = 1000
    clip: Annotated[float, Gt(0), "must be above 0; leave it out for no clipping"] | None = None
    decay: tuple[Annotated[float, Ge(0), Lt(1)], ...] = (0.9, 0.95)
    views: Annotated[tuple[View, ...], MinLen(1)]

A bound stands at the number, or at the sequence's length, that it bounds; a text beside it is said in place of its own
words. NaN is in no range, and infinity only in those that name it as their end: ``Le(math.inf)``.
"""

import dataclasses
import functools
import itertools
import math
import operator
import typing
from collections.abc import Callable
from typing import Annotated, Any

from annotated_types import BaseMetadata, GroupedMetadata

from eyespot.data_pipeline.errors import UserError

LARGEST_NUMBER = 2**63
"""Whole numbers stay below: what counts and computes with them has 64 bits."""

Rule = Callable[[Any], str | None]
"""What a value must be and is not, in words."""

_KEEPS: dict[str, Callable[[Any, Any], bool]] = {
    **{"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt},
    "min_length": lambda value, fewest: len(value) >= fewest,
    "max_length": lambda value, most: len(value) <= most,
}


def check_ranges(config: Any, prefix: str = "") -> None:
    """Whether each number of a dataclass lies in the range that its field declares; for ``__post_init__``.

    Args:
        config: the dataclass.
        prefix: what stands before the fields' names where the user writes them: "optim."; "--" = they are flags.

    Raises:
        UserError: one does not; None, and what is no number, is taken.
    """
    for name, rule in rules(type(config)).items():
        value = getattr(config, name)
        if value is not None and (words := rule(value)) is not None:
            raise UserError(f"{prefix}{name.replace('_', '-') if prefix == '--' else name} {value}: {words}")


@functools.cache
def rules(kind: type) -> dict[str, Rule]:
    """Those of a dataclass's fields that declare a range, by name."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {field.name: _rule(hints[field.name]) for field in dataclasses.fields(kind)}
    return {name: rule for name, rule in found.items() if rule is not None}


def _rule(hint: Any) -> Rule | None:
    """That of a type; None = it has none."""
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind is Annotated:
        return _marked_rule(*parts)
    inner = [_rule(part) or _nothing for part in parts]
    if all(rule is _nothing for rule in inner):
        return None
    if kind is not tuple:  # a union
        return lambda value: next(filter(None, (rule(value) for rule in inner)), None)
    ordered = itertools.repeat(inner[0]) if parts[-1] is ... else inner

    def each(value: Any) -> str | None:
        words = next(filter(None, (rule(item) for rule, item in zip(ordered, value, strict=False))), None)
        return words and f"each {words}"

    return each


def _nothing(value: Any) -> None:
    """The rule of a type that has none."""


def _marked_rule(hint: Any, *marks: Any) -> Rule | None:
    """That of ``Annotated[hint, *marks]``."""
    single = [one for mark in marks for one in (mark if isinstance(mark, GroupedMetadata) else (mark,))]
    dicts = [dataclasses.asdict(one) for one in single if isinstance(one, BaseMetadata)]  # pyright: ignore[reportArgumentType]
    bounds = {name: bound for each in dicts for name, bound in each.items()}
    keeps = [(_KEEPS[name], bound) for name, bound in bounds.items()]
    said = next((mark for mark in marks if isinstance(mark, str)), None)
    inner = _rule(hint)
    if not bounds:
        return inner and (lambda value: inner(value) and (said or inner(value)))
    words = said or _words(bounds)

    def rule(value: Any) -> str | None:
        if isinstance(value, str):
            return None
        if not all(keep(value, bound) for keep, bound in keeps):
            return words
        if isinstance(value, int) and value >= LARGEST_NUMBER:
            return "must be below 2^63"
        if value in (math.inf, -math.inf) and value not in bounds.values():
            return "must be finite"
        return inner(value) if inner else None

    return rule


def _words(bounds: dict[str, Any]) -> str:
    match bounds:
        case {"ge": low, "le": high}:
            return f"must lie between {low} and {high}"
        case {"gt": low, "lt": high}:
            return f"must lie between {low} and {high}, both excluded"
        case {"ge": low, "lt": high}:
            return f"must be at least {low} and below {high}"
        case {"gt": low, "le": high}:
            return f"must be above {low} and at most {high}"
        case {"ge": low}:
            return f"must be {low} or more"
        case {"gt": low}:
            return f"must be above {low}"
        case {"le": high}:
            return f"must be {high} or less"
        case {"lt": high}:
            return f"must be below {high}"
        case {"min_length": fewest, "max_length": most}:
            return f"must have {fewest} to {most}"
        case {"min_length": fewest}:
            return f"must have {fewest} or more"
        case _:
            return f"must have {bounds['max_length']} or fewer"
