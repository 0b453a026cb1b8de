"""Diagrams as inline SVG (``templates/drawings``): where time went, who is taken for whom, who is near whom."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from eyespot.eval.report.rendering import render

NUM_CLASS_COLORS = 20
"""Of the style sheet: .k0, .k1 ..."""


def share_bar(shares: Mapping[str, float], *, title: str, width: int = 860) -> Markup:
    """One bar cut into named parts; the parts' colours are the style sheet's variables of their names.

    Args:
        shares: of each part, 0..1, together 1.
        title: names the bar for screen readers.
        width: of the drawing, pixels.
    """
    said = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    lefts = accumulate((share * width for share in shares.values()), initial=0.0)
    parts = [(name, share, left) for (name, share), left in zip(shares.items(), lefts, strict=False)]
    return render("drawings/share_bar.svg.j2", title=title, said=said, width=width, parts=parts)


def confusion_map(counts: Int[np.ndarray, "c c"], classes: Sequence[str], *, title: str, width: int = 560) -> Markup:
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
    tilted = longest * 9.5 > size
    top = margin if tilted else 26.0
    totals = counts.sum(1).clip(min=1)
    return render(
        "drawings/confusion_map.svg.j2",
        title=title,
        said=f"{right} of {counts.sum()} on the diagonal; the cells are listed in words below",
        classes=classes,
        counts=counts.tolist(),
        totals=totals.tolist(),
        most=max(float((counts / totals[:, None]).max()), 1e-12),
        size=size,
        margin=margin,
        top=top,
        tilted=tilted,
        width=width,
        height=top + size * num + 4,
    )


def scatter(
    places: Float[np.ndarray, "n 2"], labels: Int[np.ndarray, " n"], classes: Sequence[str], *, title: str
) -> Markup:
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
    said = f"{len(places)} images" + (f" of {len(classes)} classes" if classes else "")
    points = [
        (x, y, *((f"k{label % NUM_CLASS_COLORS}", classes[label]) if label >= 0 else ("dot r0", None)))
        for (x, y), label in zip(spots.tolist(), labels.tolist(), strict=True)
    ]
    owned = [(spots[labels == label], name) for label, name in enumerate(classes)]
    names = [(*np.median(own, axis=0).tolist(), name) for own, name in owned if own.size]
    height = spots[:, 1].max() + pad
    return render(
        "drawings/scatter.svg.j2", title=title, said=said, side=side, height=height, points=points, names=names
    )
