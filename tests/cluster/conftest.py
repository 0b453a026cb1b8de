"""Ranks of one node that run a small program."""

from collections.abc import Callable, Iterator

import pytest
from node_ranks import ALONE, PROGRAM

from eyespot.cluster.processes import Place, Ranks


@pytest.fixture
def start(tmp_path, monkeypatch) -> Iterator[Callable[..., Ranks]]:
    """``start(*what, place=ALONE)``: ranks that do this, one word each, again from the first where words are few."""
    folder = tmp_path / "program" / "eyespot" / "cluster"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder.parent / "__init__.py").touch()
    (folder / "cli.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "program"))
    started: list[Ranks] = []

    def begin(*what: str, place: Place = ALONE) -> Ranks:
        started.append(Ranks((str(tmp_path), *what), place, 4321, env={"MINE": "yes"}))
        return started[-1]

    yield begin
    for ranks in started:
        ranks.close()
