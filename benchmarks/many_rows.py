"""kNN, k-means and clusters of features that do not fit into memory: time and memory as rows grow.

    OMP_NUM_THREADS=1 python benchmarks/many_rows.py --work /tmp/many --rows 100000 1000000

Synthetic features around as many directions as there are classes, on disk. Each measurement is a process of its own,
whose peak memory is what it allocated beyond what it had when its imports were done (VmHWM; pages of files do not
count: they are read, not mapped). "in memory" is what protocols do with features of up to 4 GiB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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
from eyespot.pretrain.distributed.process_group import World

NUM_CLASSES = 100
NUM_QUERIES = 256
WORLD = World(rank=0, size=1, device=torch.device("cpu"))


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
        file.write(ids, centres[labels[ids]] * 0.5 + noise)
    np.save(folder.with_suffix(".labels.npy"), labels)


def knn_streamed(rows: Rows, labels: np.ndarray) -> None:
    queries = rows.some(np.arange(NUM_QUERIES))
    streamed_vote(queries, rows, labels, num_classes=NUM_CLASSES, ks=knn.KS, world=WORLD)


def knn_in_memory(rows: Rows, labels: np.ndarray) -> None:
    bank = torch.from_numpy(np.load(rows.file.path))
    knn.vote(bank[:NUM_QUERIES], bank, torch.from_numpy(labels), num_classes=NUM_CLASSES)


def clustering_streamed(rows: Rows, labels: np.ndarray) -> None:
    streamed_clusters(rows, NUM_CLASSES, 0, WORLD)


def clustering_in_memory(rows: Rows, labels: np.ndarray) -> None:
    clustering.clusters(torch.from_numpy(np.load(rows.file.path)), NUM_CLASSES, 0)


def thousand_clusters(rows: Rows, labels: np.ndarray) -> None:
    found = kmeans(rows, 1000, seed=0, world=WORLD, iterations=1)
    assigned(rows, found.centroids, WORLD)


def balanced(rows: Rows, labels: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as state:
        tree = cluster_tree(rows, (200, 20), rounds=1, seed=0, world=WORLD, state=Path(state), key="")
        balanced_sample(tree, rows.count // 3, 0)


def neighbours(rows: Rows, labels: np.ndarray) -> None:
    queries = rows.take(np.arange(NUM_QUERIES), WORLD.device)
    nearest_rows(queries, rows, 20, WORLD)


def written(rows: Rows, labels: np.ndarray) -> None:
    with tempfile.TemporaryDirectory(dir=rows.file.path.parent) as folder:
        reserve(Path(folder) / "copy", {"rows": (np.dtype(np.float32), rows.width)}, rows.count)
        file = RowFile(Path(folder) / "copy" / "rows.npy", writes=True)
        for start in range(0, rows.count, 256):
            ids = np.arange(start, min(start + 256, rows.count))
            file.write(ids, rows.file.take(ids))


def duplicates(rows: Rows, labels: np.ndarray) -> None:
    near_pairs(rows, None, 0.95, seed=0, world=WORLD)


WORK: dict[str, tuple[Callable[[Rows, np.ndarray], None], int]] = {
    f"kNN of {NUM_QUERIES} queries, in memory": (knn_in_memory, 2_000_000),
    f"kNN of {NUM_QUERIES} queries, in pieces": (knn_streamed, 10**9),
    "clustering (10 starts), in memory": (clustering_in_memory, 100_000),
    "clustering (3 starts), in pieces": (clustering_streamed, 10**9),
    "k-means, 1000 clusters, 1 pass, and all rows assigned": (thousand_clusters, 10**9),
    "near pairs, cosine 0.95 (in cells from 200,000 rows on)": (duplicates, 1_000_000),
    "curate balance, 200 and 20 clusters, 1 round, a third kept": (balanced, 1_000_000),
    f"curate retrieve, 20 neighbours of {NUM_QUERIES}": (neighbours, 10**9),
    "features written in batches of 256 and read back": (written, 1_000_000),
}
"""What is measured, up to how many rows."""


def measured(name: str, folder: Path) -> dict[str, float]:
    """Seconds of CPU and of the clock, and MiB, of one of them in this process."""
    torch.set_num_threads(1)
    labels = np.load(folder.with_suffix(".labels.npy"))
    rows, before = Rows(RowFile(folder / "rows.npy")), status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    start, cpu = time.monotonic(), time.process_time()
    WORK[name][0](rows, labels)
    return {
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time() - cpu,
        "mib": max(0, status("VmHWM") - before),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=64)
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
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            one = {"rows": count, "width": asked.width, "what": name, **json.loads(line)}
            print(one, flush=True)
            kept = [each for each in kept if any(each[key] != one[key] for key in ("rows", "width", "what"))]
            kept.append(one)
            write(kept)


def write(kept: list[dict]) -> None:
    """All that was measured, earlier calls' too."""
    kept.sort(key=lambda one: (one["rows"], one["width"], list(WORK).index(one["what"])))
    rows = [
        [
            f"{one['rows']:,} x {one['width']}",
            f"{one['rows'] * one['width'] * 4 / 2**20:,.0f} MiB",
            one["what"],
            f"{one['cpu_seconds']:,.1f}",
            f"{one['mib']:,.0f}",
        ]
        for one in kept
    ]
    write_results(
        "many_rows",
        title="Many rows of features, one thread",
        header=["rows", "file", "what", "CPU-seconds", "MiB of memory at most, beyond the start"],
        rows=rows,
        details={"measurements": kept},
    )


if __name__ == "__main__":
    main()
