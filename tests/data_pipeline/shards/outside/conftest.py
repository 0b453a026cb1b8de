"""A fixture of the tests of this folder."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from eyespot.data_pipeline.shards.outside import fetching, img2dataset, tables


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are read here: a process of its own for each costs a second, and test_apart.py has enough of them."""

    def each(jobs: Sequence[Any], work: Callable[..., Any], workers: int, **_: Any) -> Iterator[tuple[Any, Any]]:
        yield from ((job, work(job, lambda: None)) for job in jobs)

    for module in (fetching, img2dataset, tables):
        monkeypatch.setattr(module, "each", each)
