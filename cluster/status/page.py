"""``eyespot status`` for people: a table of runs, or all about one of them."""

import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from eyespot.cluster import slurm
from eyespot.cluster.status.records import Records
from eyespot.cluster.status.run_state import tail_metrics
from eyespot.cluster.status.survey import BEAT_SECONDS, State, Status, Survey, ask_slurm, duration
from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.console import Console
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.checkpoints.folders import complete, step_of

_HEADERS = (
    "run", "job", "state", "nodes", "step", "loss", "images/s", "left", "job ends in", "checkpoint", "requeues"
)  # fmt: skip
_NUM_WORDS = 4
"""Columns of words, which begin at the left; numbers end at the right."""
_WRAPPED = {"run": 28, "state": 16, "nodes": 9}
"""Columns whose text may take several lines, and the width that they get even so."""
_STYLES: dict[State, str] = {
    "new": "dim",
    "waiting": "yellow",
    "running": "green",
    "stopping": "yellow",
    "done": "blue",
    "stopped": "magenta",
    "failed": "red",
    "unknown": "yellow",
}
_BARS = "▁▂▃▄▅▆▇█"
_NUM_SHOWN = 8


def survey_page(survey: Survey, console: Console) -> RenderableType:
    """All runs: a table where the terminal is wide, else a block of lines for each."""
    parts: list[RenderableType] = list(_warning(survey))
    if (table := _table(survey, console.width)) is not None:
        parts += [table, *_note_lines(survey)]
    else:
        parts += [_card(status, survey.time) for status in survey.runs]
    return Group(*parts)


def detail_page(survey: Survey, console: Console) -> RenderableType:
    """All about the first run: its jobs, attempts, nodes, checkpoints and losses."""
    status = survey.runs[0]
    run_dir = Path(status.run)
    records = Records(run_dir)
    nodes = _beats(records, status, survey.time)
    parts = [_jobs(records, survey), _attempts(records), nodes, _checkpoints(run_dir), _events(run_dir)]
    tables: Iterable[RenderableType] = (part for table in parts if table is not None for part in (Text(), table))
    losses = _losses(run_dir, console)
    return Group(*_warning(survey), _card(status, survey.time), *([losses] if losses else []), *tables)


