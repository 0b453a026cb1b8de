"""examine: the first seconds of a job, on every node. examine_here: the same on one machine, before there is a job.

The nodes meet in ``RUN/cluster/doctor/KEY``, by files that appear whole or not at all:

    NODE.here       the node has come and listens for the signal
    start.json      the first node's word: all have come, the signal was sent, the ranks meet at this port
    rename-NODE     what the node renames over and over while its neighbour reads it
    NODE.json       what the node found
    verdict.json    the first node's sum of it; report.txt is the same for people
"""

import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from eyespot.cluster.doctor import folder, gpus, machine, shards, signals, torch_gpus, tracking
from eyespot.cluster.doctor.checks import Check, CheckContext, in_one_line, run_checks
from eyespot.cluster.doctor.compare import compare
from eyespot.cluster.doctor.findings import Answer, Finding, Verdict
from eyespot.cluster.doctor.page import print_verdict
from eyespot.cluster.doctor.rank_probes import Probes
from eyespot.cluster.processes import Place, free_port
from eyespot.cluster.status.records import Records
from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.console import Console
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.run_record import RunRecord

T = TypeVar("T")

HERE, CHECKED, GATHERED = 0.4, 0.85, 0.95
"""Shares of the time: by then all nodes must have come, their checks must be through, the answers be there."""
HERE_SECONDS = 60.0
"""All nodes must have come by then at the latest: SLURM starts them together."""
GRACE_SECONDS = 5.0
"""Nodes do not start at the same moment."""
WIDTH = 120
POLL_SECONDS = 0.05


def examine(run_dir: Path, place: Place, key: str, timeout_seconds: float) -> Verdict:
    """Looks at this node together with the job's others; every node calls it before its ranks start.

    Args:
        run_dir: the run folder.
        place: of this node.
        key: names this examination; the same on all nodes, and never used before.
        timeout_seconds: for everything. A node that has not answered by then is a failure.

    Returns:
        The same verdict on every node that can read the run folder. The first node prints it to stderr.
    """
    began, records = time.monotonic(), Records(run_dir)
    values = RunRecord.read(records.run_file, needed=("run",)).run if records.run_file.exists() else {}
    context = CheckContext(
        place=place,
        folder=records.doctor / key,
        until=began + CHECKED * timeout_seconds,
        run_dir=run_dir,
        run_file=records.run_file if values else None,
        values=values,
        ranks=len(place.nodes) * place.processes,
        under_way=(run_dir / "metrics.jsonl").exists(),
    )
    bell = signals.Doorbell()
    try:
        start = _meet(context, began + min(HERE * timeout_seconds, HERE_SECONDS))
        answer = _answer(context, start, bell)
        answer.write(context.folder / f"{place.node}.json")
        if place.index == 0:
            return _conclude(context, start, answer, began, timeout_seconds)
        alone = place.nodes[0] in start["missing"]
        return _await_verdict(context, (time.monotonic() if alone else began + timeout_seconds) + GRACE_SECONDS)
    except OSError as error:  # this node cannot say it to the others: it says it here, and they miss its answer
        verdict = Verdict(findings=[folder.unwritable(context, context.folder, error)], seconds=_since(began))
        print_verdict(verdict, f"doctor on {place.node}, alone", Console(file=sys.stderr, width=WIDTH))
        return verdict


def examine_here(
    *, run_dir: Path | None, run_file: Path | None, values: dict[str, Any], ranks: int, timeout_seconds: float
) -> Verdict:
    """Looks at this machine alone; leaves nothing behind.

    Args:
        run_dir: the run folder, which need not exist yet; None = no run: only what can be seen without one.
        run_file: the file from which a rank would read the run.
        values: the run as plain values.
        ranks: processes that the run will have, over all nodes.
        timeout_seconds: for everything.
    """
    began = time.monotonic()
    place = Place(index=0, nodes=(socket.gethostname(),), processes=1, job="", requeues=0)
    context = CheckContext(
        place=place,
        folder=Path(),
        until=began + timeout_seconds,
        run_dir=run_dir,
        run_file=run_file,
        values=values,
        ranks=ranks,
        under_way=run_dir is not None and (run_dir / "metrics.jsonl").exists(),
    )
    above = folder.existing(run_dir) if run_dir is not None else None
    try:
        with tempfile.TemporaryDirectory(prefix=".eyespot-doctor-", dir=above, ignore_cleanup_errors=True) as meeting:
            context.folder = Path(meeting)
            answer = _look(context, {"port": free_port(), "missing": []}, bell=None)
    except OSError as error:
        found = [folder.unwritable(context, above or Path(tempfile.gettempdir()), error)]
        return Verdict(findings=found, seconds=_since(began))
    findings = _told_once([*answer.findings, *compare(context, {place.node: answer})])
    return Verdict(findings=findings, seconds=_since(began))


def _answer(context: CheckContext, start: Mapping[str, Any], bell: signals.Doorbell) -> Answer:
    """What this node found; where looking itself fails (no memory for another process), the others do not wait."""
    try:
        return _look(context, start, bell)
    except Exception as error:
        found = context.fail("doctor", f"crashed: {in_one_line(error)}", "report this with the job's log")
        return Answer(node=context.node, findings=[found], facts=context.facts)


