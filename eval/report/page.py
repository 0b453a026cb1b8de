"""The shell of a self-contained page: style and frame, nothing of a run."""

from collections.abc import Container
from html import escape

# The policy forbids every request: what the page shows is in the page.
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
"""

_STYLE = """
:root {
  --paper: #fbfaf8; --card: #ffffff; --ink: #1d2126; --quiet: #5d6670; --line: #e4e1db;
  --accent: #0b7268; --plain: #87909a; --faint: #9fcfc8; --warn: #9a4a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1c2024; --ink: #e9eaec; --quiet: #9ba5af; --line: #30363c;
    --accent: #4fd1bf; --plain: #8b959f; --faint: #2c5f59; --warn: #f0a35c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 980px; margin: 0 auto; padding: 40px 20px 72px; }
h1 { font-size: clamp(1.7rem, 5vw, 2.4rem); line-height: 1.15; letter-spacing: -.02em; margin: 6px 0 8px; }
h2 { font-size: 1.2rem; letter-spacing: -.01em; margin: 44px 0 12px; }
h3 { font-size: .95rem; margin: 0 0 8px; }
p { margin: 0 0 12px; max-width: 70ch; }
a { color: var(--accent); }
.eyebrow { color: var(--accent); font-weight: 650; font-size: .85rem; margin: 0; }
.quiet { color: var(--quiet); }
.lead { font-size: 1.08rem; }
.warn { color: var(--warn); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 16px; }
.grid2 > * { min-width: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 12px; margin: 24px 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px 14px; margin: 0; }
.tile dt { color: var(--quiet); font-size: .82rem; }
.tile dd { margin: 0; font-size: 1.32rem; font-weight: 620; font-variant-numeric: tabular-nums; }
.compare { display: grid; grid-template-columns: 5fr 6fr; gap: 24px; align-items: center; }
.compare > * { min-width: 0; }
.compare p { margin: 8px 0 0; font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child th, tr:last-child td { border-bottom: 0; }
thead th { color: var(--quiet); font-weight: 500; white-space: nowrap; }
tbody th { font-weight: 500; }
.number { text-align: right; white-space: nowrap; }
.strong th, .strong td { font-weight: 650; }
td code { overflow-wrap: anywhere; }
pre {
  margin: 0; padding: 14px 16px; overflow-x: auto; background: var(--card);
  border: 1px solid var(--line); border-radius: 12px;
}
code, pre { font: .86rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
figure { margin: 0; }
figure img {
  display: block; width: 100%; height: auto; border-radius: 8px; image-rendering: pixelated;
}
figcaption { color: var(--quiet); font-size: .9rem; margin-top: 10px; max-width: 70ch; }
details { margin-top: 14px; }
summary { cursor: pointer; color: var(--accent); font-weight: 550; padding: 4px 0; }
footer { margin-top: 52px; color: var(--quiet); font-size: .88rem; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 11.5px system-ui, sans-serif; fill: var(--quiet); font-variant-numeric: tabular-nums; }
svg .label, svg .value { paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
svg .label { font-size: 13px; fill: var(--ink); }
svg .value { font-size: 13px; font-weight: 650; fill: var(--ink); }
svg .grid { stroke: var(--line); }
svg .axis { stroke: var(--plain); }
svg .line { fill: none; stroke: var(--accent); stroke-width: 2.2; stroke-linejoin: round; }
svg .faint { fill: none; stroke: var(--faint); stroke-width: 1; stroke-linejoin: round; }
svg .dot { fill: var(--accent); }
svg .chance { stroke: var(--quiet); stroke-dasharray: 4 4; }
svg .bar { stroke-width: 4; stroke-linecap: round; opacity: .45; }
svg .bar.strong { stroke: var(--accent); } svg .bar.plain { stroke: var(--plain); }
svg .end { stroke: var(--card); stroke-width: 1.5; }
svg .end.strong { fill: var(--accent); } svg .end.plain { fill: var(--plain); }
.narrow { display: none; }
@media (max-width: 640px) {
  main { padding-top: 24px; }
  .compare { grid-template-columns: 1fr; gap: 12px; }
  .wide { display: none; }
  .narrow { display: block; }
}
@media print { .card, .tile, pre { break-inside: avoid; } }
"""


def page(title: str, sections: list[str]) -> str:
    """A whole HTML document: its style inside, its sections one below the other."""
    body = "\n".join(section for section in sections if section)
    head = f"{_HEAD}<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
    return f"{head}<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"


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
    return f'<div class="scroll"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'
