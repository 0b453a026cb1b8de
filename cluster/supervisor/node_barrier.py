"""Where the supervisors of a job agree before each attempt: small files in the run folder, which all nodes share.

RUN/cluster/meetings/JOB-REQUEUES-N/ready-NODE.json    this node is here, and SLURM says that the job is still ours
                                    go.json            by the first node: the port and the attempt, or that it is over
                                    report-NODE.json   how this node's ranks ended
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError


class NodeBarrier:
    """One meeting; every node of the job makes the same one.

    Args:
        folder: RUN/cluster/meetings.
        job: SLURM's id.
        requeues: of the job, when this start of it began.
        number: 0, 1, ... within this start of the job.
    """

    def __init__(self, folder: Path, job: str, requeues: int, number: int) -> None:
        self._folder = folder / f"{job}-{requeues}-{number}"

    def post(self, name: str, values: Mapping[str, Any]) -> None:
        """Writes NAME.json; a reader sees all of it or nothing.

        Raises:
            OSError: the run folder cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"{name}.tmp"
        temporary.write_text(json.dumps(values) + "\n", encoding="utf-8")
        temporary.replace(self._folder / f"{name}.json")

    def read(self, name: str) -> dict[str, Any] | None:
        """NAME.json, or None as long as nobody has written it.

        On NFS a client remembers for up to a minute that a file was absent. Listing the folder makes it ask again.
        """
        try:
            for _ in self._folder.iterdir():
                break
            return foreign_json.read(self._folder / f"{name}.json", dict)
        except (OSError, UserError):
            return None

    def read_all(self, kind: str, nodes: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What each node has written as KIND-NODE, without those that have not."""
        found = {node: self.read(f"{kind}-{node}") for node in nodes}
        return {node: values for node, values in found.items() if values is not None}
