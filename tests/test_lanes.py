"""benchmarks/lanes.py: nodes read every block about once where there are lanes; the table says so of the real size."""

import json
from collections import OrderedDict

import lanes
import pytest
from results import RESULTS

from eyespot.data_pipeline.order.orders import make_order

RECORD = json.loads((RESULTS / "lanes.json").read_text())


@pytest.fixture(scope="module")
def blocks() -> lanes.Blocks:
    return lanes.synthetic(60_001)


@pytest.mark.parametrize("nodes", [1, 4, 16])
def test_with_lanes_a_block_is_fetched_once_ends_of_epochs_included(blocks, nodes):
    found = lanes.reads(blocks, lanes=16, nodes=nodes, micro=512)
    assert found.amplification <= 1.15 and found.worst <= 1.3  # 235 blocks, of which 15 lie in two lanes
    assert found.requests <= 5.5


def test_without_lanes_nodes_read_each_others_blocks(blocks):
    assert lanes.reads(blocks, lanes=1, nodes=1, micro=512).amplification < 1.1
    assert lanes.reads(blocks, lanes=1, nodes=16, micro=512).amplification > 10


def test_what_is_counted_is_what_a_cache_would_fetch(blocks):
    order, nodes, micro, capacity = make_order(60_001, 0, lanes=4, frame=64), 2, 64, 3
    expected, needed, requests = 0, 0, 0
    for node in range(nodes):
        held = OrderedDict()
        for start in range(0, 2 * 60_001 // micro * micro, micro):
            for sample in order.ids(start + node * micro // nodes, micro // nodes)[0]:
                needed += blocks.sizes[sample]
                if sample // 256 not in held:
                    expected += blocks.fetched[sample // 256]
                    requests += 1 + (sample // 256 * 256 // 2600 != min(sample // 256 * 256 + 255, 60_000) // 2600)
                held[sample // 256] = True
                held.move_to_end(sample // 256)
                while len(held) > capacity:
                    held.popitem(last=False)
    found = lanes.count(blocks, order, micro, nodes, capacity)
    assert found.amplification == pytest.approx(expected / needed) and found.amplification > 2
    assert found.requests == pytest.approx(requests * 1000 / (2 * 60_001 // micro * micro))


def test_the_table_keeps_what_lanes_are_for():
    rows = {(row["lanes"], row["nodes"], row["micro-batch"], row["window"]): row for row in RECORD["rows"]}
    for nodes in ("1", "4", "16", "64"):
        row = rows["64", nodes, "4,096", "2,048"]
        assert float(row["worst node"][:-1]) <= 1.3 and float(row["requests per 1,000"]) <= 10
    assert float(rows["1", "64", "4,096", "2,048"]["bytes"][:-1]) > 30
