"""What was run, how to do it again, and the files."""

import math
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

from eyespot.eval.report.charts import short
from eyespot.eval.report.html import Section, card, paragraph, table
from eyespot.eval.report.run_data import Story
from eyespot.eval.report.training_sections import rate
from eyespot.pretrain.checkpoints.reader import complete
from eyespot.pretrain.tracking.mlflow_mirror import flatten

_FILES = (
    ("run.json", "all settings, versions, what the data was"),
    ("metrics.jsonl", "every logged step"),
    ("logs", "one log per process"),
    ("pictures", "all pictures"),
    ("eval", "results and cached features"),
)


def header(stories: Sequence[Story]) -> str:
    """What this page is about, and the numbers that matter first."""
    if len(stories) == 1:
        (story,) = stories
        title, lead, state, tiles = story.recipe, _lead(story), f"{_state(story)}.", _tiles(story)
    else:
        title = " · ".join(story.label for story in stories)
        lead, state, tiles = (
            f"{len(stories)} runs side by side.",
            "",
            _overview(stories),
        )
    return (
        f'<header><p class="eyebrow">eyespot report</p><h1>{escape(title)}</h1>{paragraph(lead, "lead")}'
        f"{paragraph(state, 'quiet')}</header>{tiles}"
    )


def settings(stories: Sequence[Story]) -> Section:
    """Every setting; of several runs what differs side by side, and once what they share."""
    columns = [_settings(story) for story in stories]
    names = dict.fromkeys(name for column in columns for name in column)
    differing = [name for name in names if len({column.get(name) for column in columns}) > 1]
    rows = [[name.replace("_", " "), *(column.get(name, "") for column in columns)] for name in differing]
    body = card(table(["", *(story.label for story in stories)], rows), "What differs") if differing else ""
    groups: dict[str, list[str]] = {}
    for name in names:
        group, _, rest = name.replace("_", " ").partition(".")
        if name not in differing:
            groups.setdefault(group, []).append(f"{rest} {columns[0][name]}".strip())
    shared = [[group, ", ".join(values)] for group, values in groups.items()]
    body += card(table([], shared), "What they share" if len(stories) > 1 else "") if shared else ""
    return Section(title="What was run", short="Settings", body=f'<div class="settings">{body}</div>')


def reproduce(stories: Sequence[Story]) -> Section:
    """The commands, in order."""
    commands: list[str] = []
    for story in stories:
        argv = [str(word) for word in story.record.get("argv", [])]
        commands += [f"# {story.label}"] if len(stories) > 1 else []
        commands += [f"git checkout {story.record['git_commit'][:12]}"] if story.record.get("git_commit") else []
        commands += [shlex.join(["eyespot", *argv[1:]])] if argv else []
        commands += dict.fromkeys(shlex.join(["eyespot", *result.argv[1:]]) for result in story.results)
    commands += [shlex.join(["eyespot", "report", *(str(story.run_dir) for story in stories)])]
    changed = any(story.record.get("git_diff_sha256") for story in stories)
    note = "The code had uncommitted changes: their hash is in run.json." if changed else ""
    body = f"<pre><code>{escape(chr(10).join(commands))}</code></pre>{paragraph(note, 'warn')}"
    return Section(title="Do it again", body=body)


def files(stories: Sequence[Story], page: Path) -> Section:
    """Where everything lies; links work while the page lies where it was written."""
    cards = []
    for number, story in enumerate(stories):
        newest = [(f"checkpoints/{folder.name}", "the newest checkpoint") for folder in complete(story.run_dir)[-1:]]
        items = [
            f'<tr><th scope="row">{_link(story, name, page)}</th><td>{said}</td></tr>'
            for name, said in [*_FILES, *newest]
            if (story.run_dir / name).exists()
        ]
        place = f"<p class='quiet'>In <code>{escape(str(story.run_dir))}</code>.</p>"
        content = f"<table><tbody>{''.join(items)}</tbody></table>{place}"
        cards.append(card(content, story.label, number) if len(stories) > 1 else card(content))
    grid = f'<div class="grid2">{"".join(cards)}</div>' if len(stories) > 1 else "".join(cards)
    return Section(title="Files", body=grid)


def _link(story: Story, name: str, page: Path) -> str:
    """Relative, where the page lies in the run folder; else only the name: the page may travel."""
    if page.resolve().parent == story.run_dir.resolve():
        return f'<a href="{escape(name)}">{escape(name)}</a>'
    return escape(name)


def _state(story: Story) -> str:
    steps, done = story.setting("steps", default=0), story.metrics[-1]["step"] if story.metrics else 0
    if done and done >= steps:
        return f"complete: {done:,} steps"
    return f"step {done:,} of {steps:,}: not complete yet"


def _lead(story: Story) -> str:
    encoder, size = story.setting("encoder", "name", default="encoder"), story.setting("encoder", "image_size")
    text = f"Training of {encoder}" + (f" at {size} × {size} pixels" if size else "")
    data = story.data_name
    return text + (f" on {data}." if data else ".")


def _tiles(story: Story) -> str:
    tiles = [(name, value) for name, value in _figures(story).items() if value]
    shown = [f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>' for name, value in tiles]
    return f'<dl class="tiles">{"".join(shown)}</dl>'


def _overview(stories: Sequence[Story]) -> str:
    """The tiles of several runs as one table."""
    columns = [{"state": _state(story), **_figures(story)} for story in stories]
    names = dict.fromkeys(name for column in columns for name in column)
    kept = [name for name in names if any(column.get(name) for column in columns)]
    rows = [[name, *(column.get(name, "") for column in columns)] for name in kept]
    head = ["", *(story.label for story in stories)]
    return f'<div class="overview">{card(table(head, rows, numbers=range(1, len(head))))}</div>'


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
    commit = str(story.record.get("git_commit") or "")
    changed = " with uncommitted changes" if story.record.get("git_diff_sha256") else ""
    memory = story.last("peak_memory_gb")
    run = {name: value for name, value in flatten(story.record.get("run", {})).items() if value not in ("None", "[]")}
    run.pop("run_dir", None)
    rows = {
        "recipe": story.recipe,
        **{name if "." in name else f"run.{name}": value for name, value in run.items()},
        "data.name": story.data_name,
        "processes": _text(story.record.get("world_size")),
        "peak memory": f"{memory:.2f} GB" if math.isfinite(memory) else "",
        "started": _text(story.record.get("started")),
        "code": f"{commit[:12]}{changed}" if commit else f"eyespot {story.record.get('eyespot', '')}",
        "manifest": _text(story.record.get("manifest_sha256"))[:16],
        **{f"versions.{name}": _text(version) for name, version in story.record.get("versions", {}).items()},
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