def _look(context: CheckContext, start: Mapping[str, Any], bell: signals.Doorbell | None) -> Answer:
    """Everything that this node looks at."""
    # Before any other process is started here: the signal goes to all of them.
    heard = signals.signal_finding(context, bell, start.get("why_not_rung"))
    context.missing = start["missing"]
    together = context.run_file is not None and not context.missing
    probes = Probes(context, start["port"]) if together else None
    try:
        checks: dict[str, Check] = {"packages": machine.packages, "code": machine.code, "limits": machine.limits}
        checks["GPUs"] = gpus.look
        if context.run_dir is not None:
            checks |= {"run folder": folder.writable, "renames": folder.renames}
        if context.values.get("data", {}).get("shards") is not None:
            checks |= {"shards": shards.agreement, "read speed": shards.read_speed}
            if context.place.index == 0:  # the same everywhere
                checks |= {"samples": shards.enough, "mixing": shards.mixing}
        if probes is not None:
            checks["probes"] = probes.judge
        if context.run_dir is not None and context.values and context.place.index == 0:  # rank 0 alone talks to MLflow
            checks["mirrors"] = tracking.mirrors
            asked = tracking.start_asking(context)
            checks["MLflow"] = partial(tracking.tracking_findings, process=asked)
        return Answer(node=context.node, findings=[heard, *run_checks(context, checks)], facts=context.facts)
    finally:
        if probes is not None:
            probes.close()


# ------------------------------------------------------------------------------------------- among the nodes


def _meet(context: CheckContext, until: float) -> dict[str, Any]:
    """Says that this node is here, and waits for the word to start.

    Raises:
        OSError: the folder cannot be written to.
    """
    context.folder.mkdir(parents=True, exist_ok=True)
    write_bytes(context.folder / f"{context.node}.here", b"")
    path = context.folder / "start.json"
    if context.place.index > 0:
        start = _wait(path, _read_json, until + GRACE_SECONDS)
        return start or {"missing": [context.place.nodes[0]], "port": 0}
    waiting = set(context.place.nodes)
    while waiting and time.monotonic() < until:
        waiting -= {path.stem for path in context.folder.glob("*.here")}
        time.sleep(POLL_SECONDS)
    start = {"missing": sorted(waiting), "port": free_port(), "why_not_rung": signals.ring(context.place.job)}
    write_bytes(path, json.dumps(start).encode())
    return start


def _conclude(
    context: CheckContext, start: Mapping[str, Any], own: Answer, began: float, timeout_seconds: float
) -> Verdict:
    """On the first node: waits for the others' answers, judges, tells."""
    answers, until = {context.node: own}, began + GATHERED * timeout_seconds
    for node in context.place.nodes[1:]:
        answer = _wait(context.folder / f"{node}.json", Answer.read, 0.0 if node in start["missing"] else until)
        if answer is not None:
            answers[node] = answer
    missing = [node for node in context.place.nodes if node not in answers]
    findings = [_missing(context, node, time.monotonic() - began) for node in missing]
    if not missing:
        findings.append(context.ok("nodes", f"all {len(context.place.nodes)} answered"))
    findings += [finding for answer in answers.values() for finding in answer.findings] + compare(context, answers)
    verdict = Verdict(findings=_told_once(findings), seconds=_since(began))
    verdict.write(context.folder / "verdict.json")
    title = f"doctor on {plural(len(context.place.nodes), 'node')}, {plural(context.ranks, 'rank')}"
    print_verdict(verdict, title, Console(file=sys.stderr, width=WIDTH))
    with (context.folder / "report.txt").open("w", encoding="utf-8") as file:
        print_verdict(verdict, title, Console(file=file, width=WIDTH))
    return verdict


def _missing(context: CheckContext, node: str, seconds: float) -> Finding:
    return Finding(
        check="nodes",
        node=node,
        level="fail",
        found=f"no answer after {seconds:.0f} s",
        fix=f"its own log says more; can it write to {context.run_dir}? or leave it out: --exclude {node}",
        seconds=round(seconds, 2),
    )


def _await_verdict(context: CheckContext, until: float) -> Verdict:
    verdict = _wait(context.folder / "verdict.json", Verdict.read, until)
    if verdict is not None:
        return verdict
    first = context.place.nodes[0]
    return Verdict(findings=[_missing(context, first, context.until - time.monotonic())])


def _wait(path: Path, read: Callable[[Path], T], until: float) -> T | None:
    """What ``read`` makes of the file once it is there; None if it does not come in time.

    Listing the folder makes an NFS client ask the server again: it remembers for a while that a file was absent.
    """
    while True:
        with suppress(OSError, UserError):
            list(path.parent.iterdir())
            return read(path)
        if time.monotonic() > until:
            return None
        time.sleep(POLL_SECONDS)


def _read_json(path: Path) -> dict[str, Any]:
    return foreign_json.read(path, dict)


def _told_once(findings: list[Finding]) -> list[Finding]:
    """Without what only repeats: ranks can decode no image of shards that are found wrong, nor use GPUs like those."""
    failed = {(finding.check, finding.node) for finding in findings if finding.level == "fail"}
    causes = {"data pipeline": ("shards",), "device": (torch_gpus.CHECK, "GPUs")}
    return [
        f
        for f in findings
        if f.level != "fail" or not any((cause, f.node) in failed for cause in causes.get(f.check, ()))
    ]


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)
