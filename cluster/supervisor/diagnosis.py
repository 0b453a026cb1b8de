"""How an attempt ended, and whose fault it was: pure functions of what the nodes have reported."""

import re
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eyespot.cluster.processes import Place, Words
from eyespot.cluster.status.records import Attempt, Beat, Outcome
from eyespot.data_pipeline.exit_codes import ExitCode

SILENT_SECONDS = 15.0
"""A node whose last beat is so much older than the others' was lost first; clocks differ by less."""
CUT_OFF = "cut off: SLURM does not answer"
"""The last beat of a supervisor that found itself so."""

_FROM_PEOPLE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
_HARDWARE = re.compile(
    r"CUDA error|CUDA driver|cudaError|NCCL|ECC error|Xid|CUBLAS_STATUS|CUDNN_STATUS|NVML|No CUDA GPUs|Bus error|"
    r"NVIDIA devices, but torch|"
    r"(?:Remote|Input/output|Stale file handle|Transport endpoint).*error"
)
_PROGRAM = re.compile(r"device-side assert|out of memory|illegal memory access")


@dataclass(kw_only=True, slots=True, frozen=True)
class Report:
    """How the ranks of one node ended."""

    node: str
    codes: tuple[int | None, ...]
    """-N where signal N killed it; None where it did not even die."""
    words: tuple[Words | None, ...]
    killed: tuple[int, ...] = ()
    """Ranks that the supervisor has killed because they did not end: the fault is another's."""

    @property
    def failed(self) -> bool:
        """Whether a rank ended neither at the end nor by a stop."""
        return any(code not in (ExitCode.DONE, ExitCode.STOPPED) for code in self.codes)

    def values(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Report":
        """Out of JSON."""
        words = (None if said is None else Words(**{**said, "ranks": tuple(said["ranks"])}) for said in values["words"])
        return cls(
            node=values["node"], codes=tuple(values["codes"]), words=tuple(words), killed=tuple(values["killed"])
        )


@dataclass(kw_only=True, slots=True, frozen=True)
class Diagnosis:
    """What an attempt came to."""

    outcome: Outcome
    why: str
    """One line."""
    blamed: tuple[str, ...] = ()
    """Nodes whose fault it was."""
    again: bool = False
    """Whether another start may go better."""
    lost: bool = False
    """Whether a node is gone, so that only SLURM can give another start."""


def diagnose(place: Place, reports: Mapping[str, Report]) -> Diagnosis:
    """What the reports come to; a node without one has vanished.

    Args:
        place: of the node that judges. Where nodes accuse each other, its ranks are believed: whoever judges can reach
            SLURM, so it is not the one that is cut off.
        reports: by node.
    """
    said = _all_words(place, reports)
    texts = {words.kind: words.text for words in said.values()}
    if "wrong input" in texts:
        return Diagnosis(outcome="wrong input", why=texts["wrong input"])
    if "training" in texts:
        return Diagnosis(outcome="failed", why=texts["training"])
    codes = dict(
        pair for node, report in reports.items() for pair in zip(place.ranks_of(node), report.codes, strict=True)
    )
    if ExitCode.WRONG_INPUT in codes.values():
        return Diagnosis(outcome="wrong input", why="the input is wrong, says the log")
    if missing := tuple(node for node in place.nodes if node not in reports):
        why = f"{_listed(missing)} stopped answering"
        return Diagnosis(outcome="failed", why=why, blamed=missing, again=True, lost=True)
    if not any(report.failed for report in reports.values()):
        stopped = ExitCode.STOPPED in codes.values()
        return Diagnosis(outcome="stopped" if stopped else "done", why="stopped by a signal" if stopped else "done")
    return _failure(place, reports, said, codes)


def diagnose_lost(attempt: Attempt, beats: Mapping[str, Beat], down: Sequence[str]) -> Diagnosis:
    """How an attempt ended that has no end: its supervisors were killed, or their node was.

    Args:
        attempt: the last of the run.
        beats: the last sign of life of each node.
        down: nodes of the attempt that SLURM calls down.
    """
    lost = {node for node in attempt.nodes if node in down}
    own = {
        node: beat
        for node, beat in beats.items()
        if node in attempt.nodes and (beat.job, beat.requeues) == (attempt.job, attempt.requeues)
    }
    lost |= {node for node, beat in own.items() if beat.state == CUT_OFF}
    if not lost and own:
        newest = max(beat.time for beat in own.values())
        times = {node: own[node].time if node in own else attempt.start for node in attempt.nodes}
        lost = {node for node, seen in times.items() if newest - seen > SILENT_SECONDS}
    if lost:
        why = f"{_listed(sorted(lost))} stopped answering"
        return Diagnosis(outcome="failed", why=why, blamed=_guilty(attempt.nodes, lost), again=True)
    if own and all(beat.state.startswith("stopping") for beat in own.values()):
        why = "killed by SLURM before its checkpoint was written; a longer KillWait or --save-seconds would help"
        return Diagnosis(outcome="stopped", why=why, again=True)
    return Diagnosis(outcome="failed", why="killed, all nodes at once (SLURM, or a lost connection to it)", again=True)


def _failure(
    place: Place, reports: Mapping[str, Report], said: Mapping[int, Words], codes: Mapping[int, int | None]
) -> Diagnosis:
    """Some ranks failed, and all nodes have reported."""
    node_of = {rank: node for node in place.nodes for rank in place.ranks_of(node)}
    killed = {rank for report in reports.values() for rank in report.killed}
    by_signal = [rank for rank, code in codes.items() if code is not None and code < 0 and rank not in killed]
    crashed = [rank for rank, words in said.items() if words.kind == "crash"]
    accused = [rank for words in said.values() if words.kind == "another rank" for rank in words.ranks]
    silent = sorted({rank for rank in accused if rank not in crashed})
    bad = [rank for rank in crashed if _is_hardware(said[rank].text)]
    why = "a rank failed"
    if by_signal:
        rank = by_signal[0]
        why = f"rank {rank} on {node_of[rank]} died of {_signal(codes[rank])}"
    elif crashed:
        rank = crashed[0]
        why = f"rank {rank} on {node_of[rank]} failed: {said[rank].text}"
    elif others := [words.text for words in said.values() if words.kind == "another rank"]:
        why = others[0]
    elif failed := [rank for rank, code in codes.items() if code not in (ExitCode.DONE, ExitCode.STOPPED)]:
        how = "did not end and was killed" if failed[0] in killed else f"failed with exit code {codes[failed[0]]}"
        why = f"rank {failed[0]} on {node_of[failed[0]]} {how}"
    by_machine = [rank for rank in by_signal if -(codes[rank] or 0) not in _FROM_PEOPLE]
    guilty = {node_of[rank] for rank in (by_machine or bad or ([] if crashed or by_signal else silent))}
    return Diagnosis(outcome="failed", why=why, blamed=_guilty(place.nodes, guilty), again=True)


def _guilty(nodes: Sequence[str], suspects: Collection[str]) -> tuple[str, ...]:
    """The suspects in order; none where it happened on every node of several: that is no node's fault."""
    return () if 1 < len(nodes) == len(suspects) else tuple(node for node in nodes if node in suspects)


def _all_words(place: Place, reports: Mapping[str, Report]) -> dict[int, Words]:
    """What each rank said, those of the judge's node first; accusations by other nodes only where it has none."""
    order = [place.node, *(node for node in place.nodes if node != place.node)]
    said: dict[int, Words] = {}
    accused = False
    for node in order:
        if node not in reports:
            continue
        for rank, words in zip(place.ranks_of(node), reports[node].words, strict=True):
            if words is not None and not (accused and node != place.node and words.kind == "another rank"):
                said[rank] = words
        accused = accused or any(words.kind == "another rank" for words in said.values())
    return said


def _is_hardware(text: str) -> bool:
    return _HARDWARE.search(text) is not None and _PROGRAM.search(text) is None


def _signal(code: int | None) -> str:
    try:
        return signal.Signals(-(code or 0)).name
    except ValueError:
        return f"signal {-(code or 0)}"


def _listed(nodes: Sequence[str]) -> str:
    return ", ".join(nodes)
