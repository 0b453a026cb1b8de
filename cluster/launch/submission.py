"""Submission: what is asked of SLURM for a run. Its fields are the flags of ``eyespot launch`` and a profile's keys."""

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Ge

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.terminal import one_line
from eyespot.pretrain.redaction import masked, masked_values

Words = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]

LARGEST = 16 * 2**20
"""Bytes that submission.json may have."""
_SECRET_WORDS = "TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY"
_SECRET = re.compile(rf"""\b(\w*({_SECRET_WORDS})\w*)=["']?[^\s$`"']""", re.I)
_OWNED = {
    **dict.fromkeys(("nodes", "gpus-per-node", "cpus-per-task", "mem", "time", "partition", "account", "qos"), ""),
    **dict.fromkeys(("constraint", "exclude"), ""),
    "job-name": "name",
    "array": "sweep",
    "dependency": "then",
    **dict.fromkeys(("ntasks", "ntasks-per-node", "tasks-per-node"), "processes-per-node"),
    **dict.fromkeys(("requeue", "no-requeue"), "max-requeues"),
    "signal": "save-seconds",
}
"""Options of sbatch that are flags of launch: of the same name, or of another."""
_FIXED = frozenset(
    ("chdir", "error", "help", "input", "kill-on-invalid-dep", "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-socket")
) | {"open-mode", "output", "parsable", "quiet", "test-only", "usage", "version", "wait", "wckey", "wrap"}
"""Options that a run would not survive: where its output is, how its ranks start, what sbatch answers."""
_FREE = {"gpus"}
"""Options that begin like one of those; sbatch takes ``--arr`` for ``--array``."""
_CLOCK = re.compile(r"(?:(?P<days>\d+)-)?(?P<a>\d+)(?::(?P<b>\d+))?(?::(?P<c>\d+))?")
_UNITS = re.compile(r"(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?")
_MEMORY = re.compile(r"\d+(\.\d+)?[KMGT]?B?", re.I)


