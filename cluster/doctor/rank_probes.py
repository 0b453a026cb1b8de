"""Starts the probes of this node's ranks and says what became of them."""

import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from eyespot.cluster.doctor.checks import CheckContext
from eyespot.cluster.doctor.findings import Answer, Finding
from eyespot.cluster.processes import Ranks
from eyespot.pretrain import trusted_recipes

LAST_BYTES = 4000
"""Of what a dead process said."""


class Probes:
    """The ranks of this node, each as a process that tries out what the run will need."""

    def __init__(self, context: CheckContext, port: int) -> None:
        assert context.run_file is not None
        self._folder = tempfile.TemporaryDirectory(prefix="eyespot-doctor-")  # not the run folder: that may be broken
        self._said: IO[bytes] = (Path(self._folder.name) / "said").open("w+b")
        seconds = str(max(1, int(context.seconds_left())))
        words = (
            "doctor",
            "--probe",
            str(context.run_file.resolve()),
            self._folder.name,
            seconds,
            *trusted_recipes.flags(),
        )
        self._ranks = Ranks(words, context.place, port, stdout=self._said, stderr=self._said)
        self._begin = time.monotonic()
        self._gpus: list[str] = []
        """Of each rank that got as far as to take one."""

    def judge(self, context: CheckContext) -> Iterator[Finding]:
        """Waits for them, until ``context.until`` at most."""
        codes = self._ranks.wait(context.seconds_left())
        self._ranks.kill()
        for number, code in enumerate(codes):
            yield from self._judge_one(context, self._ranks.first + number, code)
        if self._gpus:
            taken = f"{len(self._gpus)} rank{'s' * (len(self._gpus) > 1)} on {len(set(self._gpus))} GPU"
            yield context.ok("device", f"{taken}{'s' * (len(set(self._gpus)) > 1)}, as the ranks report")

    def close(self) -> None:
        """Ends what still runs."""
        self._ranks.close()
        self._said.close()
        self._folder.cleanup()

    def _judge_one(self, context: CheckContext, rank: int, code: int | None) -> Iterator[Finding]:
        path = Path(self._folder.name) / f"rank-{rank}.json"
        answer = Answer.read(path) if path.exists() else Answer(node="", findings=[], facts={"stage": "imports"})
        self._gpus += [answer.facts.pop("gpu")] if "gpu" in answer.facts else []
        context.facts.update((name, value) for name, value in answer.facts.items() if name != "stage")
        yield from (
            replace(finding, node=context.node, found=_named(context, rank, finding)) for finding in answer.findings
        )
        if (stage := answer.facts["stage"]) == "end":
            return
        how = f"hung for {time.monotonic() - self._begin:.0f} s" if code is None else _ended(code)
        last = f": {self._last_line()}" if code is not None and self._last_line() else ""
        if stage == "imports":
            fix = "does eyespot start there? try: python -c 'import torch, nvidia.dali'"
        else:
            fix = f"try it alone on that node: eyespot doctor {context.run_dir}"
        found = context.fail(stage, f"rank {rank} {how}{last}", fix)
        yield replace(found, seconds=round(time.monotonic() - self._begin, 2))

    def _last_line(self) -> str:
        self._said.seek(0, 2)
        self._said.seek(max(0, self._said.tell() - LAST_BYTES))
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:200] if lines else ""


def _named(context: CheckContext, rank: int, finding: Finding) -> str:
    """A failure names its rank, where the node has several."""
    return finding.found if finding.level == "ok" or context.place.processes == 1 else f"rank {rank}: {finding.found}"


def _ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
