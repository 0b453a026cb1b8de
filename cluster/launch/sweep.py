"""One run, or the runs of a sweep: what the words after ``eyespot launch ... --`` mean, for each combination."""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyespot.cluster.start_run import requested
from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.mix import whole_shards
from eyespot.pretrain.config import Run
from eyespot.pretrain.redaction import masked_values

_NOT_SWEPT = {"run_dir", "resume", "stop_after"}


FILE = "sweep.json"
MOST_RUNS = 10_000
"""Of one sweep: each is resolved and checked before any is submitted."""


@dataclass(kw_only=True, slots=True)
class _Listed:
    """sweep.json."""

    runs: list[dict[str, Any]]


@dataclass(kw_only=True, slots=True)
class SweepMember:
    """A run to be launched."""

    recipe: str
    run: Run
    values: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of the swept fields."""


def single(words: Sequence[str]) -> SweepMember:
    """The run that ``words`` (``pretrain RECIPE ...``) ask for, its paths absolute.

    Raises:
        UserError: they ask for nothing that can be launched.
    """
    if not words or words[0] != "pretrain":
        given = f"{words[0]!r} after --" if words else "nothing after --"
        raise UserError(
            f"launch: {given}; write: eyespot launch --nodes 2 ... -- pretrain RECIPE ..., or -- curate ..., or"
            " --tasks N -- shards pack ...; nothing else is launched"
        )
    if len(words) < 2:
        raise UserError("recipe: missing after pretrain; write: eyespot launch ... -- pretrain RECIPE ...")
    recipe, run = requested(list(words[1:]))
    run.run_dir = run.run_dir.expanduser().absolute()
    if run.data.shards is not None:
        run.data.shards = whole_shards(run.data.shards, home=True)
    if run.resume not in ("never", "auto"):
        run.resume = str(Path(run.resume).expanduser().absolute())
    return SweepMember(recipe=recipe, run=run)


def members(words: Sequence[str], sweep: Sequence[str]) -> list[SweepMember]:
    """One run for each combination of ``sweep``, in folders inside the run folder that ``words`` name.

    Args:
        words: ``pretrain RECIPE ...``.
        sweep: ``field=value,value,...`` for each field; the first varies slowest. Without it there is one run.

    Raises:
        UserError: a field or a value is wrong, or two runs would share a folder.
    """
    if not sweep:
        return [single(words)]
    fields = dict(_field(entry) for entry in sweep)
    if len(fields) < len(sweep):
        raise UserError(f"sweep {' '.join(sweep)}: names a field twice")
    if (count := math.prod(map(len, fields.values()))) > MOST_RUNS:
        raise UserError(f"sweep: {count:,} runs, and one sweep has at most {MOST_RUNS:,}; sweep fewer values")
    found: dict[Path, SweepMember] = {}
    for combination in itertools.product(*fields.values()):
        values = dict(zip(fields, combination, strict=True))
        member = single([*words, *(word for name, value in values.items() for word in _flag(name, value))])
        name = ",".join(f"{field}={value}" for field, value in values.items())
        member.run.run_dir /= re.sub(r"[^\w.,=+-]", "_", name)
        member.values = values
        if member.run.run_dir in found:
            raise UserError(f"sweep {name}: stands there twice, or another run has the same folder")
        found[member.run.run_dir] = member
    return list(found.values())


def write_sweep(folder: Path, words: Sequence[str], runs: Sequence[SweepMember], jobs: Sequence[str]) -> None:
    """``SWEEP/sweep.json``: the runs of a sweep and their jobs; those of earlier sweeps into the folder stay listed."""
    rows = {
        member.run.run_dir.name: {
            "name": member.run.run_dir.name,
            "run_dir": str(member.run.run_dir),
            "job": job,
            "values": member.values,
        }
        for member, job in zip(runs, jobs, strict=True)
    }
    record = masked_values({"words": list(words), "runs": list({**earlier_rows(folder), **rows}.values())})
    write_bytes(folder / FILE, (json.dumps(record, indent=1) + "\n").encode())


def earlier_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """What ``SWEEP/sweep.json`` lists already, by name; nothing where there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        rows = foreign_json.read(folder / FILE, _Listed).runs
        return {row["name"]: row for row in rows}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except KeyError as error:
        raise UserError(f"{folder / FILE}: damaged (a run without a name); move it away") from error
    except foreign_json.ForeignJsonError as error:
        raise UserError(f"{error}; it is damaged: move it away") from error


def _field(entry: str) -> tuple[str, list[str]]:
    name, sign, values = entry.partition("=")
    found = [value.strip() for value in values.split(",")]
    if not sign or not name or "" in found:
        raise UserError(f"sweep {entry!r}: write it as field=value,value, as in optim.lr=1e-4,3e-4")
    name = name.removeprefix("--").replace("-", "_")
    if name in _NOT_SWEPT:
        raise UserError(f"sweep {name}: cannot be swept; each run has its own folder inside the --run-dir")
    return name, found


def _flag(name: str, value: str) -> list[str]:
    """The words of a flag; switches are words without a value, and lists have several."""
    if value.lower() not in ("true", "false"):
        return [f"--{name}", *value.split()]
    group, dot, switch = name.rpartition(".")
    return [f"--{group}{dot}{'' if value.lower() == 'true' else 'no_'}{switch}"]