@dataclass(kw_only=True, slots=True)
class Submission:
    """One run's nodes, limits and environment."""

    nodes: Annotated[int, Ge(1)] = 1
    """Nodes of the job."""
    gpus_per_node: Annotated[int, Ge(0)] = 0
    """GPUs of each node; 0 = none are asked for."""
    processes_per_node: Annotated[int, Ge(1)] | None = None
    """Ranks on each node; by default one per GPU, or one."""
    cpus_per_task: Annotated[int, Ge(1)] | None = None
    """CPU cores of each node's task, which all its ranks share; without it the cluster decides, and may give one."""
    mem: str | None = None
    """Memory of each node, as 64G; 0 = all of it."""
    time: str | None = None
    """Time limit: 12h, 30m, 2d, 1d12h, 1-12:00:00. The run saves before it ends and is queued again."""
    partition: str | None = None
    """Partition, or several with commas."""
    account: str | None = None
    """Account that pays."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that the nodes must have."""
    exclude: str | None = None
    """Nodes that are not to be used: node7,node[12-15]."""
    sbatch: Words = ()
    """Any other option of sbatch, as key=value or key alone: reservation=big."""
    name: str | None = None
    """The job's name; by default the run folder's."""
    setup: Words = ()
    """A line of shell before the run starts on the first node: 'ulimit -n 65536'."""
    container: str | None = None
    """Image in which the run works: docker://..., a .sqsh or a .sif file."""
    container_mounts: Words = ()
    """More folders to see inside, as SOURCE:TARGET; those of run, code and shards are mounted without being asked."""
    container_runtime: Literal["pyxis", "apptainer"] | None = None
    """By default apptainer for a .sif file, else pyxis."""
    max_requeues: Annotated[int, Ge(0)] = 50
    """How often the run may be queued again after a time limit, a preemption or a lost node."""
    max_restarts: Annotated[int, Ge(0)] = 3
    """How often its ranks may be started again inside a job, without a new checkpoint in between."""
    doctor: bool = True
    """Check nodes, shards and network before the ranks start."""
    save_seconds: Annotated[int, Ge(1)] = 120
    """How long before the time limit the run is told to save and stop."""
    array_parallelism: Annotated[int, Ge(1)] | None = None
    """How many runs of a sweep may run at once; by default all."""
    then: tuple[str, ...] = ()
    """What follows a finished run: eval, and by choice its protocols and other shards: eval linear data/photos."""
    words: tyro.conf.Suppress[tuple[str, ...]] = ()
    """What runs, as it was typed: pretrain RECIPE ..."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), str) and one_line(value) != value:
                raise UserError(f"{field.name} {one_line(value)[:80]}: holds a line break or another control character")
        if self.mem is not None and not _MEMORY.fullmatch(self.mem):
            raise UserError(f"mem {self.mem!r}: not an amount of memory; write it as 64G, or 0 for all of a node's")
        if self.time is not None and minutes(self.time) * 60 <= self.save_seconds:
            raise UserError(
                f"save_seconds {self.save_seconds}: must be below the time limit, {self.time}; lower it or raise --time"
            )
        for line in self.setup:
            if (found := _SECRET.search(line)) or masked(line) != line:
                what = found.group(1) if found else "a secret of the environment"
                raise UserError(
                    f"setup: holds the value of {what}, and the script is kept; export it in the shell before launch,"
                    " SLURM passes the environment on"
                )
        for flag, value in [("name", self.name or ""), *(("sbatch", entry) for entry in self.sbatch)]:
            if masked(value) != value:
                raise UserError(
                    f"{flag} {masked(value)}: holds a secret, and everybody sees a job's options; leave it out"
                )
        for entry in self.sbatch:
            if not re.fullmatch(r"[a-z][\w-]*(=.*)?", entry) or one_line(entry) != entry:
                raise UserError(f"sbatch {entry!r}: write it as key=value in one line, without dashes in front")
            _refuse_owned(entry)

    @property
    def processes(self) -> int:
        """Ranks on each node."""
        return self.processes_per_node or self.gpus_per_node or 1

    @property
    def world_size(self) -> int:
        """Ranks on all nodes."""
        return self.nodes * self.processes


def _refuse_owned(entry: str) -> None:
    """What launch says to SLURM itself would be said twice, and the second word holds.

    Raises:
        UserError: the entry is such an option, or short for one.
    """
    key = entry.partition("=")[0].replace("_", "-")
    for option in (key, *sorted(_OWNED), *sorted(_FIXED)):
        if key not in _FREE and option.startswith(key) and (option in _OWNED or option in _FIXED):
            flag = (_OWNED[option] or option) if option in _OWNED else ""
            how = (
                f"use launch's own --{flag}"
                if flag
                else "launch sets it itself, and the run stands on it; leave it out"
            )
            raise UserError(f"sbatch {entry!r}: {option} is launch's to say; {how}")


def minutes(time: str) -> int:
    """A time limit in whole minutes, rounded up: "12h", "1d12h", "90", or SLURM's own "1-12:00:00", "30:00".

    Raises:
        UserError: it is none of these.
    """
    if time and (found := _UNITS.fullmatch(time)):
        days, hours, mins = (int(value or 0) for value in found.groups())
        total = days * 1440 + hours * 60 + mins
    elif found := _CLOCK.fullmatch(time):
        days, a, b, c = (int(value or 0) for value in found.groups())
        if found["days"] is not None:  # days-hours:minutes:seconds
            total = days * 1440 + a * 60 + b + math.ceil(c / 60)
        elif found["c"] is not None:  # hours:minutes:seconds
            total = a * 60 + b + math.ceil(c / 60)
        else:  # minutes:seconds
            total = a + math.ceil(b / 60)
    else:
        total = 0
    if total < 1:
        raise UserError(f"time {time!r}: not a time limit; write it as 12h, 30m, 2d or 1-12:00:00")
    return total


def write_submission(path: Path, submission: Submission) -> None:
    """Keeps ``submission`` as JSON, without the values of secrets."""
    values = masked_values(dataclasses.asdict(submission))
    write_bytes(path, (json.dumps(values, indent=1) + "\n").encode(), private=True)


def read_submission(path: Path) -> Submission:
    """What ``write_submission`` wrote.

    Raises:
        UserError: it is absent, damaged, or of another version.
    """
    try:
        values: dict[str, Any] = foreign_json.read(path, dict, LARGEST)
        if odd := sorted(values.keys() - {known.name for known in dataclasses.fields(Submission)}):
            raise foreign_json.ForeignJsonError(path, f"{odd[0]} is unknown")
        return foreign_json.convert(values, Submission, path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"run {path.parents[1]}: was never submitted; write: eyespot launch ... -- pretrain ..."
        ) from error
    except foreign_json.ForeignJsonError as error:
        raise UserError(f"{path}: damaged or of another version ({error.why}); submit the run anew") from error
