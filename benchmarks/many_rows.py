"""kNN, k-means and clusters of features that do not fit into memory: time and memory as rows grow.

    OMP_NUM_THREADS=1 python benchmarks/many_rows.py --work /tmp/many --rows 100000 1000000
    OMP_NUM_THREADS=1 python benchmarks/many_rows.py --work /tmp/many --rows 10000000 --ranks 2

Synthetic features around as many directions as there are classes, on disk; each thousandth is a near copy of the row
999 before. Each measurement has processes of its own, whose peak memory is what one allocated beyond what it had when
its imports were done and its ranks had met (VmHWM; pages of files do not count: they are read, not mapped); CPU-seconds
are of all ranks. "in memory" is what protocols do with features of up to 4 GiB.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import RESULTS, write_results

from eyespot.eval.curate.cluster_tree import balanced_sample, cluster_tree
from eyespot.eval.protocols import clustering, knn
from eyespot.eval.protocols.many_rows.streamed_clustering import streamed_clusters
from eyespot.eval.protocols.many_rows.streamed_knn import streamed_vote
from eyespot.eval.search.kmeans import assigned, kmeans
from eyespot.eval.search.neighbours import near_pairs, nearest_rows
from eyespot.eval.search.row_file import RowFile, Rows, reserve
from eyespot.pretrain.distributed import process_group
from eyespot.pretrain.distributed.collectives import barrier
from eyespot.pretrain.distributed.process_group import World

NUM_CLASSES = 100
NUM_QUERIES = 256
COPIES_EVERY = 1000


def status(name: str) -> int:
    """A line of /proc/self/status, MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) // 1024


def make(folder: Path, count: int, width: int) -> None:
    """Writes the features in pieces."""
    labels = np.random.default_rng(0).integers(0, NUM_CLASSES, count)
    centres = np.random.default_rng(1).normal(size=(NUM_CLASSES, width)).astype(np.float32)
    reserve(folder, {"rows": (np.dtype(np.float32), width)}, count)
    file = RowFile(folder / "rows.npy", writes=True)
    for start in range(0, count, 100_000):
        ids = np.arange(start, min(start + 100_000, count))
        noise = np.random.default_rng([2, start]).standard_normal((len(ids), width), np.float32)
        rows = centres[labels[ids]] * 0.5 + noise
        rows[COPIES_EVERY - 1 :: COPIES_EVERY] = rows[::COPIES_EVERY] + 0.2 * noise[1::COPIES_EVERY]
        file.write(ids, rows)
    np.save(folder.with_suffix(".labels.npy"), labels)


def knn_streamed(rows: Rows, labels: np.ndarray, world: World) -> None:
    queries = rows.some(np.arange(NUM_QUERIES))
    streamed_vote(queries, rows, labels, num_classes=NUM_CLASSES, ks=knn.KS, world=world)


def knn_in_memory(rows: Rows, labels: np.ndarray, world: World) -> None:
    bank = torch.from_numpy(np.load(rows.file.path))
    knn.vote(bank[:NUM_QUERIES], bank, torch.from_numpy(labels), num_classes=NUM_CLASSES)


def clustering_streamed(rows: Rows, labels: np.ndarray, world: World) -> None:
    streamed_clusters(rows, NUM_CLASSES, 0, world)


def clustering_in_memory(rows: Rows, labels: np.ndarray, world: World) -> None:
    clustering.clusters(torch.from_numpy(np.load(rows.file.path)), NUM_CLASSES, 0)


def thousand_clusters(rows: Rows, labels: np.ndarray, world: World) -> None:
    found = kmeans(rows, 1000, seed=0, world=world, iterations=1)
    assigned(rows, found.centroids, world)


