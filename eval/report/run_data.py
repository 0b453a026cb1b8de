"""Story: all that a run folder tells, and several of them side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.report.charts import Point
from eyespot.eval.results.result import Result, results_in
from eyespot.pretrain.run_record import RunRecord
from eyespot.pretrain.tracking.metrics_file import read_metrics

MAX_STORIES = 8
"""As many lines as one chart can tell apart."""


@dataclass(kw_only=True, slots=True)
class Story:
    """All that a run folder tells."""

    run_dir: Path
    record: RunRecord
    metrics: list[dict[str, Any]]
    """metrics.jsonl, one per line; NaN and the infinities are floats again."""
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
        shards = self.setting("data", "shards")
        try:
            return ShardFolder.find(shards).manifest.name if shards else ""
        except UserError:
            return Path(shards).name

    def setting(self, *path: str, default: Any = None) -> Any:
        """A value of the resolved run, tolerant of what older runs lack."""
        value: Any = self.record.run
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return default if value is None else value

    def series(self, name: str) -> list[Point]:
        """(step, value) of a metric; what is not a finite number is nan."""
        return [(line["step"], _number(line.get(name))) for line in self.metrics if name in line]

    def names(self) -> set[str]:
        """Of all numbers that were logged."""
        return {name for line in self.metrics for name, value in line.items() if isinstance(value, int | float)}

    def last(self, name: str) -> float:
        """A metric's newest finite value, else nan."""
        return next((value for _, value in reversed(self.series(name)) if math.isfinite(value)), math.nan)

    def intervals(self) -> list[tuple[float, dict[str, Any]]]:
        """Each line of metrics and the seconds that its steps took: images over their rate, so without pauses."""
        lines = [{"samples_seen": 0}, *(line for line in self.metrics if line.get("images_per_second"))]
        return [
            ((after.get("samples_seen", 0) - before.get("samples_seen", 0)) / after["images_per_second"], after)
            for before, after in pairwise(lines)
        ]

    def seconds(self) -> float:
        """Time spent training."""
        return float(sum(seconds for seconds, _ in self.intervals()))


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
    metrics = list(read_metrics(run_dir))
    return Story(run_dir=run_dir, record=record, metrics=metrics, results=results_in(run_dir))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
