"""Diagrams as inline SVG: where time went, who is taken for whom, who is near whom."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import product

import numpy as np
from jaxtyping import Float, Int

from eyespot.eval.report.style import NUM_CLASS_COLORS


def share_bar(shares: Mapping[str, float], *, title: str, width: int = 860) -> str:
    """One bar cut into named parts; the parts' colours are the style sheet's variables of their names.

    Args:
        shares: of each part, 0..1, together 1.
        title: names the bar for screen readers.
        width: of the drawing, pixels.
    """
    said = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    parts = [f'<svg viewBox="0 0 {width} 40" role="img" aria-label="{escape(f"{title}: {said}")}">']
    left = 0.0
    for name, share in shares.items():
        size = share * width
        box = f'x="{left:.1f}" y="2" width="{max(0.0, size - 1):.1f}" height="36" rx="3"'
        parts.append(f'<rect {box} style="fill:var(--{name})"><title>{escape(name)}: {share:.1%}</title></rect>')
        left += size
    return "".join(parts) + "</svg>"


def confusion_map(counts: Int[np.ndarray, "c c"], classes: Sequence[str], *, title: str, width: int = 560) -> str:
    """Rows: what the image is; columns: what it was taken for. A cell is as dark as its share of its row is large.

    Args:
        counts: images of the row's class that were given the column's.
        classes: names.
        title: names the map for screen readers.
        width: of the drawing, pixels.
    """
    num, longest = len(classes), max(map(len, classes))
    margin = min(170.0, 12 + 9.5 * longest)
    size = (width - margin - 4) / num
    right = int(np.trace(counts))
    said = f"{title}: {right} of {counts.sum()} on the diagonal; the cells are listed in words below"
    tilt = longest * 9.5 > size
    top = margin if tilt else 26.0
    height = top + size * num + 4
    parts = [f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(said)}">']
    for place, name in enumerate(classes):
        middle = place * size + size / 2
        parts.append(
            f'<text x="{margin - 7:.1f}" y="{top + middle + 4:.1f}" text-anchor="end">{escape(_cut(name))}</text>'
        )
        spot = f"{margin + middle + (4 if tilt else 0):.1f} {top - 7:.1f}"
        turn = (
            f'transform="translate({spot}) rotate(-90)"'
            if tilt
            else f'transform="translate({spot})" text-anchor="middle"'
        )
        parts.append(f"<text {turn}>{escape(_cut(name))}</text>")
    totals = counts.sum(1, keepdims=True).clip(min=1)
    most = max(float((counts / totals).max()), 1e-12)
    for row, column in product(range(num), repeat=2):
        count, share = int(counts[row, column]), float(counts[row, column] / totals[row, 0]) / most
        x, y = margin + column * size, top + row * size
        tip = f"<title>{escape(classes[row])} taken for {escape(classes[column])}: {count} of {totals[row, 0]}</title>"
        shade = f'fill-opacity="{0.06 + 0.94 * share:.3f}"' if count else 'fill-opacity="0.05"'
        box = f'x="{x:.1f}" y="{y:.1f}" width="{size - 1.5:.1f}" height="{size - 1.5:.1f}" rx="2"'
        parts.append(f'<rect class="cell" {box} {shade}>{tip}</rect>')
        if count and size > 24:
            on = " on" if share > 0.5 else ""
            parts.append(f'<text class="count{on}" x="{x + size / 2:.1f}" y="{y + size / 2 + 4:.1f}">{count}</text>')
    return "".join(parts) + "</svg>"


def scatter(
    places: Float[np.ndarray, "n 2"], labels: Int[np.ndarray, " n"], classes: Sequence[str], *, title: str
) -> str:
    """Points in the plane, coloured by class; each class's name stands at the middle of its points.

    Args:
        places: of any scale.
        labels: which class; -1 for none.
        classes: names; empty where there are none.
        title: names the diagram for screen readers.
    """
    side, pad = 560, 14
    low, high = places.min(0), places.max(0)
    spots = pad + (places - low) / max(float((high - low).max()), 1e-12) * (side - 2 * pad)
    said = f"{title}: {len(places)} images" + (f" of {len(classes)} classes" if classes else "")
    height = spots[:, 1].max() + pad
    parts = [f'<svg viewBox="0 0 {side} {height:.0f}" role="img" aria-label="{escape(said)}">']
    for (x, y), label in zip(spots.tolist(), labels.tolist(), strict=True):
        style = f"k{label % NUM_CLASS_COLORS}" if label >= 0 else "dot r0"
        name = f"<title>{escape(classes[int(label)])}</title>" if label >= 0 else ""
        parts.append(f'<circle class="point {style}" cx="{x:.1f}" cy="{y:.1f}" r="5">{name}</circle>')
    for label, name in enumerate(classes):
        if (own := spots[labels == label]).size:
            x, y = np.median(own, axis=0)
            parts.append(f'<text class="name" x="{x:.1f}" y="{y + 5:.1f}">{escape(_cut(name))}</text>')
    return "".join(parts) + "</svg>"


def _cut(name: str, length: int = 16) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
