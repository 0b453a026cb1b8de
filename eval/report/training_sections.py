"""How training went: curves, what the monitors saw, throughput and where the time went."""

import math
from collections.abc import Sequence
from html import escape
from statistics import median

from eyespot.eval.report.charts import Line, line_chart
from eyespot.eval.report.diagrams import share_bar
from eyespot.eval.report.html import Section, card, paragraph, table
from eyespot.eval.report.run_data import Story
from eyespot.pretrain.watchdog.time_breakdown import PARTS

# metric, title, unit, whether the axis begins at 0
_CURVES = (("lr", "Learning rate", "", True), ("grad_norm", "Gradient norm", "", False))
_THROUGHPUT = (
    ("images_per_second", "Images per second", "", True),
    ("data_wait_share", "Share of time spent waiting for data (%)", "%", True),
)
_WATCHED = (
    ("online/linear", "Linear probe (%)", "%", False),
    ("online/knn", "Nearest neighbours (%)", "%", False),
    ("health/positive_similarity", "Cosine of two views of one image", "", False),
    ("health/negative_similarity", "Cosine of different images", "", False),
    ("health/alignment", "Alignment: distance of two views, squared", "", False),
    ("health/uniformity", "Uniformity (lower = more spread out)", "", False),
    ("health/effective_rank", "Effective rank", "", False),
    ("health/effective_rank_centered", "Effective rank, centred", "", False),
)
_PART_NAMES = {
    "data": "waiting for data",
    "forward": "forward",
    "backward": "backward",
    "communication": "communication",
    "optimiser": "optimiser, teacher",
    "checkpoint": "checkpoints",
    "other": "logs, monitors",
}


def curves(stories: Sequence[Story]) -> Section:
    """Loss, learning rate, gradient norm."""
    if not any(story.metrics for story in stories):
        return Section(title="Training", body=paragraph("No step has been logged yet.", "quiet"))
    lines = _lines(stories, "loss", 1.0)
    notes = "".join(paragraph(note, "warn") for story in stories if (note := _broken(story, len(stories) > 1)))
    wide = line_chart(lines, title="Loss", width=1040, height=300)
    loss = f'<div class="wide">{wide}</div><div class="narrow">{line_chart(lines, title="Loss")}</div>{notes}'
    return Section(title="Training", body=card(loss, "Loss") + _charts(stories, _CURVES))


def watched(stories: Sequence[Story]) -> Section:
    """What the monitors saw, where the runs had any."""
    title = "The encoder while it learned" if len(stories) == 1 else "The encoders while they learned"
    charts = _charts(stories, _WATCHED)
    if not charts:
        return Section(title=title, body="")
    alarms = "".join(paragraph(alarm, "warn") for story in stories if (alarm := _collapse(story, len(stories) > 1)))
    about = (
        "Looked at now and then, on the same images each time. Accuracies are of quick probes on a part of the data:"
    )
    about += " good for the trend, not for comparisons."
    return Section(title=title, short="While it learned", body=paragraph(about) + alarms + charts)


def speed(stories: Sequence[Story]) -> Section:
    """Throughput, and where the time went."""
    title, known = "Where the time went", {number: _time_shares(story) for number, story in enumerate(stories)}
    charts = _charts(stories, _THROUGHPUT)
    if not charts:
        return Section(title=title, body="")
    measured = {number: shares for number, shares in known.items() if shares}
    if not measured:
        said = paragraph("These runs' version measured nothing but the waiting for data.", "quiet")
        return Section(title=title, short="Time", body=said + charts)
    bars = "".join(_bar(stories[number], shares, number, len(stories) > 1) for number, shares in measured.items())
    kept = [part for part in PARTS if any(shares[part] >= 0.0005 for shares in measured.values())]
    header = ["", *(stories[number].label for number in measured)] if len(stories) > 1 else []
    rows = [[_PART_NAMES[part], *(f"{shares[part]:.1%}" for shares in measured.values())] for part in kept]
    legend = "".join(
        f'<span><i class="mark part" style="--part: var(--{part})"></i>{escape(_PART_NAMES[part])}</span>'
        for part in kept
    )
    about = paragraph(
        "Of the first process, from the first step to the last logged one. On GPUs communication overlaps with"
        " computing and counts as forward and backward.",
        "quiet",
    )
    numbers = table(header, rows, numbers=range(1, len(rows[0])))
    return Section(
        title=title, short="Time", body=card(f'<p class="legend">{legend}</p>{bars}{numbers}{about}') + charts
    )


def rate(story: Story) -> float:
    """Images per second, the median over the run; nan where none is known."""
    rates = [value for _, value in story.series("images_per_second") if math.isfinite(value)]
    return median(rates) if rates else math.nan


def _time_shares(story: Story) -> dict[str, float]:
    """Of the whole run: each interval weighs as much as it took. Empty where it was not measured."""
    lines = [(seconds, line) for seconds, line in story.intervals() if f"time_share/{PARTS[0]}" in line]
    total = sum(seconds for seconds, _ in lines)
    if not total > 0:
        return {}
    return {
        part: sum(seconds * line.get(f"time_share/{part}", 0.0) for seconds, line in lines) / total for part in PARTS
    }


def _bar(story: Story, shares: dict[str, float], number: int, named: bool) -> str:
    name = f'<h3><i class="mark r{number}"></i>{escape(story.label)}</h3>' if named else ""
    return f'{name}<div class="shares">{share_bar(shares, title=f"Where the time of {story.label} went")}</div>'


def _lines(stories: Sequence[Story], metric: str, factor: float) -> list[Line]:
    return [
        Line(points=[(step, value * factor) for step, value in story.series(metric)], run=number, label=story.label)
        for number, story in enumerate(stories)
    ]


def _charts(stories: Sequence[Story], wanted: Sequence[tuple[str, str, str, bool]]) -> str:
    """Those charts for which there are numbers, side by side; shares are drawn in percent."""
    cards = []
    for name, title, unit, zero in wanted:
        lines = _lines(stories, name, 100.0 if unit else 1.0)
        if any(math.isfinite(value) for line in lines for _, value in line.points):
            cards.append(card(line_chart(lines, title=title, unit=unit, zero=zero), title))
    return f'<div class="grid2">{"".join(cards)}</div>' if cards else ""


def _broken(story: Story, named: bool) -> str:
    missing = sum(not math.isfinite(value) for _, value in story.series("loss"))
    of = f" of {story.label}" if named else ""
    return f"{missing} logged steps{of} had a loss that is not finite; they are not drawn." if missing else ""


def _collapse(story: Story, named: bool) -> str:
    steps = [step for step, value in story.series("health/collapsed") if value == 1]
    if not steps:
        return ""
    who = f"{story.label}: collapsed" if named else "Collapsed"
    return (
        f"{who} at {len(steps)} of the steps looked at, first at step {steps[0]:,}: the encoder gave nearly the same"
        " features for every image."
    )
