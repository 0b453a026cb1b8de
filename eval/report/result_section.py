"""What the encoders learned: every protocol's results with their intervals, run beside run."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from markupsafe import Markup

from eyespot.data_pipeline.terminal import plural
from eyespot.eval.report.charts import NUM_COLOURS, Line, Row, interval_chart, line_chart
from eyespot.eval.report.rendering import Section, Table
from eyespot.eval.report.run_data import Story
from eyespot.eval.results.compare import LEVEL, Difference, paired_differences
from eyespot.eval.results.result import Result
from eyespot.eval.results.tables import CHOSEN, by_depth, depth_table, poolings, score_table, turned

MOST_COLUMNS = 6
"""Of a table of results; with more its numbers stand below each other."""
_ROLES = ("encoder", "random", "pixels")
_BASELINES = {"random": "the same encoder with random weights", "pixels": "raw pixels"}
_NAMES = {
    "linear": "Linear probe",
    "knn": "Nearest neighbours",
    "retrieval": "Retrieval",
    "clustering": "Clustering",
    "finetune": "Fine-tuning",
    "linear-grid": "Linear probes in a grid",
    "layers": "Linear probes by depth",
    "linear-paper": "Linear probe, the paper's",
    "attentive": "Attentive probe",
    "low-shot": "Few labels",
    "dense-linear": "Segmentation, linear",
    "dense-knn": "Segmentation, nearest patches",
    "dense-depth": "Depth, linear",
    "propagate": "Masks carried through videos",
    "propagate-points": "Key points carried through videos",
    "action": "What videos show",
    "alignment": "Moments seen by two cameras",
    "order": "Forwards or backwards",
    "own-head": "The method's own question",
    "captions": "Captions foretold",
    "zero-shot": "Classes by their names",
    "joint-retrieval": "Images and what belongs to them",
    "correspondence": "True pairs and false ones",
    "unlabeled": "Features without labels",
}


@dataclass(kw_only=True, slots=True)
class Shown:
    """A result on the page."""

    result: Result
    run: int | None
    """Whose it is: decides the colour; None for baselines."""


@dataclass(kw_only=True, slots=True)
class Comparison:
    """What the page says of one protocol on one data set."""

    heading: str
    words: list[str]
    style: str = ""
    """Of the words."""
    plot: Markup | None = None
    """Beside the table; None where there is nothing to draw."""
    numbers: Table
    about: str
    depth: tuple[Markup, Table] | None = None
    """Chart and table of what each block gives; None where a protocol looks at one."""


def judgement(stories: Sequence[Story]) -> Section:
    """All results: one table, then a card for each protocol and data set."""
    title, short = "What the encoder learned" if len(stories) == 1 else "What the encoders learned", "Results"
    shown = _all_shown(stories)
    if not shown:
        story = stories[0]
        command = shlex.join(["eyespot", "eval", "linear", str(story.run_dir), story.shards])
        return Section(title=title, short=short, template="results", data={"command": command})
    groups = [list(group) for _, group in groupby(sorted(shown, key=_order), key=lambda each: _order(each)[:3])]
    summary = _summary(groups, stories) if len(groups) > 1 else None
    data = {"command": "", "summary": summary, "groups": [_comparison(group) for group in groups]}
    return Section(title=title, short=short, template="results", data=data)


def protocol_name(protocol: str) -> str:
    """What a protocol is called in a heading."""
    return _NAMES.get(protocol) or protocol.replace("-", " ").replace("_", " ").capitalize()


def _all_shown(stories: Sequence[Story]) -> list[Shown]:
    """Every result once: baselines that several runs share are one."""
    found: dict[str, Shown] = {}
    for number, story in enumerate(stories):
        for result in story.results:
            mine = result.role == "encoder"
            name = result.name
            if len(stories) > 1 and mine:
                name = f"{story.label}, step {result.origin['step']:,}" if "step" in result.origin else story.label
                name += ", weights averaged" if "weights" in result.origin else ""
            elif len(stories) > 1 and result.role == "random":
                name = f"{result.origin.get('encoder', '')}, {result.name}".removeprefix(", ")
            key = f"{number} {result.key}" if mine else result.key
            found.setdefault(key, Shown(result=replace(result, name=name), run=number if mine else None))
    return list(found.values())


def _order(shown: Shown) -> tuple[int, str, str, int, int, int, bool]:
    result, known = shown.result, list(_NAMES)
    place = known.index(result.protocol) if result.protocol in known else len(known)
    step = int(result.origin.get("step", 0))
    part = f"{result.data}, {result.settings['shots']} per class" if "shots" in result.settings else result.data
    return place, result.protocol, part, _ROLES.index(result.role), shown.run or 0, step, "weights" not in result.origin


def _heading(group: Sequence[Shown]) -> str:
    return f"{protocol_name(group[0].result.protocol)} on {_order(group[0])[2]}"


def _newest(group: Sequence[Shown]) -> dict[int, Result]:
    """Each run's own result: that of its last step."""
    return {each.run: each.result for each in group if each.run is not None}


