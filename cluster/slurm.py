"""What SLURM knows of our jobs, and what we ask of it. Works where accounting (``sacct``) is switched off.

``squeue`` knows a job while it lives and for ``MinJobAge`` seconds (usually 300) after its end; ``sacct`` knows it
later, on clusters that keep accounts. What neither knows is left to the run folder.
"""

import functools
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

ANSWER_SECONDS = 20.0
"""A command of SLURM that takes longer is given up: a busy or dead controller would block it for minutes."""

_FIELDS = [
    "JobArrayID",
    "State",
    "Reason",
    "NodeList",
    "NumNodes",
    "RestartCnt",
    "TimeLeft",
    "StartTime",
    "exit_code",
    "Requeue",
]
_ACCOUNT_FIELDS = ["JobID", "State", "ExitCode", "NodeList", "NNodes", "Start"]
_ALIVE = {
    "COMPLETING", "CONFIGURING", "PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "RESV_DEL_HOLD",
    "RUNNING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED",
}  # fmt: skip
_STATES = {
    "BOOT_FAIL": "a node did not boot",
    "CANCELLED": "cancelled",
    "COMPLETED": "completed",
    "COMPLETING": "ending",
    "CONFIGURING": "its nodes are being prepared",
    "DEADLINE": "ended at its deadline",
    "NODE_FAIL": "a node failed",
    "OUT_OF_MEMORY": "out of memory",
    "PREEMPTED": "preempted by another job",
    "REQUEUED": "requeued",
    "REQUEUE_HOLD": "requeued and held; release it with scontrol release",
    "RUNNING": "running",
    "SPECIAL_EXIT": "requeued and held; release it with scontrol release",
    "STOPPED": "stopped by an operator, keeps its nodes",
    "SUSPENDED": "suspended",
    "TIMEOUT": "reached its time limit",
}
_REASONS = {
    "AccountNotAllowed": "its account may not use the partition",
    "BadConstraints": "no node can ever fit what it asks for",
    "BeginTime": "not before its begin time (after a requeue: a moment)",
    "BurstBufferResources": "burst buffer is full",
    "BurstBufferStageIn": "its burst buffer is being filled",
    "Cleaning": "its last attempt is being cleaned up",
    "DeadLine": "it cannot end before its deadline",
    "Dependency": "another job has to end first",
    "DependencyNeverSatisfied": "the job that it depends on failed; it will never start: cancel it",
    "FrontEndDown": "no front end node is up",
    "InvalidAccount": "its account is unknown or closed",
    "InvalidQOS": "its QOS is unknown or not allowed",
    "JobArrayTaskLimit": "as many of its array run as may run at once",
    "JobHeldAdmin": "held by an operator",
    "JobHeldUser": "held by its user; release it with scontrol release",
    "JobHoldMaxRequeue": "requeued too often for this cluster; held",
    "Licenses": "a licence is not free",
    "MaxRequeue": "requeued too often for this cluster",
    "NodeDown": "a node that it asks for is down",
    "None": "not looked at yet",
    "PartitionConfig": "it asks for more than its partition has",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "PartitionNodeLimit": "it asks for more nodes than its partition gives",
    "PartitionTimeLimit": "it asks for more time than its partition gives",
    "Priority": "jobs of higher priority come first",
    "Prolog": "the prolog runs on its nodes",
    "QOSNotAllowed": "its QOS may not use the partition",
    "QOSUsageThreshold": "its QOS is below the usage threshold",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "Reservation": "its reservation has not begun",
    "ReservationDeleted": "its reservation was deleted",
    "Resources": "no free nodes yet",
    "SystemFailure": "SLURM itself failed; ask an operator",
    "TimeLimit": "it asks for more time than is allowed",
    "launch_failed_requeued_held": "could not be started on a node; held: release it with scontrol release",
    "user_env_retrieval_failed_requeued_held": "its environment could not be read; held",
}  # fmt: skip
_JOB_ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,18})?")
_LIMIT = re.compile(r"(QOS|Assoc)((?:Grp|Max|Min)\w+)")


class SlurmError(RuntimeError):
    """SLURM refused, is absent or does not answer. One line: the command and what it said."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Job:
    """A job, or a task of a job array, as SLURM sees it now."""

    id: str
    """123, or 123_4 for a task of an array."""
    state: str
    """SLURM's word: PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, CANCELLED, TIMEOUT, NODE_FAIL, ..."""
    reason: str
    """SLURM's word for why it waits or how it ended; "None" where there is none."""
    nodes: tuple[str, ...]
    """That it has or last had."""
    num_nodes: int
    """That it asks for, or has."""
    restarts: int | None
    """Requeues so far; None where SLURM does not tell."""
    seconds_left: float | None
    """Until its time limit, while it runs; None without a limit."""
    start: float | None
    """When it began, or will begin as SLURM expects; seconds since 1970."""
    exit_code: str
    """Exit code and signal, as in "75:0"."""
    requeue: bool | None
    """Whether SLURM may requeue it; None where SLURM does not tell."""