def sparkline(values: list[float], width: int) -> str:
    """The course of some values as a line of bars; gaps where none is finite, and below 1e100."""
    per_bar = max(1, -(-len(values) // width))
    chunks = [values[start : start + per_bar] for start in range(0, len(values), per_bar)]
    finite = [[value for value in chunk if abs(value) < 1e100] for chunk in chunks]
    means = [sum(chunk) / len(chunk) if chunk else None for chunk in finite]
    known = [mean for mean in means if mean is not None]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    top = len(_BARS) - 1
    return "".join(" " if mean is None else _BARS[round((mean - low) / span * top) if span else 0] for mean in means)


def _warning(survey: Survey) -> Iterator[Text]:
    if survey.slurm_error:
        yield Text(f"SLURM does not answer ({survey.slurm_error}): this is what the folders tell", style="bold yellow")


def _table(survey: Survey, width: int) -> Table | None:
    """One row for each run; None where the terminal is too narrow for it."""
    short = _short_names(survey)
    rows = [_row(status, short, survey.time) for status in survey.runs]
    longest = [max(len(header), *(row[place].cell_len for row in rows)) for place, header in enumerate(_HEADERS)]
    widths = [min(length, _WRAPPED.get(header, length)) for header, length in zip(_HEADERS, longest, strict=True)]
    spare = width - sum(widths) - 2 * (len(widths) - 1)
    if spare < 0:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, header in enumerate(_HEADERS):
        more = min(spare, longest[place] - widths[place])
        spare -= more
        justify = "right" if place >= _NUM_WORDS else "left"
        table.add_column(header, width=widths[place] + more, overflow="fold", justify=justify)
    for row in rows:
        table.add_row(*row)
    return table


def _row(status: Status, short: bool, now: float) -> list[Text]:
    name = Text(_name(status, short)).append(" *" if status.notes else "", style="yellow")
    cells = [
        status.job or "-",
        Text(status.words, style=_STYLES[status.state]),
        _nodes(status),
        _step(status),
        _loss(status),
        f"{status.images_per_second:,.0f}" if _shows_speed(status) else "-",
        duration(status.seconds_left) if status.seconds_left is not None else "-",
        duration(status.job_seconds_left) if status.job_seconds_left is not None else "-",
        _checkpoint(status, now),
        "-" if status.requeues is None else str(status.requeues),
    ]
    return [name, *(cell if isinstance(cell, Text) else Text(cell) for cell in cells)]


def _note_lines(survey: Survey) -> Iterator[Text]:
    noted = [status for status in survey.runs if status.notes]
    if noted:
        yield Text()
    short = _short_names(survey)
    for status in noted:
        for note in status.notes:
            yield Text(f"* {_name(status, short)}: ", style="yellow").append(note, style="default")


def _card(status: Status, now: float) -> RenderableType:
    """A run in a few lines."""
    title = Text(status.run, style="bold").append(f"  {status.recipe}" if status.recipe else "", style="not bold dim")
    lines = [Text(status.words, style=_STYLES[status.state])]
    if status.job:
        job = [f"job {status.job} on {_nodes(status, unit=True)}"]
        job += [f"requeued {plural(status.requeues, 'time')}"] if status.requeues else []
        job += [f"ends in {duration(status.job_seconds_left)}"] if status.job_seconds_left is not None else []
        lines.append(Text(", ".join(job)))
    figures = [f"step {_step(status)}"] if status.steps is not None else []
    figures += [f"loss {_loss(status)}"] if status.loss is not None else []
    figures += [f"{status.images_per_second:,.0f} images/s"] if _shows_speed(status) else []
    figures += [f"{duration(status.seconds_left)} left"] if status.seconds_left is not None else []
    if figures:
        lines.append(Text(", ".join(figures)))
    if status.checkpoint_step is not None:
        lines.append(Text(f"checkpoint of step {_checkpoint(status, now)} ago"))
    lines += [Text("* ", style="yellow").append(note, style="default") for note in status.notes]
    return Group(title, *(Padding(line, (0, 0, 0, 2), expand=False) for line in lines), Text())


def _shows_speed(status: Status) -> bool:
    return status.images_per_second is not None and status.state in ("running", "stopping", "unknown", "done")


def _short_names(survey: Survey) -> bool:
    """Whether all runs lie in one folder, which need not be said of each."""
    return len(survey.runs) > 1 and len({Path(status.run).parent for status in survey.runs}) == 1


def _name(status: Status, short: bool) -> str:
    return Path(status.run).name if short else status.run


def _nodes(status: Status, *, unit: bool = False) -> str:
    count = status.num_nodes or len(status.nodes)
    if not count:
        return "-"
    names = ", ".join(status.nodes)
    shown = f": {names}" if names and len(names) <= 24 else ""
    return f"{count}{' node' * unit}{'s' * (unit and count > 1)}{shown}"


def _step(status: Status) -> str:
    if status.steps is None:
        return f"{status.step:,}" if status.step else "-"
    return f"{status.step:,} / {status.steps:,}"


def _loss(status: Status) -> str:
    return "-" if status.loss is None else f"{status.loss:.4g}"


def _checkpoint(status: Status, now: float) -> str:
    if status.checkpoint_step is None or status.checkpoint_time is None:
        return "-"
    return f"{status.checkpoint_step:,}, {duration(now - status.checkpoint_time)}"


def _details(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _jobs(records: Records, survey: Survey) -> Table | None:
    lines = records.jobs()
    if not lines:
        return None
    jobs, _ = ask_slurm(line.job for line in lines) if survey.slurm_error is None else ({}, None)
    table = _details("Jobs", "job", "for", "submitted", "nodes", "SLURM says", "log")
    for line in lines[-_NUM_SHOWN:]:
        words = "-" if survey.slurm_error else slurm.in_words(jobs.get(line.job))
        log, run_dir = Path(line.log), records.folder.parent.resolve()
        shown = log.relative_to(run_dir) if log.is_relative_to(run_dir) else log
        nodes = f"{line.nodes} x {plural(line.processes, 'rank')}"
        table.add_row(line.job, line.kind, _clock(line.submitted), nodes, Text(words), Text(str(shown)))
    return table


def _attempts(records: Records) -> Table | None:
    attempts = records.attempts()
    if not attempts:
        return None
    table = _details("Attempts", "", "job", "began", "took", "nodes", "how it ended")
    for attempt in attempts[-_NUM_SHOWN:]:
        took = duration(attempt.end - attempt.start) if attempt.end is not None else "-"
        ended = Text(attempt.outcome, style=_STYLES.get(attempt.outcome, "red"))  # pyright: ignore[reportArgumentType, reportCallIssue]
        if attempt.why:
            ended.append(f": {attempt.why}", style="default")
        if attempt.blamed:
            ended.append(f" (blamed: {', '.join(attempt.blamed)})", style="default")
        job = f"{attempt.job}, requeue {attempt.requeues}" if attempt.requeues else attempt.job
        nodes = ",".join(attempt.nodes)
        shown = nodes if len(nodes) <= 30 else f"{len(attempt.nodes)} nodes"
        table.add_row(str(attempt.number), job, _clock(attempt.start), took, shown, ended)
    return table


def _beats(records: Records, status: Status, now: float) -> Table | None:
    """Signs of life of the newest job's nodes; many that say the same share a row."""
    beats = [beat for beat in records.beats().values() if beat.job == status.job]
    if not beats:
        return None
    table = _details("Nodes", "node", "last sign of life", "doing")
    living = status.state in ("running", "stopping", "unknown")

    def kind(beat_state: str, age: float) -> tuple[str, bool]:
        return beat_state, age > BEAT_SECONDS

    ordered = sorted(beats, key=lambda beat: (kind(beat.state, now - beat.time), beat.node))
    for (state, silent), group in groupby(ordered, lambda beat: kind(beat.state, now - beat.time)):
        same = list(group)
        names = ", ".join(beat.node for beat in same[:_NUM_SHOWN])
        more = f" and {len(same) - _NUM_SHOWN} more" if len(same) > _NUM_SHOWN else ""
        age = f"{duration(now - min(beat.time for beat in same))} ago"
        table.add_row(names + more, Text(age, style="red" if silent and living else "default"), Text(state))
    return table


def _checkpoints(run_dir: Path) -> Table | None:
    if not (found := complete(run_dir)):
        return None
    table = _details("Checkpoints", "step", "complete since", "GB")
    for folder in found[-_NUM_SHOWN:]:
        try:
            size = sum(path.stat().st_size for path in folder.iterdir())
            saved = (folder / "meta.json").stat().st_mtime
        except OSError:
            continue  # just being replaced by a newer one
        table.add_row(f"{step_of(folder):,}", _clock(saved), f"{size / 1e9:,.3f}")
    return table


def _events(run_dir: Path) -> Table | None:
    """What the run noted of itself: stalls, slow ranks, restarts."""
    try:
        tags = foreign_json.read(run_dir / "mlflow.json", dict).get("tags", {})
        events = [tags[name] for name in sorted(tags) if name.startswith("event.") and isinstance(tags[name], str)]
    except (OSError, UserError, TypeError):
        return None
    if not events:
        return None
    table = _details("Events", "when", "what")
    for event in events[-_NUM_SHOWN:]:
        table.add_row(event[:19], Text(event[20:]))
    return table


def _losses(run_dir: Path, console: Console) -> Text | None:
    lines = [line for line in tail_metrics(run_dir) if isinstance(line.get("loss"), int | float)]
    if len(lines) < 2:
        return None
    losses = [float(line["loss"]) for line in lines]
    text = Text(f"  loss of steps {lines[0]['step']:,} to {lines[-1]['step']:,}: {losses[0]:.4g} to {losses[-1]:.4g}")
    if not console.options.ascii_only:
        text.append("\n  ").append(sparkline(losses, min(72, console.width - 4)), style="cyan")
    return text
