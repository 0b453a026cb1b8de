"""Charts as inline SVG (``templates/drawings``): no script, no file, colours from the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import Markup

from eyespot.eval.report.rendering import render

MAX_POINTS = 500
NUM_COLOURS = 8
"""Of lines, in the page's style sheet."""
LARGEST = 1e100
"""Above, a value is drawn no more than one that is not finite: sums and squares of it would overflow."""

Number = float | int
Point = tuple[Number, Number]


@dataclass(kw_only=True, slots=True)
class Scale:
    """Maps values to pixels, linearly or by their logarithm."""

    low: Number
    high: Number
    start: Number
    """Pixel of ``low``."""
    end: Number
    """Pixel of ``high``."""
    log: bool = False

    def __call__(self, value: Number) -> float:
        """The pixel of a value."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = math.log(value) if self.log else value
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the range: multiples of 1, 2 or 5 times a power of ten."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for factors in ((1, 2, 3, 5), (1, 3), (1,)):
                found = [f * 10.0**p for p in powers for f in factors if self.low <= f * 10.0**p <= self.high]
                if len(found) <= count + 1:
                    return found
            return found[:: math.ceil(len(found) / count)]
        step = nice_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def nice_step(rough: Number) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def short(value: Number) -> str:
    """A number for an axis: 1500000 -> 1.5M, 0.00015 -> 0.00015, 1e-06 -> 1e-6."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}".replace("e-0", "e-")


def thin(points: Sequence[Point], count: int = MAX_POINTS) -> list[Point]:
    """At most ``count`` points: means of equal runs of neighbours. What is not finite, or immense, is left out."""
    points = [(x, y) for x, y in points if abs(y) < LARGEST]
    size = math.ceil(len(points) / count) if points else 1
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [(run[-1][0], sum(y for _, y in run) / len(run)) for run in runs]


def smooth(points: Sequence[Point], share: float = 0.04) -> list[Point]:
    """Centred moving average over ``share`` of the points; the window shrinks at both ends."""
    reach = int(len(points) * share / 2)
    values = [y for _, y in points]
    averaged = []
    for place, (x, _) in enumerate(points):
        near = min(reach, place, len(points) - 1 - place)
        window = values[place - near : place + near + 1]
        averaged.append((x, sum(window) / len(window)))
    return averaged


@dataclass(kw_only=True, slots=True)
class Line:
    """One run's values of one quantity."""

    points: Sequence[Point]
    """(step, value); values that are not finite are left out."""
    run: int = 0
    """Which run of the page: decides the colour."""
    label: str = ""
    """What the legend calls it."""


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    unit: str = "",
    width: int = 430,
    height: int = 230,
    zero: bool = False,
    along: str = "step",
) -> Markup:
    """One quantity over the steps: the measured values faint, their moving average strong, the last ones in words.

    Args:
        lines: one for each run.
        title: names the chart for screen readers.
        unit: follows the last value.
        width: of the drawing, pixels.
        height: of the drawing, pixels.
        zero: the axis begins at 0; otherwise it follows the values, logarithmic where they span a factor of 5.
        along: what the values follow each other by.
    """
    drawn = [replace(line, points=thin(line.points)) for line in lines]
    drawn = [line for line in drawn if len(line.points) > 1]
    if not drawn:
        return render("drawings/line_chart.svg.j2", measured=[])
    x = Scale(
        low=min(1, *(line.points[0][0] for line in drawn)),
        high=max(line.points[-1][0] for line in drawn),
        start=50,
        end=width - 14,
    )
    y = _value_scale([value for line in drawn for _, value in line.points], zero, height)
    trends = [replace(line, points=smooth(line.points)) for line in drawn]
    lasts = [f"{short(float(f'{line.points[-1][1]:.3g}'))} {unit}".strip() for line in trends]
    said = "; ".join(
        f"{line.label} from {short(line.points[0][1])} to {last} at {along} {short(line.points[-1][0])}".strip()
        for line, last in zip(drawn, lasts, strict=True)
    )
    return render(
        "drawings/line_chart.svg.j2",
        title=title,
        said=said,
        width=width,
        height=height,
        x=x,
        y=y,
        measured=drawn,
        trends=trends,
        lasts=lasts,
        short=short,
        path=_path,
    )


@dataclass(kw_only=True, slots=True)
class Row:
    """One line of an interval plot."""

    label: str
    value: Number
    """0..1."""
    interval: Point
    run: int | None = None
    """Drawn in the colour of this run of the page; grey where it is none."""


def interval_chart(rows: list[Row], *, title: str, chance: Number | None, width: int = 430) -> Markup:
    """Shares as dots with their intervals, one below the other, on one axis; chance, where known, as a dashed line."""
    low = min(row.interval[0] for row in rows)
    low = low if chance is None else min(chance, low)
    high = max(row.interval[1] for row in rows)
    step = nice_step((high - low) / 5 or 0.02)
    height = 50 * len(rows) + 34
    low, high = max(0.0, math.floor(low / step) * step), min(1.0, math.ceil(high / step) * step)
    x = Scale(low=min(low, high - step), high=high, start=14, end=width - 20)
    said = "; ".join(f"{row.label} {row.value:.1%}" for row in rows)
    return render(
        "drawings/interval_chart.svg.j2",
        title=title,
        said=said,
        width=width,
        height=height,
        x=x,
        rows=rows,
        chance=chance,
    )


def _value_scale(values: list[Number], zero: bool, height: int) -> Scale:
    low, high = min(values), max(values)
    bottom, top = height - 28.0, 14.0
    if zero:
        return Scale(low=0.0, high=(high or 1.0) * 1.1, start=bottom, end=top)
    if low > 0 and high / low > 5:
        return Scale(low=low * 0.9, high=high * 1.1, start=bottom, end=top, log=True)
    pad = (high - low or abs(high) or 1.0) * 0.08
    return Scale(low=low - pad, high=high + pad, start=bottom, end=top)


def _path(points: Sequence[Point], x: Scale, y: Scale) -> str:
    steps = [f"{x(a):.1f} {y(b):.1f}" for a, b in points]
    kept = [steps[0], *(new for old, new in pairwise(steps) if new != old)]
    return "M" + "L".join(kept)