def balanced(rows: Rows, labels: np.ndarray, world: World) -> None:
    state = rows.file.path.with_name("state")  # of all ranks
    if world.rank == 0:
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
    barrier()
    tree = cluster_tree(rows, (200, 20), rounds=1, seed=0, world=world, state=state, key="")
    balanced_sample(tree, rows.count // 3, 0)


def neighbours(rows: Rows, labels: np.ndarray, world: World) -> None:
    queries = rows.take(np.arange(NUM_QUERIES), world.device)
    nearest_rows(queries, rows, 20, world)


def written(rows: Rows, labels: np.ndarray, world: World) -> None:
    with tempfile.TemporaryDirectory(dir=rows.file.path.parent) as folder:
        reserve(Path(folder) / "copy", {"rows": (np.dtype(np.float32), rows.width)}, rows.count)
        file = RowFile(Path(folder) / "copy" / "rows.npy", writes=True)
        for start in range(0, rows.count, 256):
            ids = np.arange(start, min(start + 256, rows.count))
            file.write(ids, rows.file.take(ids))


def duplicates(rows: Rows, labels: np.ndarray, world: World) -> None:
    found = near_pairs(rows, None, 0.95, seed=0, world=world)
    planted = (found.left % COPIES_EVERY == 0) & (found.right == found.left + COPIES_EVERY - 1)
    say(f"{planted.sum():,} of {rows.count // COPIES_EVERY:,} planted pairs found, and {(~planted).sum():,} others")


SAID: list[str] = []


def say(what: str) -> None:
    """For the table."""
    SAID.append(what)


WORK: dict[str, tuple[Callable[[Rows, np.ndarray, World], None], int]] = {
    f"kNN of {NUM_QUERIES} queries, in memory": (knn_in_memory, 2_000_000),
    f"kNN of {NUM_QUERIES} queries, in pieces": (knn_streamed, 10**9),
    "clustering (10 starts), in memory": (clustering_in_memory, 100_000),
    "clustering (3 starts), in pieces": (clustering_streamed, 10**9),
    "k-means, 1000 clusters, 1 pass, and all rows assigned": (thousand_clusters, 10**9),
    "near pairs, cosine 0.95 (in cells from 200,000 rows on)": (duplicates, 10**9),
    "curate balance, 200 and 20 clusters, 1 round, a third kept": (balanced, 10**9),
    f"curate retrieve, 20 neighbours of {NUM_QUERIES}": (neighbours, 10**9),
    "features written in batches of 256 and read back": (written, 1_000_000),
}
"""What is measured, up to how many rows."""


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Seconds of CPU and of the clock, and MiB, of one of them in this process."""
    torch.set_num_threads(1)
    labels = np.load(folder.with_suffix(".labels.npy"))
    rows, world = Rows(RowFile(folder / "rows.npy")), process_group.start("cpu", 3600)
    barrier()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    began, cpu = time.monotonic(), time.process_time()
    WORK[name][0](rows, labels, world)
    return {
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu,
        "mib": max(0, status("VmHWM") - before),
        "said": SAID,
    }


def on_ranks(command: list[str], count: int) -> dict[str, Any]:
    """What the ranks measured: the slowest, the sum of their CPU-seconds, the largest."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    known = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **known, "RANK": str(rank)})
        for rank in range(count)
    ]
    each = [json.loads(rank.communicate()[0].splitlines()[-1]) for rank in ranks]
    return {
        "seconds": max(one["seconds"] for one in each),
        "cpu_seconds": sum(one["cpu_seconds"] for one in each),
        "mib": max(one["mib"] for one in each),
        "said": each[0]["said"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[], help="what begins with one of these: kNN clustering")
    parser.add_argument("--one", help="measures this alone, and prints it")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    if asked.one:
        print(json.dumps(measured(asked.one, asked.work / f"{asked.rows[0]}x{asked.width}")))
        return
    path = RESULTS / "many_rows.json"
    kept = json.loads(path.read_text()).get("measurements", []) if path.exists() else []
    for count in asked.rows:
        folder = asked.work / f"{count}x{asked.width}"
        if not folder.with_suffix(".labels.npy").exists():
            make(folder, count, asked.width)
        for name, (_, most) in WORK.items():
            if count > most or (asked.only and not name.startswith(tuple(asked.only))):
                continue
            where = ["--work", str(asked.work), "--rows", str(count), "--width", str(asked.width)]
            command = [sys.executable, __file__, *where, "--one", name]
            one = {"rows": count, "width": asked.width, "ranks": asked.ranks, "what": name}
            kept = [each for each in kept if any(each[key] != one[key] for key in one)]
            one |= on_ranks(command, asked.ranks)
            print(one, flush=True)
            kept.append(one)
            write(kept)


def write(kept: list[dict]) -> None:
    """All that was measured, earlier calls' too."""
    kept.sort(key=lambda one: (one["rows"], one["width"], one["ranks"], list(WORK).index(one["what"])))
    rows = [
        [
            f"{one['rows']:,} x {one['width']}",
            f"{one['rows'] * one['width'] * 4 / 2**20:,.0f} MiB",
            str(one["ranks"]),
            "; ".join([one["what"], *one["said"]]),
            f"{one['cpu_seconds']:,.1f}",
            f"{one['mib']:,.0f}",
        ]
        for one in kept
    ]
    write_results(
        "many_rows",
        title="Many rows of features, one thread a rank",
        header=["rows", "file", "ranks", "what", "CPU-seconds", "MiB of memory of a rank at most, beyond the start"],
        rows=rows,
        details={"measurements": kept},
    )


if __name__ == "__main__":
    main()
