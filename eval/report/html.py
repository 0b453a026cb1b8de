"""The shell of a self-contained page: frame and tables, nothing of a run."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from html import escape

from eyespot.eval.report.style import STYLE

# The policy forbids every request: what the page shows is in the page.
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
"""


@dataclass(kw_only=True, slots=True)
class Section:
    """A part of the page with a heading."""

    title: str
    body: str
    """HTML; a section without any is left out."""
    short: str = ""
    """For the list of contents; empty = the title."""

    @property
    def anchor(self) -> str:
        """Its id."""
        return "-".join(self.title.lower().split())

    def html(self) -> str:
        """The heading and what follows."""
        return f'<section id="{self.anchor}"><h2>{escape(self.title)}</h2>{self.body}</section>'


def page(title: str, head: str, sections: Sequence[Section], foot: str) -> str:
    """A whole HTML document: its style inside, a list of contents, its sections one below the other."""
    there = [section for section in sections if section.body]
    links = "".join(f'<a href="#{each.anchor}">{escape(each.short or each.title)}</a>' for each in there)
    body = "\n".join([head, f'<nav aria-label="Contents">{links}</nav>', *(each.html() for each in there), foot])
    start = f"{_HEAD}<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
    return f"{start}<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"


def card(content: str, heading: str = "", run: int | None = None) -> str:
    """A framed part; ``run`` marks the heading with that run's colour."""
    mark = f'<i class="mark r{run}"></i>' if run is not None else ""
    head = f"<h3>{mark}{escape(heading)}</h3>" if heading else ""
    return f'<div class="card">{head}{content}</div>'


def paragraph(text: str, style: str = "") -> str:
    """Plain text, escaped; nothing where there is none."""
    look = f' class="{style}"' if style else ""
    return f"<p{look}>{escape(text)}</p>" if text else ""


def table(
    header: list[str], rows: list[list[str]], *, numbers: Container[int] = (), strong: Container[int] = ()
) -> str:
    """A table of plain texts; the first column names the rows.

    Args:
        header: column names; empty for a table of two columns that needs none.
        rows: texts, escaped here.
        numbers: columns that are set flush right.
        strong: rows that are emphasised.
    """

    def cell(place: int, text: str, tag: str, scope: str) -> str:
        style = ' class="number"' if place in numbers else ""
        return f"<{tag}{scope}{style}>{escape(text)}</{tag}>"

    head = "".join(cell(place, text, "th", ' scope="col"') for place, text in enumerate(header))
    lines = []
    for number, row in enumerate(rows):
        cells = [cell(0, row[0], "th", ' scope="row"'), *(cell(n, text, "td", "") for n, text in enumerate(row[1:], 1))]
        style = ' class="strong"' if number in strong else ""
        lines.append(f"<tr{style}>{''.join(cells)}</tr>")
    head = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="scroll" tabindex="0"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'