def available() -> bool:
    """Whether SLURM's commands are installed here."""
    return shutil.which("squeue") is not None


def find_jobs(ids: Iterable[str]) -> dict[str, Job]:
    """What SLURM knows of these jobs, by one ``squeue`` for all of them and, where that forgot some, one ``sacct``.

    Args:
        ids: of jobs ("123") or tasks of arrays ("123_4"); "123" of an array stands for none of its tasks.

    Returns:
        Jobs by id. What SLURM does not know (any more) is left out.

    Raises:
        SlurmError: SLURM does not answer. Then nothing is known, not even that the jobs are over.
    """
    wanted = {id for id in ids if _JOB_ID.fullmatch(id)}  # of a word that is none, squeue tells nothing of all others
    if not wanted:
        return {}
    whole = ",".join(sorted({id.partition("_")[0] for id in wanted}))
    listing = ["--all", "--array", "--noheader", "--states=all"]
    fields = ",".join(f"{field}:|" for field in _FIELDS)
    try:
        answer = _ask("squeue", *listing, f"--jobs={whole}", f"--Format={fields}")
    except SlurmError as error:
        if "Invalid job id" not in str(error):  # said of a single id that is not known any more
            raise
        answer = ""
    found = _only(wanted, map(_queued, answer.splitlines()))
    if (forgotten := wanted - found.keys()) and _keeps_accounts():
        whole = ",".join(sorted({id.partition("_")[0] for id in forgotten}))
        listing = ["--allocations", "--array", "--noheader", "--parsable2"]
        answer = _ask("sacct", *listing, f"--jobs={whole}", f"--format={','.join(_ACCOUNT_FIELDS)}")
        found |= _only(forgotten, map(_accounted, answer.splitlines()))
    return found


def find_job(id: str) -> Job | None:
    """One job; None where SLURM does not know it (any more).

    Raises:
        SlurmError: SLURM does not answer.
    """
    return find_jobs([id]).get(id)


def alive(job: Job | None) -> bool:
    """Whether it waits, runs, ends at this moment or will run again."""
    return job is not None and job.state in _ALIVE


def in_words(job: Job | None) -> str:
    """Its state and SLURM's reason, for people."""
    if job is None:
        return "not known to SLURM any more"
    if job.state == "PENDING":
        return f"waits: {_reason_in_words(job.reason)}"
    if job.state == "FAILED":
        return f"failed ({_exit_in_words(job.exit_code)})"
    return _STATES.get(job.state, job.state.lower().replace("_", " "))


def requeue(id: str) -> None:
    """Stops the job and puts it back into the queue.

    Raises:
        SlurmError: not allowed (``--no-requeue``, another's job), or no such job.
    """
    _ask("scontrol", "requeue", id)


def exclude(id: str, nodes: Iterable[str]) -> None:
    """Keeps a waiting job from these nodes, besides those that it avoids already.

    Raises:
        SlurmError: the job is running ("no longer pending": requeue it first), or no such job.
    """
    avoids = re.search(r" ExcNodeList=(\S+)", _ask("scontrol", "--oneliner", "show", "job", id))
    avoided = node_names(avoids[1]) if avoids and avoids[1] != "(null)" else []
    _ask("scontrol", "update", f"JobId={id}", f"ExcNodeList={','.join(sorted({*avoided, *nodes}))}")


def send_signal(id: str, name: str) -> None:
    """Sends a signal, as in "USR1", to every process of the job's steps.

    Raises:
        SlurmError: no such job, or it is not running.
    """
    _ask("scancel", f"--signal={name}", id)


def cancel(id: str) -> None:
    """Takes the job out of the queue, or ends it: TERM, and KILL a little later.

    Raises:
        SlurmError: no such job, or another's.
    """
    _ask("scancel", id)


def max_array_size() -> int:
    """How many tasks an array may have; 1 where SLURM knows no arrays, no end where it does not say."""
    try:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), re.MULTILINE)
    except SlurmError:
        return sys.maxsize
    return max(1, int(found[1])) if found else sys.maxsize


