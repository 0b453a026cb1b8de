"""The numbers of a run for its charts, as JSON: as many points as the screen has columns, and then only what is new."""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from eyespot.cluster.web.answers import Answer, Query
from eyespot.cluster.web.envelopes import Series
from eyespot.cluster.web.growing_metrics import GrowingMetrics
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.report.charts import Number

SLICE_SECONDS = 0.4
"""Of reading before an answer: what of a long file is left comes with the next ones."""
MOST_CHARTS = 32
MOST_BINS = 2000
_ALONG = {"samples": "samples_seen", "time": "time"}
"""What stands below a chart, other than steps, and the metric that tells it."""


def curves(metrics: GrowingMetrics, query: Query) -> Answer:
    """Points of some metrics.

    Args:
        metrics: of the run.
        query: ``name`` (several), ``x`` ("step", "samples", "time": seconds since the first line), ``bins``,
            ``from`` and ``to`` (of x), ``epoch`` and ``after`` (of the last answer, so that only what is new comes),
            ``known`` (how many names the asker knows already).
    """
    if not metrics.lock.acquire(timeout=5):
        return Answer.json({"busy": True})
    try:
        complete = metrics.read(SLICE_SECONDS)
        return Answer.json(_told(metrics, query, complete))
    finally:
        metrics.lock.release()


def _told(metrics: GrowingMetrics, query: Query, complete: bool) -> dict[str, Any]:
    axis = _Axis(metrics, query.one("x", "step"))
    begin, end = axis.steps_between(query.number("from", -np.inf), query.number("to", np.inf))
    after = query.number("after", -np.inf) if query.one("epoch") == str(metrics.epoch) else -np.inf
    bins = int(min(MOST_BINS, max(16, query.number("bins", 800))))
    names = sorted(metrics.series)
    told: dict[str, Any] = {
        "epoch": str(metrics.epoch),
        "last": metrics.last_step,
        "read": 1.0 if complete else round(metrics.share_read, 3),
        "notes": _notes(metrics),
        "metrics": {
            name: _points(metrics.series[name], axis, bins, begin, end, after)
            for name in query.all("name")[:MOST_CHARTS]
            if name in metrics.series
        },
    }
    if query.one("known") != str(len(names)):
        told["names"] = names
    return told


def _notes(metrics: GrowingMetrics) -> list[str]:
    notes = [metrics.problem] if metrics.problem else []
    if metrics.num_left_out:
        notes.append(f"left out of metrics.jsonl, damaged or too long: {plural(metrics.num_left_out, 'line')}")
    if metrics.names_left_out:
        notes.append(f"more than {plural(len(metrics.series), 'metric')}: the others are left out")
    return notes


class _Axis:
    """What charts are drawn along, as a function of the step."""

    def __init__(self, metrics: GrowingMetrics, along: str) -> None:
        series = metrics.series.get(_ALONG.get(along, ""))
        self._series = series if series is not None and len(series) else None
        self._origin = float(self._series.means[0]) if self._series is not None and along == "time" else 0.0

    def of(self, steps: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Where steps stand."""
        if self._series is None:
            return steps.astype(np.float64)
        return np.interp(steps, self._series.steps, self._series.means) - self._origin

    def steps_between(self, low: Number, high: Number) -> tuple[Number, Number]:
        """The steps of a part of the axis, the ones at its rims too."""
        if self._series is None:
            return low, high
        places = np.maximum.accumulate(self._series.means) - self._origin
        first, last = np.searchsorted(places, low) - 1, np.searchsorted(places, high, "right")
        steps = self._series.steps
        return (
            float(steps[first]) if first >= 0 else -np.inf,
            float(steps[last]) if last < len(steps) else np.inf,
        )


def _points(series: Series, axis: _Axis, bins: int, begin: Number, end: Number, after: Number) -> dict[str, Any]:
    found = series.envelope(bins, begin, end, after)
    return {
        "replaces": found.replaces,
        "step": found.steps.tolist(),
        "x": _short(axis.of(found.steps), 12),
        "mean": _short(found.mean, 7),
        "low": None if found.low is None else _short(found.low, 7),
        "high": None if found.high is None else _short(found.high, 7),
        "broken": series.num_broken,
        "newest": series.last if np.isfinite(series.last) else str(series.last),
    }


def _short(values: Float64[np.ndarray, " n"], digits: int) -> list[float]:
    """With no more digits than a screen shows."""
    form = f"%.{digits}g"
    return [float(form % value) for value in values.tolist()]
