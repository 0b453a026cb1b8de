"""Draws docs/pictures/house.svg from the imports: the four floors, what stands on each, and what uses what.

    python docs/drawing.py        (make drawing)

A box is a folder, or a single file of the floor. It stands above all that it uses, because
imports run one way. An arrow that follows from two others is left out. A test tells when the picture is out of date.
"""

from collections import defaultdict
from dataclasses import dataclass
from html import escape
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import mean

import grimp

PICTURE = Path(__file__).parent / "pictures" / "house.svg"
HOUSE = "eyespot"
FLOORS = {
    "cluster": ("the command, SLURM, doctor", "#7a5195"),
    "eval": ("what an encoder is worth; reports and releases", "#b5537b"),
    "pretrain": ("from a recipe to a trained encoder", "#2f6f9f"),
    "data_pipeline": ("files in, tensors out", "#3b7d4f"),
}
"""From above: what each is for, in a few words, and its colour."""
WIDTH, MARGIN, SIDE = 1220, 20, 110
"""Pixels: the whole picture, around a floor, right of the floors."""
BOX, GAP, ROW, HEAD, LETTER = 40, 18, 76, 52, 7.6
"""Pixels: height of a box, between two of them, between two rows, above a floor's first row, a letter's width."""
SWEEPS, PULL = 100, 0.02
"""How often each row is put in order and in place by what its boxes are joined to; the share of the floor's middle."""


@dataclass(frozen=True, slots=True)
class Floor:
    """One of the top folders."""

    name: str
    files: dict[str, int]
    """How many files a folder has; 0 = it is a file itself."""
    uses: dict[str, set[str]]
    """Which boxes of this floor each of them imports."""


def floors(graph: grimp.ImportGraph) -> list[Floor]:
    """From above, out of the imports."""
    found = []
    for name in FLOORS:
        package = f"{HOUSE}.{name}"
        boxes = {child.rpartition(".")[2]: child for child in graph.find_children(package)}
        files = {box: _count(graph, child) for box, child in sorted(boxes.items())}
        uses: dict[str, set[str]] = {box: set() for box in files}
        for box, child in boxes.items():
            for module in {child, *graph.find_descendants(child)}:
                for other in graph.find_modules_directly_imported_by(module):
                    below = other.split(".")[2:3] if other.startswith(f"{package}.") else []
                    uses[box] |= set(below) - {box}
        found.append(Floor(name=name, files=files, uses=uses))
    return found


def _count(graph: grimp.ImportGraph, package: str) -> int:
    return sum(not graph.find_children(module) for module in graph.find_descendants(package))


def steps_down(graph: grimp.ImportGraph) -> list[tuple[str, str]]:
    """Which floor uses which, from above."""
    pairs = ((importer, imported) for importer in FLOORS for imported in FLOORS if importer != imported)
    return [
        (importer, imported)
        for importer, imported in pairs
        if graph.direct_import_exists(importer=f"{HOUSE}.{importer}", imported=f"{HOUSE}.{imported}", as_packages=True)
    ]


def levels(uses: dict[str, set[str]]) -> dict[str, int]:
    """How high each box stands: 0 where it uses none, else one above the highest that it uses.

    Raises:
        ValueError: some use each other.
    """
    height: dict[str, int] = {}
    while len(height) < len(uses):
        ready = [box for box in uses if box not in height and uses[box] <= height.keys()]
        if not ready:
            raise ValueError(f"a circle among {', '.join(sorted(uses.keys() - height.keys()))}")
        height |= {box: 1 + max((height[below] for below in uses[box]), default=-1) for box in ready}
    return height


