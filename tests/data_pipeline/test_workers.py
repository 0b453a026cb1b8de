"""Results come in order and say what is wrong, from one process or several."""

import numpy as np
import pytest

from eyespot.data_pipeline.images import Examined
from eyespot.data_pipeline.sources import Item
from eyespot.data_pipeline.workers import FEW, examine_items


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


def test_in_place_results_come_without_their_bytes(items: list[Item]):
    (result,) = examine_items(items[1:2], 1, in_place=True)
    assert isinstance(result, Examined) and result.data == b"" and result.crc32 != 0


def test_the_caller_may_stop_early(items: list[Item]):
    results = examine_items(items, 2)
    next(results)
    results.close()
