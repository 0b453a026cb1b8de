"""What the start of a run costs on a billion samples: a folder whose pieces are one piece and whose tars are one tar.

python benchmarks/billion_rows.py [--samples 1000000000] [--format-1 20000000]

The rows, their digests and the images are real; hard links stand for the rest, so the folder takes 60 MB. Each line is
a process of its own, as a rank is: it opens and checks the folder, counts the classes of its batches where it is the
first of its node, makes the loader and waits for the first batch of 256. Format 1 is measured on as many rows as fit.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROWS_OF_A_TAR = 10_000
MOST_LINKS = 60_000
"""Names of one file: ext4 has 65,000 at most."""
BATCH, LATER = 256, 32


def make_folder(folder: Path, num_samples: int, *, pieces: bool) -> None:
    """Writes shards of so many samples."""
    from eyespot.data_pipeline import atomic_files
    from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE
    from eyespot.data_pipeline.shards.pack import pack
    from eyespot.data_pipeline.shards.paged.paged_index import PAGES, piece_file
    from eyespot.data_pipeline.shards.paged.piece_writer import CUT, PieceWriter, write_index
    from eyespot.data_pipeline.shards.paged.shard_table import ShardTable
    from eyespot.data_pipeline.shards.shard_folder import ShardFolder

    pack("digits", folder / "packed", workers=1)
    packed = ShardFolder(folder / "packed" / "train")
    num_tars = max(1, num_samples // ROWS_OF_A_TAR)
    (shard,) = packed.manifest.shards
    shards = [replace(shard, tar=f"shard-{number:06d}.tar") for number in range(num_tars)]
    for number, each in enumerate(shards):
        if number % MOST_LINKS == 0:
            shutil.copy(packed.tar_path(0), source := folder / each.tar)
        else:
            os.link(source, folder / each.tar)

    def rows(count: int) -> np.ndarray:
        found = np.resize(packed.index, count).astype(INDEX_DTYPE)
        found["tar"] = np.arange(count, dtype=np.int64) // BATCH * 24_593 % num_tars
        return found

    numbers: dict[str, Any] = {"num_samples": num_samples, "num_labeled": num_samples, "shards": shards, "packing": {}}
    if not pieces:
        index = rows(num_samples)
        manifest = write_index(folder, replace(packed.manifest, **numbers), index, replace(CUT, above=num_samples))
    else:
        count, rest = divmod(num_samples, CUT.piece_rows)
        writer = PieceWriter(folder)
        writer.add(full := rows(CUT.piece_rows))
        writer.add(full[:rest])
        told = writer.finish(ShardTable.of(shards))
        if rest:
            (folder / piece_file(1)).rename(folder / piece_file(count))
        for number in range(1, count):
            os.link(folder / piece_file(0), folder / piece_file(number))
        digests = np.load(folder / PAGES)
        of_piece = CUT.piece_rows // CUT.page_rows
        digests = np.concatenate([np.tile(digests[:of_piece], (count, 1)), digests[of_piece:]])
        atomic_files.write_bytes(folder / PAGES, content := atomic_files.npy_bytes(digests))
        told["pieces"].samples = [CUT.piece_rows] * count + [rest] * bool(rest)
        told["index_sha256"] = sha256(content)
        manifest = replace(packed.manifest, **numbers | told)
    (folder / "manifest.json").write_text(manifest.to_json())
    shutil.rmtree(folder / "packed")


def sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def memory_mb() -> tuple[float, float]:
    """What the process holds, and the most that it held; getrusage would tell of whoever started it."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    held, most = (int(lines[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return held, most


def as_a_rank(folder: Path, *, first: bool) -> None:
    """Starts as a run does, and prints what it took."""
    from eyespot.data_pipeline.augment.views import CenterView, ViewSpec
    from eyespot.data_pipeline.loading import dali_graphs  # noqa: F401  its import is none of the start of the data
    from eyespot.data_pipeline.loading.class_mixing import class_mixing
    from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
    from eyespot.data_pipeline.shards.shard_folder import ShardFolder

    seconds, before = dict[str, float](), memory_mb()[0]
    begun = last = time.perf_counter()

    def note(what: str) -> None:
        nonlocal last
        seconds[what], last = time.perf_counter() - last, time.perf_counter()

    shards = ShardFolder(folder, hashes=first)
    note("open")
    shards.check()
    note("check")
    if first:
        class_mixing(shards, 1024)
        note("classes")
    views = ViewSpec(views=(CenterView(resize=8, size=8),))
    loader = make_loader(LoaderSpec(shards=shards, views=views, batch_size=BATCH, num_threads=1))
    ids = next(loader).ids.tolist()
    note("first batch")
    total = last - begun
    for _ in range(LATER):
        next(loader)
    note("later")
    loader.close()
    held, most = memory_mb()
    found = {"seconds": seconds, "total": total, "grown_mb": most - before, "held_mb": held - before, "most_mb": most}
    print(json.dumps({**found, "ids": ids[:4]}))


def measured(folder: Path, *, first: bool) -> dict[str, Any]:
    """What a process of its own says."""
    command = [sys.executable, __file__, "--rank", str(folder), *(["--first"] if first else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10**9)
    parser.add_argument("--format-1", type=int, default=20_000_000)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        as_a_rank(options.rank, first=options.first)
        return
    from results import write_results

    rows, details = [], []
    for number, count, pieces in (
        (1, options.format_1, False),
        (2, options.format_1, True),
        (2, options.samples, True),
    ):
        with tempfile.TemporaryDirectory() as folder:
            make_folder(Path(folder), count, pieces=pieces)
            for first in (True, False):
                found = measured(Path(folder), first=first)
                seconds = found["seconds"]
                parts = [seconds["open"] + seconds["check"], seconds.get("classes"), seconds["first batch"]]
                shown = ["" if part is None else f"{part:.2f}" for part in parts]
                who = "first of its node" if first else "another"
                memory = f"{found['grown_mb']:.0f}", f"{found['most_mb']:.0f}"
                later = f"{seconds['later'] / LATER * 1e3:.1f}"
                rows.append((str(number), f"{count:,}", who, *shown, f"{found['total']:.2f}", *memory, later))
                details.append({"format": number, "samples": count, "first": first, **found})
    header = (
        "format",
        "samples",
        "rank",
        "open, check",
        "classes",
        "first batch",
        "in all",
        "grown MB",
        "MB",
        "later ms",
    )
    write_results(
        "billion_rows",
        title="Start of a rank, seconds; the memory that it takes, and that with torch and DALI; a later batch of 256",
        header=header,
        rows=rows,
        details={"measured": details},
    )


if __name__ == "__main__":
    main()
