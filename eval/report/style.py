"""The page's style sheet: light, dark and on paper, from 400 pixels upwards."""

NUM_RUN_COLORS = 8
NUM_CLASS_COLORS = 20
_LIGHT_RUNS = ("#0b7268", "#c2410c", "#4a55c7", "#9a6b00", "#a21caf", "#2f7d32", "#b0144f", "#4b5563")
_DARK_RUNS = ("#4fd1bf", "#fb923c", "#96a0ff", "#eac54f", "#e879f9", "#86d78a", "#ff7fa8", "#b0b8c4")


def _run_colors(colors: tuple[str, ...]) -> str:
    return " ".join(f"--r{number}: {color};" for number, color in enumerate(colors))


def _class_colors() -> str:
    """Hues around the circle; every second one lighter, so that neighbours differ in grey too."""
    hues = [round(360 * number / NUM_CLASS_COLORS) for number in range(NUM_CLASS_COLORS)]
    order = [(7 * number) % NUM_CLASS_COLORS for number in range(NUM_CLASS_COLORS)]
    return "\n".join(
        f".k{place} {{ fill: oklch({'var(--far)' if place % 2 else 'var(--near)'} .15 {hues[hue]}); }}"
        for place, hue in enumerate(order)
    )


def _run_classes() -> str:
    return "\n".join(
        f".r{n} {{ color: var(--r{n}); }} svg .r{n} {{ stroke: var(--r{n}); }} svg .dot.r{n} {{ fill: var(--r{n}); }}"
        for n in range(NUM_RUN_COLORS)
    )


