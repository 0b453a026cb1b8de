"""Results come in order and say what is wrong, from one process or several."""

import io
import os
import signal
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards import image_workers
from eyespot.data_pipeline.shards.clips.frame_check import examine_clip
from eyespot.data_pipeline.shards.header_check import header_sizes
from eyespot.data_pipeline.shards.image_check import Examined
from eyespot.data_pipeline.shards.image_workers import FEW, examine_items, in_turn
from eyespot.data_pipeline.shards.members.archives import Inside
from eyespot.data_pipeline.shards.members.footage import Footage
from eyespot.data_pipeline.shards.members.items import Item


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """Raw one-pixel images whose value is their number, a few of them broken."""
    path = tmp_path_factory.mktemp("items") / "pixels.raw"
    count = FEW + 100
    path.write_bytes(np.arange(count).astype(np.uint8).tobytes())
    items = [Item(str(number), -1, str(path), number, 1, (1, 1)) for number in range(count)]
    for number in range(0, count, 500):
        items[number] = Item(str(number), -1, str(path.with_name("gone")), 0, 1)
    return items


@pytest.mark.parametrize("workers", [1, 2])
def test_order_and_reasons(items: list[Item], workers: int):
    results = list(examine_items(items, workers))
    assert len(results) == len(items)
    for number, result in enumerate(results):
        if number % 500 == 0:
            assert result == "unreadable: No such file or directory"
        else:
            assert isinstance(result, Examined) and result.sums == (number % 256,) * 3


def test_what_dali_cannot_read_is_rewritten_or_named(tmp_path: Path):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(stream, "JPEG")
    good = stream.getvalue()
    odd = good.replace(b"\xff\xc0", b"zz\xff\xc0")  # PIL skips the two stray bytes
    assert header_sizes([good, odd]) == [(20, 30), None]
    for name, data in (("good", good), ("odd", odd)):
        (tmp_path / name).write_bytes(data)
    items = [Item(name, -1, str(tmp_path / name), 0, (tmp_path / name).stat().st_size) for name in ("good", "odd")]
    kept, rewritten = examine_items(items, 1)
    assert isinstance(kept, Examined) and (kept.data, kept.kind) == (good, None)
    assert isinstance(rewritten, Examined) and rewritten.kind == "unusual header"
    assert header_sizes([rewritten.data]) == [(rewritten.height, rewritten.width)] == [(20, 30)]
    kept, reason = examine_items(items, 1, in_place=True)
    assert isinstance(kept, Examined) and "DALI cannot read its header" in str(reason)


def test_in_place_results_come_without_their_bytes(items: list[Item]):
    (result,) = examine_items(items[1:2], 1, in_place=True)
    assert isinstance(result, Examined) and result.data == b"" and result.crc32 != 0


class Fatal(Inside):
    """A file whose bytes end the process that reads them."""

    __slots__ = ()

    def read(self, offset: int, size: int) -> bytes:
        os.kill(os.getpid(), offset)
        raise AssertionError("the process lives")


@pytest.mark.thorough
def test_an_image_that_crashes_its_process_is_named_and_the_others_are_taken(
    items: list[Item], monkeypatch: pytest.MonkeyPatch
):
    """Two of them, the second beyond what was ahead of the first: the pool is broken twice, and goes on."""
    monkeypatch.setattr(image_workers, "FEW", 0)
    monkeypatch.setattr(image_workers, "CHUNK", 4)
    fatal = {3: signal.SIGSEGV, 45: signal.SIGABRT}
    some = [items[1 + number] for number in range(48)]
    for number, how in fatal.items():
        some[number] = Item(f"fatal {number}", -1, Fatal("file"), how, 1)
    results = list(examine_items(some, 2))
    assert len(results) == len(some)
    for number, result in enumerate(results):
        if number in fatal:
            assert result == f"its decoder crashed ({fatal[number].name})"
        else:
            assert isinstance(result, Examined) and result.sums == (number + 1,) * 3


@pytest.mark.thorough
def test_a_process_that_is_killed_is_want_of_memory(items: list[Item], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_workers, "FEW", 0)
    killed = [*items[1:50], Item("killed", -1, Fatal("file"), signal.SIGKILL, 1)]
    with pytest.raises(UserError, match="workers 2: a worker process was killed, most likely for want of memory"):
        list(examine_items(killed, 2))


class Here(Executor):
    """Does what it is asked for at once."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


@pytest.mark.parametrize("room, frames, most_ahead", [(2.5, 4, 2), (0.5, 4, 1), (100.0, 4, 5), (1.5, 1, 5)])
def test_clips_ahead_are_bounded_by_the_bytes_that_they_will_hold(
    monkeypatch: pytest.MonkeyPatch, room: float, frames: int, most_ahead: int
):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(stream, "JPEG")
    source = Footage(rate=0.0, frames={"": [stream.getvalue()] * 4})
    examined = examine_clip(Footage(rate=0.0, frames={"": [stream.getvalue()] * frames}))
    begun: list[str] = []

    def work(chunk: Sequence[Item]) -> list[Examined | str]:
        begun.append(chunk[0].name)
        return [replace(examined, kind=chunk[0].name)]

    monkeypatch.setattr(image_workers, "HELD_BYTES", room * source.size)
    chunks, ahead = [[Item(str(number), -1, "", 0, 0, frames=source)] for number in range(12)], list[int]()
    for number, found in enumerate(in_turn(Here(), work, chunks, 5)):
        assert isinstance(found, Examined) and found.kind == str(number)
        ahead.append(len(begun) - number)
    assert len(ahead) == 12 and max(ahead) == most_ahead and ahead[0] <= max(1, room)


def test_the_caller_may_stop_early(items: list[Item]):
    results = examine_items(items, 2)
    next(results)
    results.close()
