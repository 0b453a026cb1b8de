"""Where a run stands, told by its folder alone: read without torch, in milliseconds, also while the run writes."""

import contextlib
import itertools
import os
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from eyespot.cluster.status.records import Records
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.plain_files import open_plain, read_tail
from eyespot.data_pipeline.ranges import LARGEST_NUMBER
from eyespot.pretrain.loop.run_end import LOG, End, read_end
from eyespot.pretrain.run_record import RunRecord
from eyespot.pretrain.tracking import metrics_file

_TAIL_BYTES = 1 << 17
_LOCK_BYTES = 1 << 12
_INTERVALS = 50


@dataclass(kw_only=True, slots=True, frozen=True)
class RunState:
    """What a run folder says of its run; None where it does not say."""

    recipe: str
    steps: int | None
    """That the run shall make."""
    step: int
    """The newest logged one, or that of the newest checkpoint where it is higher."""
    logged: float | None
    """When it was logged; seconds since 1970."""
    loss: float | None
    images_per_second: float | None
    seconds_per_step: float | None
    """Median of the newest logged steps: waiting for a requeue does not count."""
    seconds_between_lines: float | None
    """Median of the newest lines of metrics.jsonl."""
    checkpoint_step: int | None
    """The newest complete checkpoint's."""
    checkpoint_time: float | None
    """When it was complete; seconds since 1970."""
    end: End | None
    """How its log ends; None while it runs, and where it was killed without a word."""
    end_line: str
    """What its log said at the end."""
    written: float | None
    """When its log or metrics last grew; seconds since 1970."""
    host: str
    """That last held the folder's lock."""
    holder: int | None
    """The process of this machine that holds the folder's lock now."""


def is_run(folder: Path) -> bool:
    """Whether it is the folder of a run, submitted or begun."""
    return any(path.is_file() for path in _record_paths(folder))


def read_run_state(run_dir: Path, locks: str | None = None, *, links: bool = True) -> RunState:
    """Reads a run folder; what is missing or damaged is left out.

    Args:
        run_dir: it.
        locks: what ``kernel_locks`` says, where it has been asked already.
        links: whether links that lead out of it are followed.
    """
    inside = None if links else run_dir
    record = _record(run_dir, inside)
    lines = tail_metrics(run_dir, _INTERVALS + 1, inside)
    newest = lines[-1] if lines else {}
    checkpoint, saved = _newest_checkpoint(run_dir, inside)
    log = run_dir / LOG
    end, end_line = read_end(run_dir, inside)
    host, holder = _lock(run_dir / ".lock", locks, inside)
    per_step, per_line = _pace(lines)
    times = [_modified(path, inside) for path in (log, run_dir / metrics_file.NAME)]
    return RunState(
        recipe=record.recipe,
        steps=_whole(record.run.get("steps")),
        step=max(_whole(newest.get("step")) or 0, checkpoint or 0),
        logged=_real(newest.get("time")),
        loss=_real(newest.get("loss")),
        images_per_second=_real(newest.get("images_per_second")),
        seconds_per_step=per_step,
        seconds_between_lines=per_line,
        checkpoint_step=checkpoint,
        checkpoint_time=saved,
        end=end,
        end_line=end_line,
        written=max((time for time in times if time is not None), default=None),
        host=host,
        holder=holder,
    )


def tail_metrics(
    run_dir: Path, count: int | None = None, inside: Path | None = None
) -> list[dict[str, metrics_file.Value]]:
    """The newest lines of metrics.jsonl, ``count`` or some hundred, oldest first.

    Args:
        run_dir: the run folder.
        count: of lines.
        inside: the folder out of which no link may lead.
    """
    text = read_tail(run_dir / metrics_file.NAME, _TAIL_BYTES, inside)
    whole = text[: text.rfind(b"\n") + 1].splitlines()
    newest = (values for line in reversed(whole) if (values := metrics_file.decode(line)) is not None)
    return list(itertools.islice(newest, count))[::-1]


def kernel_locks() -> str:
    """The locks on files that processes of this machine hold; empty where that cannot be told."""
    try:
        return Path("/proc/locks").read_text()
    except OSError:
        return ""


def _record_paths(run_dir: Path) -> tuple[Path, Path]:
    """The run's record, and what was submitted, which is all there is before the first start."""
    return RunRecord.path(run_dir), Records(run_dir).run_file


def _record(run_dir: Path, inside: Path | None) -> RunRecord:
    for path in _record_paths(run_dir):
        with contextlib.suppress(UserError):
            return RunRecord.read(path, needed=("run",), inside=inside)
    return RunRecord()


def _newest_checkpoint(run_dir: Path, inside: Path | None) -> tuple[int | None, float | None]:
    found = (re.fullmatch(r"step-(\d+)", path.name) for path in (run_dir / "checkpoints").glob("step-*"))
    for name in sorted((match[0] for match in found if match), reverse=True):
        if (saved := _modified(run_dir / "checkpoints" / name / "meta.json", inside)) is not None:
            return int(name.removeprefix("step-")), saved
    return None, None


def _lock(path: Path, locks: str | None, inside: Path | None) -> tuple[str, int | None]:
    """The host that last locked the folder, and the process that does now, where it is this machine's.

    The kernel's list of locks tells it; to try the lock would make a run that starts at this moment fail.
    """
    try:
        with open_plain(path, inside) as file:
            owner = re.match(r"process (\d+) on (\S+)", file.read(_LOCK_BYTES).decode(errors="replace"))
            inode = os.fstat(file.fileno()).st_ino
    except OSError:
        return "", None
    locks = kernel_locks() if locks is None else locks
    place = f":{inode} "
    held = re.search(rf"\d+: (?:FLOCK|POSIX) +\S+ +WRITE +(\d+) \S+{place}", locks) if place in locks else None
    return owner[2] if owner else "", int(held[1]) if held else None


def _pace(lines: list[dict[str, metrics_file.Value]]) -> tuple[float | None, float | None]:
    """Median seconds per step, and per line; of the newest lines."""
    points = [(_whole(line["step"]), _real(line.get("time"))) for line in lines[-_INTERVALS - 1 :]]
    spans = [
        (then - now, later - time)
        for (now, time), (then, later) in itertools.pairwise(points)
        if now is not None and then is not None and time is not None and later is not None and then > now
    ]
    if not spans:
        return None, None
    return statistics.median(span / steps for steps, span in spans), statistics.median(span for _, span in spans)


def _modified(path: Path, inside: Path | None) -> float | None:
    try:
        if inside is None:
            return path.stat().st_mtime
        with open_plain(path, inside) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and abs(value) < LARGEST_NUMBER else None


def _real(value: object) -> float | None:
    return value if isinstance(value, float) else None if (whole := _whole(value)) is None else float(whole)
