"""Story: all that a run folder tells, and several of them side by side."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.eval.report.charts import MAX_POINTS, Point
from eyespot.eval.report.metric_columns import MetricColumns, read_columns
from eyespot.eval.report.rendering import Section
from eyespot.eval.results.result import Result, results_in
from eyespot.pretrain.checkpoints.folders import newest
from eyespot.pretrain.run_record import RunRecord

MAX_STORIES = 8
"""As many lines as one chart can tell apart."""


@dataclass(kw_only=True, slots=True)
class Story:
    """All that a run folder tells."""

    run_dir: Path
    record: RunRecord
    metrics: MetricColumns
    """metrics.jsonl."""
    results: list[Result]
    label: str = ""
    """What tells it from the other runs on the page."""

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return self.record.recipe or self.run_dir.name

    @property
    def shards(self) -> str:
        """The shard folder, as the run was told."""
        return str(self.setting("data", "shards", default="SHARDS"))

    @property
    def data_name(self) -> str:
        """What the shards say their name is, if they are still there."""
        shards = self.setting("data", "shards", default="")
        try:
            return find_shards(shards).manifest.name if shards else ""
        except UserError:
            return Path(shards).name

    def setting(self, *path: str, default: Any = None) -> Any:
        """A value of the resolved run, tolerant of what older runs lack and of what strangers write."""
        value: Any = self.record.run
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        fits = value is not None and (default is None or isinstance(value, type(default)))
        return value if fits else default

    def unseen(self) -> str:
        """Why its encoder can be shown no images; empty where it can be tried, for which torch is needed."""
        if newest(self.run_dir) is None:
            return "the run has no complete checkpoint yet"
        shards = self.setting("data", "shards", default="")
        if not shards:
            return "the run names no shards"
        try:
            find_shards(shards)
        except UserError as error:
            return str(error)
        return ""

    def series(self, name: str) -> list[Point]:
        """(step, value) of a metric; what is not a finite number is nan or infinite."""
        steps, values = self.metrics.points(name)
        return list(zip(steps.tolist(), values.tolist(), strict=True))

    def curve(self, name: str) -> list[Point]:
        """``series`` as it is drawn: means of neighbours where there are many, and only finite values."""
        steps, values = self.metrics.thinned(name, MAX_POINTS)
        return list(zip(steps.tolist(), values.tolist(), strict=True))

    def names(self) -> set[str]:
        """Of all numbers that were logged."""
        return self.metrics.names()

    def last(self, name: str) -> float:
        """A metric's newest finite value, else nan."""
        _, values = self.metrics.points(name)
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if len(finite) else math.nan

    def intervals(self) -> Float64[np.ndarray, " lines"]:
        """The seconds that the steps of each line took: images over their rate, so without pauses; 0 = unknown."""
        rates, seen = (self.metrics.on_every_line(name) for name in ("images_per_second", "samples_seen"))
        known = rates != 0
        seconds = np.zeros(len(rates))
        seconds[known] = np.diff(seen[known], prepend=0) / rates[known]
        return seconds

    def seconds(self) -> float:
        """Time spent training."""
        return float(self.intervals().sum())


def nothing_seen(reasons: Iterable[str]) -> Section:
    """What stands where the encoder's images would be."""
    data = {"exhibits": [], "missing": [f"No pictures: {reason}." for reason in sorted(set(reasons))]}
    return Section(title="What it sees", template="exhibits", data=data)


def read_stories(run_dirs: Sequence[Path]) -> list[Story]:
    """Reads run folders, in the order given, each with a label of its own.

    Raises:
        UserError: one is not a run folder, is named twice, or there are too many for one page.
    """
    if not run_dirs:
        raise UserError("runs: none is named; write eyespot report RUN, with a run folder")
    if len(run_dirs) > MAX_STORIES:
        raise UserError(f"runs: {len(run_dirs)} are too many for one page; name at most {MAX_STORIES}")
    if len({path.resolve() for path in run_dirs}) < len(run_dirs):
        raise UserError(f"runs {' '.join(map(str, run_dirs))}: one of them is named twice; leave it out")
    stories = [read_story(path) for path in run_dirs]
    for namings in ([s.recipe for s in stories], [s.run_dir.resolve().name for s in stories], map(str, run_dirs)):
        names = list(namings)
        if len(set(names)) == len(names):
            break
    for story, name in zip(stories, names, strict=True):
        story.label = name
    return stories


def read_story(run_dir: Path) -> Story:
    """Reads a run folder; whatever is not there yet is empty.

    Raises:
        UserError: there is no run.json, or it is damaged.
    """
    record = RunRecord.read(RunRecord.path(run_dir), needed=())
    return Story(run_dir=run_dir, record=record, metrics=read_columns(run_dir), results=results_in(run_dir))
