"""Exams to hand to single checks."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eyespot.cluster.doctor.checks import CheckContext
from eyespot.cluster.processes import Place


@pytest.fixture
def make_context(tmp_path: Path) -> Callable[..., CheckContext]:
    """``make_context(nodes=2, index=0, processes=1, seconds=30, **fields)``; its nodes meet in ``tmp_path/meeting``."""

    def make(nodes: int = 1, index: int = 0, processes: int = 1, seconds: float = 30, job: str = "", **fields: Any):
        names = tuple(f"n{number}" for number in range(1, nodes + 1))
        place = Place(index=index, nodes=names, processes=processes, job=job, requeues=0)
        folder = tmp_path / "meeting"
        folder.mkdir(exist_ok=True)
        fields = {"ranks": nodes * processes, **fields}
        return CheckContext(place=place, folder=folder, until=time.monotonic() + seconds, **fields)

    return make
