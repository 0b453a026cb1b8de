"""How training went: curves, what the monitors saw, throughput and where the time went."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from eyespot.eval.report.charts import Line, line_chart
from eyespot.eval.report.diagrams import share_bar
from eyespot.eval.report.rendering import Section, Table
from eyespot.eval.report.run_data import Story
from eyespot.eval.results.checkpoint_scores import NAMES, selections_in, table

_CHARTS = {  # by metric: which section shows it, its title and unit, whether the axis begins at 0
    "lr": ("curves", "Learning rate", "", True),
    "grad_norm": ("curves", "Gradient norm", "", False),
    "images_per_second": ("speed", "Images per second", "", True),
    "data_wait_share": ("speed", "Share of time spent waiting for data (%)", "%", True),
    "gpu/memory_gb": ("speed", "Memory in use on the fullest GPU, by whomever (GB)", "", True),
    "gpu/power_watts": ("speed", "Power of a GPU, mean over the ranks (W)", "", True),
    "gpu/temperature_celsius": ("speed", "Hottest GPU (°C)", "", False),
    "gpu/clock_mhz": ("speed", "Slowest clock of a GPU (MHz)", "", True),
    "gpu/slowed_share": ("speed", "Share of time in which a GPU was slowed down by heat or its supply (%)", "%", True),
    "gpu/ecc_errors": ("speed", "Memory errors (ECC) that GPUs could not correct", "", True),
    "online/linear": ("watched", "Linear probe (%)", "%", False),
    "online/knn": ("watched", "Nearest neighbours (%)", "%", False),
    "drift/linear": ("watched", "Linear probe, change since the given weights (%)", "%", False),
    "drift/knn": ("watched", "Nearest neighbours, change since the given weights (%)", "%", False),
    "health/positive_similarity": ("watched", "Cosine of two views of one image", "", False),
    "health/negative_similarity": ("watched", "Cosine of different images", "", False),
    "health/alignment": ("watched", "Alignment: distance of two views, squared", "", False),
    "health/uniformity": ("watched", "Uniformity (lower = more spread out)", "", False),
    "health/effective_rank": ("watched", "Effective rank", "", False),
    "health/effective_rank_centered": ("watched", "Effective rank, centred", "", False),
}
_SHOWN_ELSEWHERE = {"step", "time", "epoch", "samples_seen", "loss", "bad_samples", "peak_memory_gb"}
MAX_OTHER_CHARTS = 40
"""Of scalars that nobody here knows by name."""
PART_NAMES = {
    "data": "waiting for data",
    "forward": "forward",
    "backward": "backward",
    "communication": "communication",
    "optimiser": "optimiser, teacher",
    "checkpoint": "checkpoints",
    "other": "logs, monitors",
    "passes": "forward and backward",
}
"""Of the parts that ``pretrain/watchdog/time_breakdown.py`` measures, which needs torch as no report does."""


def curves(stories: Sequence[Story]) -> Section:
    """Loss, learning rate, gradient norm, and whatever else the objective and its monitors logged."""
    lines = _lines(stories, "loss", 1.0)
    notes = [_broken(story, len(stories) > 1) for story in stories]
    others = _other_scalars(stories)
    if left_out := others[MAX_OTHER_CHARTS:]:
        said = f"{len(left_out)} more scalars are in metrics.jsonl and not drawn, from {left_out[0]} to {left_out[-1]}."
        notes.append(said)
    data = {
        "begun": any(story.metrics for story in stories),
        "wide": line_chart(lines, title="Loss", width=1040, height=300),
        "narrow": line_chart(lines, title="Loss"),
        "notes": notes,
        "charts": _charts(stories, "curves", others[:MAX_OTHER_CHARTS]),
    }
    return Section(title="Training", template="curves", data=data)


def watched(stories: Sequence[Story]) -> Section | None:
    """What the monitors saw, where the runs had any."""
    charts = _charts(stories, "watched")
    if not charts:
        return None
    title = "The encoder while it learned" if len(stories) == 1 else "The encoders while they learned"
    data = {"alarms": [_collapse(story, len(stories) > 1) for story in stories], "charts": charts}
    return Section(title=title, short="While it learned", template="watched", data=data)


def which_checkpoint(stories: Sequence[Story]) -> Section | None:
    """What ``eyespot eval select`` found: each score over the checkpoints, and which one to take."""
    found = [(number, story, each) for number, story in enumerate(stories) for each in selections_in(story.run_dir)]
    if not found:
        return None
    many, words, charts = len(found) > 1, list[str](), list[tuple[str, Markup]]()
    labels = [
        f"{story.label}, {each.data}{', averages' if each.averaged else ''}" if many else story.label
        for _, story, each in found
    ]
    for name, title in NAMES.items():
        lines = [
            Line(points=[(one.step, one.scores[name].value) for one in each.checkpoints], run=number, label=label)
            for (number, _, each), label in zip(found, labels, strict=True)
            if all(name in one.scores for one in each.checkpoints)
        ]
        if any(len(line.points) > 1 for line in lines):
            charts.append((title, line_chart(lines, title=title)))
    for label, (_, _, each) in zip(labels, found, strict=True):
        of = f"{label}: " if many else ""
        words += [f"{of}{verdict.taken}, by {NAMES[name]}: {verdict.words}." for name, verdict in each.verdicts.items()]
        words += [f"{of}{one.checkpoint}: {alarm}." for one in each.checkpoints for alarm in one.alarms]
    tables = [(label if many else "", *table(each)) for label, (_, _, each) in zip(labels, found, strict=True)]
    data = {
        "words": words,
        "charts": charts,
        "tables": [
            (label, Table(header=header, rows=rows, numbers=range(1, len(header)))) for label, header, rows in tables
        ],
    }
    return Section(title="Which checkpoint", template="choice", data=data)


def speed(stories: Sequence[Story]) -> Section | None:
    """Throughput, and where the time went."""
    charts = _charts(stories, "speed")
    if not charts:
        return None
    known = [(number, story, _time_shares(story)) for number, story in enumerate(stories)]
    measured = [(number, story, shares) for number, story, shares in known if shares]
    kept = [part for part in PART_NAMES if any(shares[part] >= 0.0005 for *_, shares in measured)]
    many = len(stories) > 1
    data = {
        "bars": [
            (story.label if many else "", number, share_bar(shares, title=f"Where the time of {story.label} went"))
            for number, story, shares in measured
        ],
        "legend": [(part, PART_NAMES[part]) for part in kept],
        "numbers": Table(
            header=["", *(story.label for _, story, _ in measured)] if many else [],
            rows=[[PART_NAMES[part], *(f"{shares[part]:.1%}" for *_, shares in measured)] for part in kept],
            numbers=range(1, len(measured) + 1),
        ),
        "since": "from the first step to the last logged one",
        "charts": charts,
    }
    return Section(title="Where the time went", short="Time", template="time", data=data)


def rate(story: Story) -> float:
    """Images per second, the median over the run; nan where none is known."""
    _, rates = story.metrics.points("images_per_second")
    finite = rates[np.isfinite(rates)]
    return float(np.median(finite)) if len(finite) else math.nan


def _time_shares(story: Story) -> dict[str, float]:
    """Of the whole run: each interval weighs as much as it took. Empty where it was not measured."""
    shares = {part: story.metrics.on_every_line(f"time_share/{part}") for part in PART_NAMES}
    seconds = np.where(story.metrics.has("time_share/data"), story.intervals(), 0.0)
    total = float(seconds.sum())
    return {part: float(seconds @ share) / total for part, share in shares.items()} if total > 0 else {}


def _other_scalars(stories: Sequence[Story]) -> list[str]:
    """Names of the numbers that no other chart of the page shows, sorted: all that an objective of anybody's logs."""
    drawn = _SHOWN_ELSEWHERE | _CHARTS.keys()
    known = drawn | {f"time_share/{part}" for part in PART_NAMES} | {"health/collapsed"}
    return sorted(set[str]().union(*(story.names() for story in stories)) - known)


