"""The ranks of a command that goes on where it was killed: what a job runs on each node, or ``--local`` here.

Smaller than ``supervisor.py``: there is no run folder with checkpoints and attempts. The first node says where rank 0
listens; when a rank has died, the others are ended, and all start again.
"""

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eyespot.cluster.processes import Place, Ranks, free_port
from eyespot.cluster.supervisor.node_barrier import NodeBarrier
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.terminal import one_line

COME_SECONDS = 300.0
"""For all nodes to start Python, and, once one has ended, to say how theirs did."""
GRACE_SECONDS = 20.0
"""For the other ranks to end by themselves once one has failed."""
POLL_SECONDS = 0.2


def run_again_until_done(words: Sequence[str], place: Place, meetings: Path, max_restarts: int) -> int:
    """Runs ``eyespot WORDS`` in the ranks of this node, again where one was killed; every node of the job calls it.

    Args:
        words: of a command that goes on with what it finds done.
        place: this node among them.
        meetings: a folder that the nodes share.
        max_restarts: how often all ranks are started again.

    Returns:
        The command's exit code, the same on every node.
    """
    for number in itertools.count():
        barrier = NodeBarrier(meetings, place.job, place.requeues, number)
        if place.index == 0:
            barrier.post("go", {"port": free_port()})
        go = _waited(lambda: barrier.read("go"))  # noqa: B023
        if go is None:
            return _said(place, f"{place.nodes[0]} said nothing for {COME_SECONDS:.0f} s", ExitCode.FAILED)
        codes = _watched(Ranks(words, place, go["port"]), barrier, place)
        barrier.post(f"report-{place.node}", {"codes": codes})
        if place.index == 0:
            barrier.post("verdict", _verdict(barrier, place, again=number < max_restarts))
        verdict = _waited(lambda: barrier.read("verdict"), GRACE_SECONDS)  # noqa: B023
        if verdict is None:
            return _said(place, f"{place.nodes[0]} stopped answering", ExitCode.FAILED)
        if place.index == 0 and verdict["why"]:
            _said(place, verdict["why"], 0)
        if not verdict["again"]:
            return int(verdict["code"])
    raise AssertionError("counts for ever")


def _watched(ranks: Ranks, barrier: NodeBarrier, place: Place) -> list[int | None]:
    """How they ended; those that outlive a failure here or elsewhere are killed."""
    failed_at: float | None = None
    try:
        while None in (codes := ranks.poll()):
            elsewhere = any(_bad(each["codes"]) for each in barrier.read_all("report", place.nodes).values())
            if failed_at is None and (_bad(codes) or elsewhere):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS:
                ranks.kill()
            time.sleep(POLL_SECONDS)
        return codes
    finally:
        ranks.close()


def _bad(codes: Sequence[int | None]) -> bool:
    return any(code not in (None, ExitCode.DONE) for code in codes)


def _verdict(barrier: NodeBarrier, place: Place, *, again: bool) -> dict[str, Any]:
    """By the first node: what the reports of all come to."""

    def all_there() -> dict[str, Any] | None:
        found = barrier.read_all("report", place.nodes)
        return found if len(found) == len(place.nodes) else None

    reports = _waited(all_there)
    if reports is None:
        absent = [node for node in place.nodes if barrier.read(f"report-{node}") is None]
        return {"code": ExitCode.FAILED, "again": False, "why": f"{', '.join(absent)} stopped answering"}
    codes = [code for node in place.nodes for code in reports[node]["codes"]]
    if not _bad(codes):
        return {"code": ExitCode.DONE, "again": False, "why": ""}
    if ExitCode.WRONG_INPUT in codes:
        return {"code": ExitCode.WRONG_INPUT, "again": False, "why": ""}  # the command has said so
    # Who was killed is to blame; the others ended because it did.
    rank = min(range(len(codes)), key=lambda rank: (codes[rank] or 0) if codes[rank] != ExitCode.DONE else 256)
    code = codes[rank] or 0
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    why = f"rank {rank} on {place.nodes[rank // place.processes]} {how}; "
    return {"code": ExitCode.FAILED, "again": again, "why": why + ("all start again" if again else "it is given up")}


def _waited(found: Callable[[], dict[str, Any] | None], more_seconds: float = 0.0) -> dict[str, Any] | None:
    until = time.monotonic() + COME_SECONDS + more_seconds
    while (values := found()) is None and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return values


def _said(place: Place, line: str, code: int) -> int:
    print(one_line(f"eyespot: {place.node}: {line}"), file=sys.stderr, flush=True)
    return code