STYLE = f"""
:root {{
  --paper: #fbfaf8; --card: #ffffff; --ink: #1d2126; --quiet: #5d6670; --line: #e4e1db;
  --accent: #0b7268; --plain: #87909a; --warn: #9a4a00; --near: .5; --far: .68; --cell: 11 114 104;
  --forward: #2a9d8f; --backward: #0b5f57; --optimiser: #7fb7b0; --communication: #e07b39; --data: #c8452f;
  --checkpoint: #d8a928; --other: #a8afb6;
  {_run_colors(_LIGHT_RUNS)}
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --paper: #14171a; --card: #1c2024; --ink: #e9eaec; --quiet: #9ba5af; --line: #30363c;
    --accent: #4fd1bf; --plain: #8b959f; --warn: #f0a35c; --near: .62; --far: .82; --cell: 79 209 191;
    --forward: #35b5a5; --backward: #1d7f74; --optimiser: #9fd0ca; --communication: #f0935a; --data: #e4654f;
    --checkpoint: #e8c04b; --other: #6d757d;
    {_run_colors(_DARK_RUNS)}
  }}
}}
* {{ box-sizing: border-box; }}
html {{ scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }}
body {{
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}}
main {{ max-width: 1120px; margin: 0 auto; padding: 40px 24px 72px; }}
h1 {{ font-size: clamp(1.7rem, 5vw, 2.4rem); line-height: 1.15; letter-spacing: -.02em; margin: 6px 0 8px; }}
h2 {{ font-size: 1.3rem; letter-spacing: -.01em; margin: 52px 0 10px; }}
h3 {{ font-size: .98rem; margin: 0 0 10px; overflow-wrap: anywhere; }}
p {{ margin: 0 0 12px; max-width: 72ch; overflow-wrap: anywhere; }}
a {{ color: var(--accent); }}
.overview {{ margin-top: 24px; }}
nav {{ display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 24px; font-size: .92rem; }}
nav a {{ text-decoration: none; padding: 4px 0; }}
nav a:hover {{ text-decoration: underline; }}
.eyebrow {{ color: var(--accent); font-weight: 650; font-size: .85rem; margin: 0; }}
.quiet {{ color: var(--quiet); }}
.lead {{ font-size: 1.08rem; }}
.warn {{ color: var(--warn); }}
.card {{
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; min-width: 0;
}}
.card + .card, .card + .grid2, .grid2 + .card {{ margin-top: 16px; }}
.card p:last-child {{ margin-bottom: 0; }}
.card + p, pre + p {{ margin-top: 12px; }}
.grid2 {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 16px; }}
.grid2 > .card {{ margin-top: 0; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 12px; margin: 24px 0 0; }}
.tile {{ background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px 14px; }}
.tile dt {{ color: var(--quiet); font-size: .82rem; }}
.tile dd {{ margin: 0; font-size: 1.32rem; font-weight: 620; font-variant-numeric: tabular-nums; }}
.compare {{ display: grid; grid-template-columns: 5fr 6fr; gap: 28px; align-items: center; }}
.compare > * {{ min-width: 0; }}
.compare p {{ margin: 8px 0 0; font-size: .9rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }}
td {{ overflow-wrap: break-word; }}
.settings th, .settings td {{ overflow-wrap: anywhere; min-width: 8ch; }}
thead th {{ overflow-wrap: anywhere; min-width: 6ch; }}
tr:last-child th, tr:last-child td {{ border-bottom: 0; }}
thead th {{ color: var(--quiet); font-weight: 500; }}
tbody th {{ font-weight: 500; }}
th:last-child, td:last-child {{ padding-right: 0; }}
.number {{ text-align: right; white-space: nowrap; }}
.strong th, .strong td {{ font-weight: 650; }}
td code, p code {{ overflow-wrap: anywhere; }}
pre {{
  margin: 0; padding: 14px 16px; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  white-space: pre-wrap; overflow-wrap: anywhere;
}}
code, pre {{ font: .86rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }}
figure {{ margin: 0; }}
figcaption {{ color: var(--quiet); font-size: .85rem; line-height: 1.4; margin-top: 6px; overflow-wrap: anywhere; }}
img {{ display: block; width: 100%; height: auto; }}
.plates {{
  display: grid; gap: 20px 28px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, max(var(--least), 20%)), 1fr));
}}
.plates + p {{ margin-top: 16px; }}
.plate {{ min-width: 0; }}
.heads {{
  display: grid; grid-template-columns: repeat(var(--columns), 1fr); gap: 4px; margin-bottom: 4px;
  color: var(--quiet); font-size: .8rem; line-height: 1.25; text-align: center;
}}
.legend {{ display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: .85rem; margin: 0 0 8px; max-width: none; }}
.legend b {{ font-weight: 600; font-variant-numeric: tabular-nums; }}
.mark {{ display: inline-block; width: .72em; height: .72em; border-radius: 50%; margin-right: .45em;
  background: currentColor; }}
.mark.part {{ border-radius: 3px; background: var(--part); }}
details {{ margin-top: 14px; }}
summary {{ cursor: pointer; color: var(--accent); font-weight: 550; padding: 4px 0; }}
footer {{ margin-top: 52px; color: var(--quiet); font-size: .88rem; }}
svg {{ display: block; width: 100%; height: auto; overflow: visible; }}
svg text {{ font: 13px system-ui, sans-serif; fill: var(--quiet); font-variant-numeric: tabular-nums; }}
svg .label, svg .value {{ paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }}
svg .label {{ font-size: 14px; fill: var(--ink); }}
svg .value {{ font-size: 14px; font-weight: 650; fill: var(--ink); }}
svg .grid {{ stroke: var(--line); }}
svg .axis {{ stroke: var(--plain); }}
svg .line {{ fill: none; stroke-width: 2.2; stroke-linejoin: round; }}
svg .faint {{ fill: none; stroke-width: 1; stroke-linejoin: round; opacity: .38; }}
svg .chance {{ stroke: var(--quiet); stroke-dasharray: 4 4; }}
svg .bar {{ stroke-width: 4; stroke-linecap: round; opacity: .45; }}
svg .bar.plain {{ stroke: var(--plain); }}
svg .end {{ stroke: var(--card) !important; stroke-width: 1.5; }}
svg .end.plain {{ fill: var(--plain); }}
svg .cell {{ fill: rgb(var(--cell)); }}
svg .count {{ text-anchor: middle; fill: var(--ink); }}
svg .count.on {{ fill: var(--card); font-weight: 600; }}
svg .point {{ stroke: var(--card); stroke-width: .7; }}
svg .name {{ font-size: 16px; font-weight: 650; fill: var(--ink); text-anchor: middle; paint-order: stroke;
  stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }}
{_run_classes()}
{_class_colors()}
.shares {{ margin-bottom: 12px; }}
.map {{ max-width: 600px; margin: 0 auto; }}
.compare > .map {{ width: 100%; }}
.grid2 .compare {{ grid-template-columns: 1fr; }}
.grid2 + p {{ margin-top: 12px; }}
.compare .words p {{ font-size: 1rem; margin: 0 0 12px; }}
.narrow {{ display: none; }}
@media (max-width: 640px) {{
  main {{ padding: 24px 12px 48px; }}
  .card {{ padding: 14px 12px; }}
  .compare {{ grid-template-columns: 1fr; gap: 12px; }}
  table {{ font-size: .82rem; }}
  th, td {{ padding: 6px 8px 6px 0; }}
  .number {{ white-space: normal; }}
  .map svg text {{ font-size: 17px; }}
  .wide {{ display: none; }}
  .narrow {{ display: block; }}
}}
@page {{ margin: 14mm; }}
@media print {{
  :root {{ --paper: #ffffff; }}
  body {{ font-size: 12px; }}
  main {{ max-width: none; padding: 0; }}
  nav {{ display: none; }}
  .tile, .plate, pre, tr, svg, .grid2 > .card {{ break-inside: avoid; }}
  h2, h3, .heads, .legend {{ break-after: avoid; }}
  h2 {{ margin-top: 28px; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
}}
"""