def needed(uses: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Pairs (a box, what it uses) that follow from no two others."""
    reach: dict[str, set[str]] = {}
    for box in sorted(uses, key=levels(uses).__getitem__):
        reach[box] = uses[box].union(*(reach[below] for below in uses[box]))
    return [
        (box, below)
        for box in sorted(uses)
        for below in sorted(uses[box])
        if not any(below in reach[other] for other in uses[box] - {below})
    ]


Knot = str | tuple[str, str, int]
"""A box, or where the arrow between two of them passes a row."""


def rows_and_lines(floor: Floor) -> tuple[list[list[Knot]], list[list[Knot]], dict[Knot, float]]:
    """The rows from above, each in its order; each arrow as the knots that it goes through; where the knots are."""
    height = levels(floor.uses)
    top = max(height.values())
    lines: list[list[Knot]] = []
    for box, below in needed(floor.uses):
        between: list[Knot] = [(box, below, level) for level in range(height[box] - 1, height[below], -1)]
        lines.append([box, *between, below])
    level_of: dict[Knot, int] = {**height}
    level_of |= {knot: knot[2] for line in lines for knot in line if isinstance(knot, tuple)}
    rows = [[knot for knot in sorted(level_of, key=str) if level_of[knot] == top - row] for row in range(top + 1)]
    joined: dict[Knot, list[Knot]] = defaultdict(list)
    for line in lines:
        for above, below in pairwise(line):
            joined[above].append(below)
            joined[below].append(above)
    for sweep in range(SWEEPS):
        order = range(len(rows)) if sweep % 2 else range(len(rows) - 1, -1, -1)
        for at in order:
            place = _packed(rows)
            beside = [rows[other] for other in (at - 1, at + 1) if 0 <= other < len(rows)]
            seen = {knot for row in beside for knot in row}
            rows[at].sort(key=lambda knot: _pull(knot, joined, place, seen))
    return rows, lines, places(rows, joined)


def _pull(knot: Knot, joined: dict[Knot, list[Knot]], place: dict[Knot, float], seen: set[Knot]) -> tuple[float, str]:
    return mean([place[other] for other in joined[knot] if other in seen] or [place[knot]]), str(knot)


def width(knot: Knot) -> float:
    """Of a box with its name in it; an arrow that passes a row needs some room as well. Pixels."""
    return max(92.0, LETTER * len(knot) + 22) if isinstance(knot, str) else 28.0


def _packed(rows: list[list[Knot]]) -> dict[Knot, float]:
    """The middle of every knot, pixels from the left: each row close together, around the floor's middle."""
    found: dict[Knot, float] = {}
    for row in rows:
        left = (WIDTH - SIDE - sum(map(width, row)) - GAP * (len(row) - 1)) / 2
        for knot in row:
            found[knot] = left + width(knot) / 2
            left += width(knot) + GAP
    return found


def places(rows: list[list[Knot]], joined: dict[Knot, list[Knot]]) -> dict[Knot, float]:
    """The middle of every knot, as close to what it is joined to as the order of its row allows."""
    found, middle = _packed(rows), (WIDTH - SIDE) / 2
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 else rows[::-1]:
            near = [mean([found[other] for other in joined[knot]] or [middle]) for knot in row]
            wanted = [PULL * middle + (1 - PULL) * at for at in near]
            apart = [0.0, *((width(one) + width(other)) / 2 + GAP for one, other in pairwise(row))]
            offset = list(accumulate(apart))
            from_left = list(accumulate((want - at for want, at in zip(wanted, offset, strict=True)), max))
            from_right = list(accumulate((want - at for want, at in zip(wanted[::-1], offset[::-1], strict=True)), min))
            both = zip(row, from_left, from_right[::-1], offset, strict=True)
            found |= {knot: (left + right) / 2 + at for knot, left, right, at in both}
    least = min(found[knot] - width(knot) / 2 for row in rows for knot in row)
    most = max(found[knot] + width(knot) / 2 for row in rows for knot in row)
    return {knot: at + middle - (least + most) / 2 for knot, at in found.items()}


def draw(graph: grimp.ImportGraph) -> str:
    """The picture as SVG."""
    parts, top, edges = [], float(MARGIN), {}
    for floor in floors(graph):
        rows, lines, x = rows_and_lines(floor)
        height = HEAD + ROW * (len(rows) - 1) + BOX + MARGIN
        edges[floor.name] = (top, top + height)
        parts += _floor(floor, rows, lines, x, top, height)
        top += height + MARGIN
    order = list(FLOORS)
    far = sorted(steps_down(graph), key=lambda pair: order.index(pair[1]) - order.index(pair[0]))
    for number, (above, below) in enumerate(far):
        lane = max(0, number - len(FLOORS) + 2)  # those to the next floor share the first
        start, end = edges[above][1] - 22 - 16 * lane, edges[below][0] + 22 + 16 * lane
        parts.append(_step_down(start, end, lane, FLOORS[above][1]))
    size = f'width="{WIDTH}" height="{top:.0f}" viewBox="0 0 {WIDTH} {top:.0f}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="Helvetica, Arial, sans-serif">',
        "<title>The house of eyespot: every box stands above what it uses</title>",
        f'<rect width="{WIDTH}" height="{top:.0f}" fill="#ffffff"/>',
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


def _floor(
    floor: Floor, rows: list[list[Knot]], lines: list[list[Knot]], x: dict[Knot, float], top: float, height: float
) -> list[str]:
    says, colour = FLOORS[floor.name]
    right = WIDTH - SIDE
    y = {knot: top + HEAD + ROW * at for at, row in enumerate(rows) for knot in row}
    parts = [
        f'<rect x="{MARGIN}" y="{top:.0f}" width="{right - MARGIN}" height="{height:.0f}" rx="10" fill="{colour}"'
        ' fill-opacity="0.06"/>',
        f'<text x="{MARGIN + 16}" y="{top + 28:.0f}" font-size="19" font-weight="bold" fill="{colour}">{floor.name}/'
        f'<tspan dx="12" font-size="14" font-weight="normal" fill="#555">{escape(says)}</tspan></text>',
    ]
    parts += [_arrow([(x[knot], y[knot]) for knot in line], colour) for line in lines]
    for box, count in floor.files.items():
        parts.append(_box(box, count, x[box], y[box], colour))
    return parts


def _arrow(line: list[tuple[float, float]], colour: str) -> str:
    """From the lower edge of the first box, smoothly past the rows between, to the upper edge of the last."""
    (x, y), *between, (last_x, last_y) = line
    points = [(x, y + BOX), *((x, y + BOX / 2) for x, y in between), (last_x, last_y - 7)]
    slopes = [(after[0] - before[0], after[1] - before[1]) for before, after in zip(points, points[2:], strict=False)]
    ends = [(0.0, 1.6 * (points[1][1] - points[0][1])), (0.0, 1.6 * (points[-1][1] - points[-2][1]))]
    slopes = [ends[0], *((dx / 2, dy / 2) for dx, dy in slopes), ends[1]]
    path = [f"M{x:.0f} {y + BOX:.0f}"]
    for (begin, (dx, dy)), (end, (to_x, to_y)) in pairwise(zip(points, slopes, strict=True)):
        bends = (begin[0] + dx / 3, begin[1] + dy / 3, end[0] - to_x / 3, end[1] - to_y / 3, *end)
        path.append("C" + " ".join(f"{number:.0f}" for number in bends))
    tip = f"M{last_x - 4:.0f} {last_y - 8:.0f}L{last_x:.0f} {last_y - 1:.0f}L{last_x + 4:.0f} {last_y - 8:.0f}Z"
    curve = f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-opacity="0.45" stroke-width="1.4"/>'
    return f'{curve}<path d="{tip}" fill="{colour}" fill-opacity="0.75"/>'


def _box(name: str, count: int, x: float, y: float, colour: str) -> str:
    """A folder is filled, a single file has an outline. No number of files: a new one would make the picture old."""
    wide = width(name)
    shape = f'x="{x - wide / 2:.1f}" y="{y:.0f}" width="{wide:.1f}" height="{BOX}" rx="6"'
    if not count:
        text = f'<text x="{x:.0f}" y="{y + 26:.0f}" font-size="13" text-anchor="middle" fill="#222">{name}</text>'
        return f'<rect {shape} fill="#ffffff" stroke="{colour}" stroke-opacity="0.6"/>{text}'
    font = 'font-size="13" font-weight="bold" text-anchor="middle" fill="#ffffff"'
    text = f'<text x="{x:.0f}" y="{y + 26:.0f}" {font}>{name}/</text>'
    return f'<rect {shape} fill="{colour}"/>{text}'


def _step_down(start: float, end: float, lane: int, colour: str) -> str:
    """An arrow beside the floors, from one to another."""
    edge, turn = WIDTH - SIDE, 9
    far = edge + 24 + 18 * lane
    path = (
        f"M{edge} {start:.0f}H{far - turn}q{turn} 0 {turn} {turn}V{end - turn:.0f}q0 {turn} {-turn} {turn}H{edge + 9}"
    )
    tip = f"M{edge + 11} {end - 5:.0f}L{edge + 2} {end:.0f}L{edge + 11} {end + 5:.0f}Z"
    line = f'<path d="{path}" fill="none" stroke="{colour}" stroke-opacity="0.55" stroke-width="2"/>'
    return f'{line}<path d="{tip}" fill="{colour}"/>'


def read() -> grimp.ImportGraph:
    """All imports, those inside functions and for type checkers alike."""
    return grimp.build_graph(HOUSE, cache_dir=None)


def main() -> None:
    """Writes the picture."""
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw(read()), encoding="utf-8")


if __name__ == "__main__":
    main()
