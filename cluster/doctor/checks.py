"""What a check is told, and how checks are run: beside each other, each with a time limit, none able to crash."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eyespot.cluster.doctor.findings import Finding
from eyespot.cluster.processes import Place

REPORT_SECONDS = 2.0
"""Before the end, a check stops waiting and says so."""


@dataclass(kw_only=True, slots=True)
class CheckContext:
    """The examination of one node."""

    place: Place
    """This node among the job's; ``job`` is empty outside of SLURM."""
    folder: Path
    """Where the nodes of this examination meet, on the run folder's file system."""
    until: float
    """When checks must be through, on ``time.monotonic``'s clock."""
    run_dir: Path | None = None
    """The run folder; None = there is no run, only this machine is looked at."""
    run_file: Path | None = None
    """The file that the ranks will read the run from."""
    values: dict[str, Any] = field(default_factory=dict)
    """The run as plain values."""
    ranks: int = 1
    """Processes of the run, over all nodes."""
    under_way: bool = False
    """The run has trained before: what it can do without must not stop it now."""
    missing: list[str] = field(default_factory=list)
    """Nodes that have not come."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What checks leave for the comparison between nodes."""

    @property
    def node(self) -> str:
        """This node's name."""
        return self.place.nodes[self.place.index]

    @property
    def device(self) -> str:
        """What the run asks for: auto, cpu or cuda."""
        return self.values.get("device", "auto")

    def seconds_left(self) -> float:
        """For what a check waits for, so that it can still say how that went."""
        return max(0.0, self.until - REPORT_SECONDS - time.monotonic())

    def ok(self, check: str, found: str) -> Finding:
        """All is well."""
        return Finding(check=check, node=self.node, level="ok", found=found)

    def warn(self, check: str, found: str, fix: str) -> Finding:
        """The run will work, worse than it could."""
        return Finding(check=check, node=self.node, level="warn", found=found, fix=fix)

    def fail(self, check: str, found: str, fix: str) -> Finding:
        """The run would not work."""
        return Finding(check=check, node=self.node, level="fail", found=found, fix=fix)


Check = Callable[[CheckContext], Iterable[Finding]]


def run_checks(context: CheckContext, checks: Mapping[str, Check]) -> list[Finding]:
    """Runs all checks at the same time, until ``context.until`` at most.

    Args:
        context: what they are told.
        checks: by the name under which a crash or a hang is reported.

    Returns:
        Their findings, in the order of ``checks``; one that crashed or hangs is a failure.
    """
    done: dict[str, list[Finding]] = {}
    began = time.monotonic()

    def run(name: str, check: Check) -> None:
        found: list[Finding] = []
        try:
            found.extend(check(context))
        except Exception as error:  # whatever goes wrong while looking is a finding
            found.append(
                context.fail(name, f"this check crashed: {in_one_line(error)}", "report this with the job's log")
            )
        seconds = time.monotonic() - began
        done[name] = [replace(finding, seconds=finding.seconds or round(seconds, 2)) for finding in found]

    # Daemons: a read from a dead file server never returns, and must not keep the process.
    threads = [threading.Thread(target=run, args=item, daemon=True) for item in checks.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, context.until - time.monotonic()))
    return [finding for name in checks for finding in (done[name] if name in done else [_hangs(context, name, began)])]


def in_one_line(error: BaseException) -> str:
    """What kind of error, and what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _hangs(context: CheckContext, name: str, began: float) -> Finding:
    seconds = time.monotonic() - began
    found = context.fail(
        name, f"no answer after {seconds:.0f} s", f"look at {context.node}: does its file system answer?"
    )
    return replace(found, seconds=round(seconds, 2))
