"""What doctor finds: single findings, the answer of a node, and the verdict that all nodes share."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.atomic_files import write_bytes

Level = Literal["ok", "warn", "fail"]
LEVELS: tuple[Level, ...] = ("ok", "warn", "fail")
"""From good to bad."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Finding:
    """One thing that was looked at on one node."""

    check: str
    """What was looked at: a row of the table."""
    node: str
    level: Level
    """fail = the run would not work, or not as it was asked for; warn = it will work, worse than it could."""
    found: str
    """One line."""
    fix: str = ""
    """What to do, where something is wrong."""
    seconds: float = 0.0
    """What looking took."""

    @property
    def badness(self) -> int:
        """0 = ok, to sort by."""
        return LEVELS.index(self.level)


@dataclass(kw_only=True, slots=True)
class Answer:
    """What one node found out."""

    node: str
    findings: list[Finding]
    facts: dict[str, Any]
    """What only makes sense beside the other nodes' facts: versions, digests, clocks."""

    def write(self, path: Path) -> None:
        """Writes it as JSON; a reader sees all of it or nothing."""
        write_bytes(path, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> "Answer":
        """Reads what ``write`` wrote."""
        return foreign_json.read(path, cls)


@dataclass(kw_only=True, slots=True)
class Verdict:
    """What was found on all nodes."""

    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    """From the first look to the verdict."""

    @property
    def ok(self) -> bool:
        """Whether the run may start."""
        return not self.failed

    @property
    def failed(self) -> list[Finding]:
        """What stops it."""
        return [finding for finding in self.findings if finding.level == "fail"]

    @property
    def why(self) -> str:
        """What stops it, in one line; empty where nothing does."""
        return "; ".join(f"{finding.check} ({finding.node}): {finding.found}" for finding in self.failed)

    def write(self, path: Path) -> None:
        """Writes it as JSON; a reader sees all of it or nothing."""
        write_bytes(path, json.dumps(self.values(), indent=1).encode())

    def values(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"ok": self.ok, **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> "Verdict":
        """Reads what ``write`` wrote."""
        return foreign_json.read(path, cls)