def _summary(groups: Sequence[list[Shown]], stories: Sequence[Story]) -> Table | None:
    rows = []
    for group in groups:
        if group[0].result.accuracy is None:
            continue
        own = _newest(group)
        cells = [_said(own.get(number)) for number in range(len(stories))]
        rows.append([_heading(group), *cells, *(_said(_only(group, role), brief=True) for role in _ROLES[1:])])
    header = ["", *(story.label for story in stories), "random weights", "pixels"]
    kept = [place for place in range(len(header)) if place == 0 or any(row[place] for row in rows)]
    cells = [[row[place] for place in kept] for row in rows]
    return Table(header=[header[place] for place in kept], rows=cells, numbers=range(1, len(kept))) if rows else None


def _only(group: Sequence[Shown], role: str) -> Result | None:
    """The baseline of that role; None where there are several, of different encoders."""
    found = [each.result for each in group if each.result.role == role]
    return found[0] if len(found) == 1 else None


def _said(result: Result | None, brief: bool = False) -> str:
    if result is None or result.accuracy is None:
        return ""
    if brief or result.interval is None:
        return f"{result.accuracy:.1%}"
    low, high = (f"{100 * end:.1f}" for end in result.interval)
    return f"{result.accuracy:.1%} ({low}–{high})"


def _comparison(group: Sequence[Shown]) -> Comparison:
    """One protocol on one data set: plot, table, and the differences in words."""
    results = [each.result for each in group]
    first = results[0]
    if first.accuracy is None:
        return _spread(results, _heading(group))
    rows = [
        Row(label=each.result.name, value=each.result.accuracy, interval=each.result.interval, run=each.run)
        for each in group
        if each.result.accuracy is not None and each.result.interval is not None
    ]
    header, cells = score_table(results, digits=1)
    strong = {place for place, each in enumerate(group) if each.run is not None}
    if len(header) > MOST_COLUMNS and len(cells) < len(header) - 1:  # wider than the card
        header, cells = turned(header, cells)
        numbers = Table(header=header, rows=cells, numbers=range(1, len(header)))
    else:
        last = len(header) - (header[-1] == CHOSEN)
        numbers = Table(header=header, rows=cells, numbers=range(1, last), strong=strong)
    chance = _chance(first)
    plot = interval_chart(rows, title=_heading(group), chance=chance) if rows else Markup()
    learned = (
        f"{plural(first.num_classes, 'class')}, {first.num_train:,} training {first.samples}, "
        if first.num_train
        else ""
    )
    about = f"{learned}{first.tested}"
    about += f" ({first.split})." + (" Dashed: chance." if chance is not None else "")
    about += "".join(f" {pooling}." for pooling in poolings(results))
    words = [*_over_baselines(group), *_differences(group)]
    depth = _depth(results, _heading(group))
    return Comparison(heading=_heading(group), words=words, plot=plot, numbers=numbers, about=about, depth=depth)


