"""Results side by side as rows of texts, for the terminal and for the report."""

import re
from collections.abc import Sequence

from eyespot.eval.results.result import DRAW, EACH, RMSE, Result, Score

SPREAD_NAMES = {
    "rankme": "effective rank (RankMe)",
    "effective_rank_centered": "effective rank, centred",
    "dimensions": "dimensions",
    "dead_dimensions": "dead dimensions",
    "alpha_req": "eigenvalue decay (α-ReQ)",
    "negative_similarity": "cosine, different images",
    "uniformity": "uniformity",
    "alignment": "alignment within classes",
}
"""What the numbers of `eyespot.eval.protocols.label_free` are called, in the order of the table."""

CHOSEN = "chosen"
"""The last column, where something was chosen on a tenth of train."""
_UNITS = {RMSE: ", in the maps' unit", "AbsRel": ", share of the depth"}
"""Behind the names of numbers whose unit is not the others'."""

NO_SHARES = ("perplexity", "gain")
"""How numbers begin that are no shares and have an interval."""


def score_table(results: Sequence[Result], digits: int = 2) -> tuple[list[str], list[list[str]]]:
    """Header and rows for the results of one protocol on one data set: a row for each result.

    Where nothing was right or wrong there are a row for each number and a column for each kind of features.

    Args:
        results: one or more.
        digits: of percentages, behind the point.
    """
    first = results[0]
    if first.accuracy is None:
        return _by_number(results)
    names = dict.fromkeys(name for result in results for name in result.all_scores())
    shown = [name for name in names if not name.startswith(DRAW) and name != EACH]
    guesses = list(dict.fromkeys(name for result in results for name in result.guesses()))
    header = ["", first.share, "95% interval", *(f"{name}{_UNITS.get(name, '')}" for name in shown[1:])]
    header += [name.replace(" asks)", ")") for name in guesses]  # a terminal has 80 columns
    rows = []
    for result in results:
        texts = [result.name]
        for name, score in ((name, result.all_scores().get(name)) for name in shown):
            texts.append("" if score is None else _told(name, score, digits))
        low, high = result.interval or (0.0, 1.0)
        texts.insert(2, f"{low:.{digits}%} to {high:.{digits}%}")
        rows.append([*texts, *(_guessed(result.settings.get(name)) for name in guesses)])
    chosen = [result.chosen() for result in results]
    if any(chosen):
        header, rows = [*header, CHOSEN], [[*row, words] for row, words in zip(rows, chosen, strict=True)]
    return header, rows


def turned(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The same with a row for each number and a column for each result."""
    first, *others = map(list, zip(header, *rows, strict=True))
    return first, others


def _guessed(share: float | str | None) -> str:
    """What guessing gets, in per cent; of several k "0.0028, 0.014", as joint retrieval says it."""
    try:
        return ", ".join(f"{float(part):.1%}" for part in str(share or "").split(", ") if part)
    except ValueError:
        return str(share)


def _told(name: str, score: Score, digits: int) -> str:
    if name == RMSE:
        return f"{score.value:.4g}"
    if score.interval is None:
        return f"{score.value:g}" if name.startswith("median rank") else f"{score.value:.3f}"
    if not name.startswith(NO_SHARES):
        return f"{score.value:.{digits}%}"
    value, low, high = (f"{each:,.{0 if abs(each) >= 100 else 3}f}" for each in (score.value, *score.interval))
    return f"{value} ({low} to {high})"


_BLOCK = re.compile(r"layers/block(\d+)_(\w+)")


def block_metric(block: int, kind: str) -> str:
    """The name of what a block's features give.

    Args:
        block: counted from 1, the first.
        kind: of features: "cls", "mean".
    """
    return f"layers/block{block:03}_{kind}"


def by_depth(result: Result) -> dict[str, list[tuple[int, float]]]:
    """Of each kind of features (number of the block, accuracy on test), the first block first; empty without blocks."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, value in sorted(result.metrics.items()):
        if match := _BLOCK.fullmatch(name):
            found.setdefault(match[2], []).append((int(match[1]), value))
    return found


def depth_table(results: Sequence[Result], digits: int = 2) -> tuple[list[str], list[list[str]]]:
    """Header and rows for results of "layers": a row for each block, a column for each subject and kind of features.

    Args:
        results: of one protocol on one data set.
        digits: of percentages, behind the point.
    """
    columns = {f"{each.name}: {kind}": dict(points) for each in results for kind, points in by_depth(each).items()}
    blocks = sorted({block for column in columns.values() for block in column})
    rows = [
        [str(block), *(f"{column[block]:.{digits}%}" if block in column else "" for column in columns.values())]
        for block in blocks
    ]
    return ["block", *columns], rows


_CLASS = re.compile(r"zero-shot/class(\d+) of (\d+): (.*)", re.DOTALL)
MOST_CLASSES = 30
"""Rows of a table of classes."""


def class_metric(number: int, count: int, name: str) -> str:
    """The name of the share of a class's images that are named right.

    Args:
        number: of the class.
        count: of its images.
        name: its own.
    """
    return f"zero-shot/class{number:05} of {count}: {name}"


def class_table(results: Sequence[Result], digits: int = 1) -> tuple[list[str], list[list[str]]]:
    """Header and rows for results of "zero-shot": a row for each class, of many for those least known to the first.

    Args:
        results: of one protocol on one data set.
        digits: of percentages, behind the point.
    """
    found = [name for name in results[0].metrics if _CLASS.fullmatch(name)]
    if len(found) > MOST_CLASSES:
        found = sorted(found, key=results[0].metrics.__getitem__)[:MOST_CLASSES]
    rows = []
    for metric in found:
        match = _CLASS.fullmatch(metric)
        shares = [result.metrics.get(metric) for result in results]
        said = [f"{share:.{digits}%}" if share is not None else "" for share in shares]
        rows.append([match[3] if match else "", match[2] if match else "", *said])
    return ["class", "images", *(result.name for result in results)], rows


def poolings(results: Sequence[Result]) -> list[str]:
    """What "pool" is, where an encoder among them has a pooling of its own."""
    return [words for words in dict.fromkeys(str(result.origin.get("pooling", "")) for result in results) if words]


def _by_number(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    columns: dict[str, dict[str, float]] = {}
    for result in results:
        for key, score in result.scores.items():
            kind, _, name = key.partition("/")
            title = result.name if kind == result.role else f"{result.name}: {kind}"
            columns.setdefault(title, {})[name] = score.value
    rows = [
        [words, *(_shown(name, column.get(name)) for column in columns.values())]
        for name, words in SPREAD_NAMES.items()
        if any(name in column for column in columns.values())
    ]
    return ["", *columns], rows


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "dead_dimensions":
        return f"{value:.1%}"
    return f"{value:.0f}" if name == "dimensions" else f"{value:.{3 if abs(value) < 10 else 1}f}"
