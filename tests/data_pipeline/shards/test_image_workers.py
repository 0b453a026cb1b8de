"""Results come in order and say what is wrong, from one process or several."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyespot.data_pipeline.shards.header_check import header_sizes
from eyespot.data_pipeline.shards.image_check import Examined
from eyespot.data_pipeline.shards.image_workers import FEW, examine_items
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


def test_the_caller_may_stop_early(items: list[Item]):
    results = examine_items(items, 2)
    next(results)
    results.close()