def _depth(results: Sequence[Result], heading: str) -> tuple[Markup, Table] | None:
    """Accuracy on test by block: a line for each subject and kind of features, as many as there are colours."""
    header, cells = depth_table(results, digits=1)
    if not cells:
        return None
    curves = [(result, kind, points) for result in results for kind, points in by_depth(result).items()]
    lines = [
        Line(points=[(block, 100 * share) for block, share in points], run=place, label=f"{result.name}: {kind}")
        for place, (result, kind, points) in enumerate(curves[:NUM_COLOURS])
    ]
    chart = line_chart(lines, title=f"{heading}, by depth", unit="%", along="block")
    return chart, Table(header=header, rows=cells, numbers=range(1, len(header)))


def _chance(result: Result) -> float | None:
    """What guessing gets; None where nobody knows."""
    said = result.settings.get("chance")
    if isinstance(said, float) and 0 <= said <= 1:
        return said
    return 1 / result.num_classes if _of_classes(result) else None


def _of_classes(result: Result) -> bool:
    """Whether guessing gets one in as many right as there are classes."""
    return result.num_classes > 0 and result.protocol != "clustering" and not result.protocol.startswith("dense")


def _spread(results: Sequence[Result], name: str) -> Comparison:
    """Numbers of features that nothing was asked of, and what is wrong with them."""
    header, cells = score_table(results)
    return Comparison(
        heading=name,
        words=[f"{result.name}: {alarm}" for result in results for alarm in result.alarms],
        style="warn",
        numbers=Table(header=header, rows=cells, numbers=range(1, len(header))),
        about=f"{results[0].num_test:,} test images ({results[0].split}).",
    )


def _over_baselines(group: Sequence[Shown]) -> list[str]:
    """A single run against the same encoder with random weights and against raw pixels, in words."""
    own = _newest(group)
    if len(own) != 1:
        return []
    ((_, trained),) = own.items()
    found = [(_only(group, role), words) for role, words in _BASELINES.items()]
    if trained.protocol.startswith("propagate"):  # it has two others: colours, and what stays where it was
        found[1:] = [(each.result, each.result.name) for each in group if each.result.role == "pixels"]
    beside = [(result, words) for result, words in found if result is not None and result.accuracy is not None]
    return _compared("", trained, beside)


def _differences(group: Sequence[Shown]) -> list[str]:
    """The best run against each other one."""
    own = [result for result in _newest(group).values() if result.accuracy is not None]
    if len(own) < 2:
        return []
    best, *others = sorted(own, key=lambda result: -(result.accuracy or 0.0))
    return _compared(f"{best.name} is ", best, [(other, other.name) for other in others])


def _compared(who: str, result: Result, others: Sequence[tuple[Result, str]]) -> list[str]:
    """A sentence for each: a paired test where both say which of the same test images they have right."""
    pairs = paired_differences(result, [other for other, _ in others])
    lines = []
    for place, (other, name) in enumerate(others):
        gain = 100 * ((result.accuracy or 0.0) - (other.accuracy or 0.0))
        said = f"{who}{abs(gain):.1f} points {'above' if gain >= 0 else 'below'} {name}"
        lines.append(
            f"{said} ({_tested(pairs[place], len(pairs))})." if pairs else f"{said}; {_overlap(result, other)}."
        )
    return lines


def _tested(pair: Difference, num_pairs: int) -> str:
    """The interval is turned like the words: of how far above, or how far below."""
    ends = sorted(100 * end * (1 if pair.value >= 0 else -1) for end in pair.interval or (pair.value, pair.value))
    p = pair.p_holm or 0.0
    chance = f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
    corrected = f", Holm over {num_pairs}" if num_pairs > 1 else ""
    shown = "" if p <= LEVEL else ": no difference shown"
    return f"95% {ends[0]:.1f} to {ends[1]:.1f}; paired test: {chance}, {pair.test}{corrected}{shown}"


def _overlap(a: Result, b: Result) -> str:
    if not a.interval or not b.interval:
        return "no paired test, and no intervals"
    apart = a.interval[0] > b.interval[1] or a.interval[1] < b.interval[0]
    meaning = "the intervals do not overlap" if apart else "the intervals overlap, so this may be chance"
    return f"{meaning} (no paired test: not known to be the same test images)"