def _lines(stories: Sequence[Story], metric: str, factor: float) -> list[Line]:
    return [
        Line(points=[(step, value * factor) for step, value in story.curve(metric)], run=number, label=story.label)
        for number, story in enumerate(stories)
    ]


def _charts(stories: Sequence[Story], section: str, others: Sequence[str] = ()) -> list[tuple[str, Markup]]:
    """Those of a section's charts for which there are numbers, each with its title; shares are drawn in percent."""
    charts = []
    wanted = [(name, title, unit, zero) for name, (of, title, unit, zero) in _CHARTS.items() if of == section]
    wanted += [(name, name, "", False) for name in others]
    for name, title, unit, zero in wanted:
        lines = _lines(stories, name, 100.0 if unit else 1.0)
        if any(math.isfinite(value) for line in lines for _, value in line.points):
            charts.append((title, line_chart(lines, title=title, unit=unit, zero=zero)))
    return charts


def _broken(story: Story, named: bool) -> str:
    missing = int((~np.isfinite(story.metrics.points("loss")[1])).sum())
    of = f" of {story.label}" if named else ""
    return f"{missing} logged steps{of} had a loss that is not finite; they are not drawn." if missing else ""


def _collapse(story: Story, named: bool) -> str:
    looked, value = story.metrics.points("health/collapsed")
    steps = looked[value == 1]
    if not len(steps):
        return ""
    who = f"{story.label}: collapsed" if named else "Collapsed"
    return (
        f"{who} at {len(steps)} of the steps looked at, first at step {steps[0]:,}: the encoder gave nearly the same"
        " features for every image."
    )
