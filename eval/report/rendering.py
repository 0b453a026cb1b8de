"""Templates turn data into the page. They lie in ``templates/``: the page, its sections, its drawings (SVG).

Every text that goes into a template is escaped there, once, by Jinja; only what a template made goes in as it is.
"""

import base64
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eyespot.pretrain.redaction import masked

TEMPLATES = Path(__file__).parent / "templates"
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which a terminal would obey, and halves of characters, which no file can hold."""


def readable(value: Any) -> Any:
    """What goes in, without secrets: once it is escaped, one with a quote in it would not be found any more."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", masked(value))


def environment(*folders: Path) -> Environment:
    """For templates of these folders, beside those of the report: what goes in is escaped, and without secrets."""
    return Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=readable,
    )


_REPORT = environment()


def render(template: str, **data: Any) -> Markup:
    """What a template makes of some data; a name that it uses and the data lack is an error."""
    return Markup(_REPORT.get_template(template).render(data))


@dataclass(kw_only=True, slots=True)
class Section:
    """A part of the page with a heading."""

    title: str
    template: str
    """Of ``templates/sections``, without its ending."""
    short: str = ""
    """For the list of contents; empty = the title."""
    data: dict[str, Any] = field(default_factory=dict)
    """What the template shows."""

    @property
    def anchor(self) -> str:
        """Its id."""
        return "-".join(self.title.lower().split())

    def body(self) -> Markup:
        """What stands below the heading."""
        return render(f"sections/{self.template}.html.j2", **self.data)


@dataclass(kw_only=True, slots=True)
class Table:
    """Texts in rows and columns; the first column names the rows."""

    rows: Sequence[Sequence[str]]
    header: Sequence[str] = ()
    """Column names; empty for a table of two columns that needs none."""
    numbers: Container[int] = ()
    """Columns that are set flush right."""
    strong: Container[int] = ()
    """Rows that are emphasised."""


def inlined(path: Path) -> str:
    """A PNG file as a data: address."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