def down_nodes(nodes: Iterable[str]) -> list[str]:
    """Those of these nodes that are down, or that SLURM does not reach.

    Raises:
        SlurmError: SLURM does not answer.
    """
    answer = _ask("sinfo", "--noheader", "--Node", f"--nodes={','.join(nodes)}", "--format=%N %T")
    states = dict(line.split() for line in answer.splitlines() if len(line.split()) == 2)
    return sorted(node for node, state in states.items() if state.startswith(("down", "fail")) or state.endswith("*"))


def node_names(compressed: str) -> list[str]:
    """``node[1-2,05],login`` as node1, node2, node05, login."""
    parts: list[str] = re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", compressed)
    return [name for part in parts for name in _expanded(part)]


def _expanded(part: str) -> list[str]:
    choices = [
        [piece] if place % 2 == 0 else [name for span in piece.split(",") for name in _counted(span)]
        for place, piece in enumerate(re.split(r"[\[\]]", part))
    ]
    return ["".join(pieces) for pieces in itertools.product(*choices)]


def _counted(span: str) -> list[str]:
    first, _, last = span.partition("-")
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1)]


def _ask(*words: str) -> str:
    """What a command of SLURM answers."""
    # The user's own settings (SQUEUE_USERS, SCANCEL_INTERACTIVE, ...) would change what the commands do.
    settings = ("SQUEUE_", "SCANCEL_", "SACCT_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    env |= {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}
    try:
        done = subprocess.run(
            words,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{words[0]}: no answer within {ANSWER_SECONDS:.0f} s") from None
    except OSError as error:
        raise SlurmError(f"{words[0]}: cannot be run ({error.strerror})") from error
    if done.returncode != 0:
        said = " ".join((done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").split())
        raise SlurmError(f"{words[0]}: {said.removeprefix(f'{words[0]}: ').removeprefix('error: ')}")
    return done.stdout


@functools.cache
def _keeps_accounts() -> bool:
    """Whether ``sacct`` works on this cluster; asked once."""
    try:
        _ask("sacct", "--noheader", "--jobs=1", "--format=JobID")
    except SlurmError:
        return False
    return True


def _only(wanted: set[str], jobs: Iterable[Job | None]) -> dict[str, Job]:
    return {job.id: job for job in jobs if job is not None and job.id in wanted}


def _queued(line: str) -> Job | None:
    """A line of ``squeue``."""
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) < len(_FIELDS):
        return None
    id, state, reason, nodes, num_nodes, restarts, left, start, exit_status, may_requeue = cells[: len(_FIELDS)]
    status = int(exit_status) if exit_status.isdecimal() else 0
    return Job(
        id=id,
        state=state,
        reason=reason,
        nodes=tuple(node_names(nodes)),
        num_nodes=_number(num_nodes) or 0,
        restarts=_number(restarts),
        seconds_left=_seconds(left) if state == "RUNNING" else None,
        start=_time(start),
        exit_code=f"{status >> 8}:{status & 127}",
        requeue={"0": False, "1": True}.get(may_requeue),
    )


def _accounted(line: str) -> Job | None:
    """A line of ``sacct``."""
    cells = line.split("|")
    if len(cells) != len(_ACCOUNT_FIELDS):
        return None
    id, state, exit_code, nodes, num_nodes, start = cells
    return Job(
        id=id,
        state=state.split()[0] if state else "",  # "CANCELLED by 1000"
        reason="None",
        nodes=tuple(node_names("" if nodes == "None assigned" else nodes)),
        num_nodes=_number(num_nodes) or 0,
        restarts=None,
        seconds_left=None,
        start=_time(start),
        exit_code=exit_code,
        requeue=None,
    )


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _time(text: str) -> float | None:
    return float(text) if text.isdecimal() else None  # N/A, Unknown


def _seconds(text: str) -> float | None:
    """``[days-][[hours:]minutes:]seconds``; None for UNLIMITED and the like."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        return None
    days, _, clock = text.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return float(86400 * int(days or 0) + seconds)


def _reason_in_words(reason: str) -> str:
    word, _, detail = reason.partition(",")
    word = word.strip().replace(" ", "_")
    detail = detail.strip().replace("UnavailableNodes:", "")
    if words := _REASONS.get(word):
        return f"{words}: {detail}" if detail else words
    if limit := _LIMIT.match(word):
        owner = "QOS" if limit[1] == "QOS" else "account"
        parts: list[str] = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", limit[2])
        what = " ".join({"Grp": "all jobs'"}.get(part, part.lower()) for part in parts if part != "Limit")
        return f"over a limit of its {owner}: {what} ({word})"
    return reason.strip("()") or "no reason given"


def _exit_in_words(exit_code: str) -> str:
    code, _, number = exit_code.partition(":")
    return f"killed by signal {number}" if number not in ("", "0") else f"exit code {code}"
