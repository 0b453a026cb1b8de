"""What was run, how to do it again, and the files."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eyespot.data_pipeline.terminal import plural
from eyespot.eval.report.charts import short
from eyespot.eval.report.rendering import Section, Table
from eyespot.eval.report.run_data import Story
from eyespot.eval.report.training_sections import rate
from eyespot.pretrain.checkpoints.folders import newest
from eyespot.pretrain.loop.run_end import read_end
from eyespot.pretrain.run_record import NAME
from eyespot.pretrain.tracking.mlflow_record import flatten

_FILES = (
    (NAME, "all settings, versions, what the data was"),
    ("metrics.jsonl", "every logged step"),
    ("logs", "one log per process"),
    ("pictures", "all pictures"),
    ("eval", "results and cached features"),
)


def header(stories: Sequence[Story]) -> dict[str, Any]:
    """What this page is about, and the numbers that matter first."""
    if len(stories) > 1:
        title, lead = " · ".join(story.label for story in stories), f"{plural(len(stories), 'run')} side by side."
        return {"title": title, "lead": lead, "state": "", "overview": _overview(stories)}
    (story,) = stories
    tiles = [(name, value) for name, value in _figures(story).items() if value]
    return {"title": story.recipe, "lead": _lead(story), "state": f"{_state(story)}.", "overview": None, "tiles": tiles}


def settings(stories: Sequence[Story]) -> Section:
    """Every setting; of several runs what differs side by side, and once what they share."""
    columns = [_settings(story) for story in stories]
    names = dict.fromkeys(name for column in columns for name in column)
    differing = [name for name in names if len({column.get(name) for column in columns}) > 1]
    rows = [[name.replace("_", " "), *(column.get(name, "not set") for column in columns)] for name in differing]
    groups: dict[str, list[str]] = {}
    for name in names:
        group, _, rest = name.replace("_", " ").partition(".")
        if name not in differing:
            groups.setdefault(group, []).append(f"{rest} {columns[0][name]}".strip())
    data = {
        "many": len(stories) > 1,
        "differing": Table(header=["", *(story.label for story in stories)], rows=rows),
        "shared": Table(rows=[(group, ", ".join(values)) for group, values in groups.items()]),
    }
    return Section(title="What was run", short="Settings", template="settings", data=data)


def reproduce(stories: Sequence[Story]) -> Section:
    """The commands, in order."""
    commands: list[str] = []
    for story in stories:
        argv = [str(word) for word in story.record.argv or ()]
        commands += [f"# {story.label}"] if len(stories) > 1 else []
        commands += [f"git checkout {story.record.git_commit[:12]}"] if story.record.git_commit else []
        commands += [shlex.join(["eyespot", *argv[1:]])] if argv else []
        commands += dict.fromkeys(shlex.join(["eyespot", *result.argv[1:]]) for result in story.results)
    commands += [shlex.join(["eyespot", "report", *(str(story.run_dir) for story in stories)])]
    changed = any(story.record.git_diff_sha256 for story in stories)
    return Section(title="Do it again", template="reproduce", data={"commands": commands, "changed": changed})


def files(stories: Sequence[Story], page: Path) -> Section:
    """Where everything lies; links work while the page lies in the run folder, else it may travel without them."""
    folders = []
    for number, story in enumerate(stories):
        last = newest(story.run_dir)
        checkpoint = [(f"checkpoints/{last.name}", "the newest checkpoint")] if last else []
        folders.append(
            {
                "heading": story.label if len(stories) > 1 else "",
                "run": number,
                "files": [(name, said) for name, said in [*_FILES, *checkpoint] if (story.run_dir / name).exists()],
                "linked": page.resolve().parent == story.run_dir.resolve(),
                "place": str(story.run_dir),
            }
        )
    return Section(title="Files", template="files", data={"folders": folders})


def _state(story: Story) -> str:
    steps, done = story.setting("steps", default=0), story.metrics.last_step
    if done and done >= steps:
        return f"complete: {plural(done, 'step')}"
    end, said = read_end(story.run_dir, inside=story.run_dir)
    state = f"step {done:,} of {steps:,}: not complete yet"
    return f"{state}; its log ends: {said}" if end in ("stopped", "failed") else state


def _lead(story: Story) -> str:
    encoder, size = story.setting("encoder", "name", default="encoder"), story.setting("encoder", "image_size")
    text = f"Training of {encoder}" + (f" at {size} × {size} pixels" if size else "")
    data = story.data_name
    return text + (f" on {data}." if data else ".")


def _overview(stories: Sequence[Story]) -> Table:
    """The tiles of several runs as one table."""
    columns = [{"state": _state(story), **_figures(story)} for story in stories]
    names = dict.fromkeys(name for column in columns for name in column)
    kept = [name for name in names if any(column.get(name) for column in columns)]
    rows = [[name, *(column.get(name, "not set") for column in columns)] for name in kept]
    header = ["", *(story.label for story in stories)]
    return Table(header=header, rows=rows, numbers=range(1, len(header)))


def _figures(story: Story) -> dict[str, str]:
    figures = {
        "images seen": (story.last("samples_seen"), _count),
        "times through the data": (story.last("epoch"), lambda value: f"{value:.3g}"),
        "training time": (story.seconds() or math.nan, _duration),
        "images per second": (rate(story), lambda value: f"{value:,.0f}"),
        "loss now": (story.last("loss"), lambda value: f"{value:.4g}"),
    }
    shown = {name: "" if math.isnan(value) else say(value) for name, (value, say) in figures.items()}
    for result in story.results:
        if result.role == "encoder" and result.protocol == "linear" and result.accuracy is not None:
            size = result.origin.get("image_size")
            shown[f"linear probe at {size} px" if size else "linear probe"] = f"{result.accuracy:.1%}"
    return shown


def _settings(story: Story) -> dict[str, str]:
    """By dotted name."""
    record, commit = story.record, story.record.git_commit or ""
    changed = " with uncommitted changes" if record.git_diff_sha256 else ""
    memory = story.last("peak_memory_gb")
    run = {name: value for name, value in flatten(record.run).items() if value not in ("None", "[]")}
    run.pop("run_dir", None)
    rows = {
        "recipe": story.recipe,
        **{name if "." in name else f"run.{name}": value for name, value in run.items()},
        **{f"start.{name}": _text(value) for name, value in (record.start or {}).items() if name != "weights"},
        "data.name": story.data_name,
        "processes": _text(record.world_size),
        "peak memory": f"{memory:.2f} GB" if math.isfinite(memory) else "",
        "started": _text(record.started),
        "code": f"{commit[:12]}{changed}" if commit else f"eyespot {_text(record.eyespot)}",
        "manifest": _text(record.manifest_sha256)[:16],
        **{f"versions.{name}": _text(version) for name, version in (record.versions or {}).items()},
    }
    return {name: value for name, value in rows.items() if value}


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e7 else short(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{minutes} min" if minutes < 100 else f"{hours:.1f} h"
