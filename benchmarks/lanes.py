"""What nodes read of an object store, by lanes: bytes fetched over bytes needed, and requests, counted block by block.

No store and no image takes part. Sizes of JPEGs are drawn (log-normal, 99 KB on average), tars have 2,600 of them with
their padding, and the order is the real one. Each node takes its slice of every micro-batch, fetches the blocks of 256
samples that it does not hold, and drops those that it has not used for longest: it holds two windows of each of its
lanes. Two whole epochs are counted, with their ends. A block is one request, or two where it lies in two tars. The last
lines have micro-batches that are not those that the lanes were dealt by, as after another --data.accumulate.

    python benchmarks/lanes.py
"""

import argparse
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from results import write_results

from eyespot.data_pipeline.order.orders import Order, make_order
from eyespot.data_pipeline.order.sample_order import BLOCK, WINDOW

MEAN_BYTES, SPREAD, PER_TAR = 99_000, 0.45, 2600
"""Of a synthetic data set like ImageNet-1k at its own sizes."""
HEADERS = 2560
"""Bytes beside a sample's data in a tar: the headers of image and label, and the label."""
EPOCHS = 2


@dataclass(kw_only=True, slots=True, frozen=True)
class Blocks:
    """Where a synthetic data set's samples lie."""

    sizes: np.ndarray
    """Bytes of each sample."""
    fetched: np.ndarray
    """Bytes of each block, as it lies in its tars."""
    requests: np.ndarray
    """Requests that each block takes: as many as tars that it lies in."""


def synthetic(num_samples: int, seed: int = 0) -> Blocks:
    """A data set of so many samples."""
    drawn = np.random.default_rng(seed).lognormal(0, SPREAD, num_samples)
    sizes = (drawn * MEAN_BYTES / np.exp(SPREAD**2 / 2)).astype(np.int64)
    spans = (sizes + 511) // 512 * 512 + HEADERS
    starts = np.arange(0, num_samples, BLOCK)
    last = np.minimum(starts + BLOCK, num_samples) - 1
    return Blocks(sizes=sizes, fetched=np.add.reduceat(spans, starts), requests=last // PER_TAR - starts // PER_TAR + 1)


@dataclass(kw_only=True, slots=True, frozen=True)
class Reads:
    """What all nodes together read."""

    amplification: float
    """Bytes fetched / bytes of the samples."""
    requests: float
    """Per 1,000 samples."""
    worst: float
    """Amplification of the node that fetches most."""
    cache_gb: float
    """That each node holds at most, GB."""


def count(blocks: Blocks, order: Order, micro: int, nodes: int, capacity: int) -> Reads:
    """Plays the reads of every node.

    Args:
        blocks: of the data set.
        order: of its samples.
        micro: samples of a micro-batch over all nodes.
        nodes: that take equal slices of it.
        capacity: blocks that each node holds.
    """
    total = EPOCHS * order.num_samples // micro * micro
    held = [OrderedDict[int, None]() for _ in range(nodes)]
    fetched, needed, requests = np.zeros(nodes), np.zeros(nodes), 0
    largest = float(np.sort(blocks.fetched)[-capacity:].sum())
    for start in range(0, total, micro):
        slices = order.ids(start, micro)[0].reshape(nodes, -1)
        needed += blocks.sizes[slices].sum(axis=1)
        for node, ids in enumerate(slices):
            cache = held[node]
            for block in (ids // BLOCK).tolist():
                if block in cache:
                    cache.move_to_end(block)
                    continue
                cache[block] = None
                fetched[node] += blocks.fetched[block]
                requests += int(blocks.requests[block])
                if len(cache) > capacity:
                    cache.popitem(last=False)
    return Reads(
        amplification=float(fetched.sum() / needed.sum()),
        requests=requests * 1000 / total,
        worst=float((fetched / needed).max()),
        cache_gb=largest / 1e9,
    )


def reads(blocks: Blocks, *, lanes: int, nodes: int, micro: int, frame: int = 0, window: int = WINDOW) -> Reads:
    """Of an order in lanes; the frame is the micro-batch where nobody says otherwise."""
    order = make_order(len(blocks.sizes), 0, shuffle_window=window * BLOCK, lanes=lanes, frame=frame or micro)
    return count(blocks, order, micro, nodes, capacity=2 * window * max(1, -(-lanes // nodes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=2_000_000)
    parser.add_argument("--micro-batch", type=int, default=4096)
    asked = parser.parse_args()
    blocks, rows, frame = synthetic(asked.samples), [], asked.micro_batch
    cases = [(lanes, WINDOW, nodes, frame) for lanes in (1, 16, 64) for nodes in (1, 4, 16, 64)]
    cases += [(64, WINDOW // 2, nodes, frame) for nodes in (1, 4, 16, 64)]
    cases += [(64, WINDOW, 16, micro) for micro in (frame // 2, 2 * frame, frame - frame // 16)]
    for lanes, window, nodes, micro in cases:
        found = reads(blocks, lanes=lanes, window=window, nodes=nodes, micro=micro, frame=frame)
        rows.append(
            [
                *(str(lanes), f"{window * BLOCK:,}", str(nodes), f"{micro:,}", f"{found.amplification:.2f}x"),
                *(f"{found.worst:.2f}x", f"{found.requests:.1f}", f"{found.cache_gb:.1f}"),
            ]
        )
        print(rows[-1], flush=True)
    write_results(
        "lanes",
        title=f"Bytes fetched over bytes needed, {asked.samples:,} samples, lanes of a micro-batch of {frame:,}",
        header=(
            "lanes",
            "window",
            "nodes",
            "micro-batch",
            "bytes",
            "worst node",
            "requests per 1,000",
            "cache, GB a node",
        ),
        rows=rows,
        details={"epochs": EPOCHS, "mean_bytes": MEAN_BYTES, "samples_per_tar": PER_TAR},
    )


if __name__ == "__main__":
    main()
