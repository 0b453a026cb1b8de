"""The shards as one node sees them: all there, index and manifest agreeing, readable, fast enough, enough."""

import contextlib
import os
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from eyespot.cluster.doctor.checks import CheckContext
from eyespot.cluster.doctor.findings import Finding
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.loading.image_header import image_size
from eyespot.data_pipeline.loading.mixtures.chosen_ids import read_ids
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.loading.mixtures.source_mixing import source_mixing
from eyespot.data_pipeline.order.sample_order import SHUFFLE_WINDOW
from eyespot.data_pipeline.order.stream_state import check_lanes
from eyespot.data_pipeline.patience import words
from eyespot.data_pipeline.shards.manifest import Shard
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import plural

NUM_THREADS = 16
PATIENCE_SECONDS = 10.0
"""The doctor waits less for a file server than a run does: to say so is its work."""
AWAY = "shards_away"
"""A fact: they were waited for, and cannot be read now."""
NUM_SAMPLED = 16
"""Records that are read and compared with their checksum."""
CHUNK, MOST_BYTES, MOST_SECONDS = 8 << 20, 64 << 20, 3.0
"""Read speed: so many bytes at a time and in all, for so long."""
LEAST_BYTES = 16 << 20
"""Less than this says nothing of a speed."""
SLOW_BYTES_PER_SECOND = 20e6
"""Per process: about 500 images of ImageNet a second."""


def agreement(context: CheckContext) -> Iterator[Finding]:
    """Whether every tar is there with its size, the index is the manifest's, and some records are where it says."""
    try:
        shards = find_shards(context.values["data"]["shards"], patience_seconds=PATIENCE_SECONDS)
        context.facts["manifest"] = shards.manifest_sha256
        wrong = [line for source in shards.sources for line in _wrong_tars(source)]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            yield context.fail(
                "shards", wrong[0] + more, "copy them again, or mount the same folder as on the other nodes"
            )
            return
        _ = shards.table
    except UserError as error:  # it says what to do behind its semicolon
        found, _, fix = str(error).partition("; ")
        yield context.fail("shards", found, fix or "mount the same folder as on the other nodes")
        return
    except Outage as error:
        context.facts[AWAY] = True
        found, _, fix = str(error).partition("; ")
        yield context.fail("shards", found, fix)
        return
    try:
        yield from _records(context, shards)
    except (UserError, Outage) as error:
        found, _, fix = str(error).partition("; ")
        yield context.fail("shards", found, fix)
    except OSError as error:
        where = error.filename or shards.path
        yield context.fail("shards", f"{where}: cannot be read ({words(error)})", "see to the file system of this node")


def _wrong_tars(shards: ShardFolder) -> list[str]:
    if shards.is_remote:
        shards.check_tars()
        return []

    def wrong(shard: Shard) -> str | None:
        path = Path(str(shards.path)) / shard.tar
        try:
            size = path.stat().st_size
        except OSError as error:
            return f"{path}: {'missing' if isinstance(error, FileNotFoundError) else error.strerror}"
        return None if size == shard.bytes else f"{path}: {size} bytes where the manifest says {shard.bytes}"

    with ThreadPoolExecutor(NUM_THREADS) as pool:  # a network file system answers many questions at once
        return [line for line in pool.map(wrong, shards.manifest.shards) if line]


def _records(context: CheckContext, shards: ShardFolder) -> Iterator[Finding]:
    """Reads some records, from everywhere in the shards."""
    num_samples = shards.manifest.num_samples
    rows = np.unique(np.linspace(0, num_samples - 1, NUM_SAMPLED).astype(np.int64))
    for row, place in zip(rows.tolist(), shards.rows(rows), strict=True):
        path = shards.tar_path(int(place["tar"]))
        data = _record(shards, *place[["tar", "offset", "size"]].item())
        if zlib.crc32(data) != place["crc32"]:
            yield context.fail(
                "shards",
                f"{path}: sample {row} is not what was packed (crc32)",
                f"copy the tar again, or find all damage: eyespot shards verify {shards.path}",
            )
            return
        if (found := image_size(data)) != (told := place[["height", "width"]].item()):
            yield context.fail(
                "shards",
                f"{path}: sample {row} has (height, width) {found}, not {told} as the index says",
                f"make the index anew: eyespot shards index {shards.path}",
            )
            return
    count = f"{plural(num_samples, 'sample')} in {plural(len(shards.manifest.shards), 'tar')}"
    yield context.ok("shards", f"{count}: all there; index, manifest and {len(rows)} records agree")


def _record(shards: ShardFolder, tar: int, offset: int, size: int) -> bytes:
    if shards.is_remote:
        return shards.read_tar(tar, offset, size)
    with shards.local_tar(tar).open("rb") as file:
        return os.pread(file.fileno(), size, offset)


def read_speed(context: CheckContext) -> Iterator[Finding]:
    """Reads pieces of some shards that this node has probably not in memory."""
    if AWAY in context.facts:  # told by ``agreement``; to wait for them once is enough
        return
    try:
        shards = find_shards(context.values["data"]["shards"], patience_seconds=PATIENCE_SECONDS)
    except (UserError, Outage):
        return  # told by ``agreement``
    begin, num_read = time.monotonic(), 0
    tars = len(shards.manifest.shards)
    for number in range(min(tars, MOST_BYTES // CHUNK)):
        # Other shards on each node: else the file server reads them once and has them in memory for the rest.
        with contextlib.suppress(OSError, UserError, Outage):
            num_read += _read_cold(shards, (context.place.index + number * len(context.place.nodes)) % tars)
        if time.monotonic() - begin > MOST_SECONDS:
            break
    speed, wanted = num_read / (time.monotonic() - begin), SLOW_BYTES_PER_SECOND * context.place.processes
    if speed < wanted and num_read >= LEAST_BYTES:
        yield context.warn(
            "read speed",
            f"{speed / 1e6:.0f} MB/s for {plural(context.place.processes, 'process')}",
            f"below {wanted / 1e6:.0f} MB/s training may wait for data: keep the shards on a faster file system",
        )
    else:
        yield context.ok("read speed", f"{speed / 1e6:.0f} MB/s ({num_read / 1e6:.0f} MB, from cold)")


def _read_cold(shards: ShardFolder, tar: int) -> int:
    """Reads the beginning of a tar, not from memory; how many bytes."""
    if shards.is_remote:
        return len(shards.read_tar(tar, 0, min(CHUNK, shards.manifest.shards[tar].bytes)))
    with shards.local_tar(tar).open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return len(file.read(CHUNK))


def enough(context: CheckContext) -> Iterator[Finding]:
    """Whether the batch can be dealt to the ranks, and the shards hold that many samples."""
    data: dict[str, Any] = context.values["data"]
    batch, parts, ranks = data["batch_size"], data["accumulate"], context.ranks
    if batch % (ranks * parts):
        yield context.fail(
            "samples",
            f"a batch of {batch} cannot be dealt to {plural(ranks, 'rank')} x {plural(parts, 'micro-batch')}",
            f"choose a --data.batch-size that is a multiple of {ranks * parts}, or other numbers of nodes or processes",
        )
        return
    try:
        check_lanes(data.get("lanes", 1), batch // parts)
    except UserError as error:
        found, _, fix = str(error).partition("; ")
        yield context.fail("samples", found, fix)
        return
    if AWAY in context.facts:
        return
    try:
        shards = find_shards(data["shards"], patience_seconds=PATIENCE_SECONDS)
    except (UserError, Outage):
        return  # told by ``agreement``
    try:
        num_samples = _num_chosen(data, shards)
    except UserError as error:
        found, _, fix = str(error).partition("; ")
        yield context.fail("samples", found, fix)
        return
    micro = batch // parts
    if micro > num_samples:
        yield context.fail(
            "samples",
            f"{plural(num_samples, 'sample')} are too few for {plural(ranks, 'rank')} x"
            f" {plural(micro // ranks, 'image')} at once",
            "start fewer ranks, lower --data.batch-size, or pack more images",
        )
    else:
        yield context.ok(
            "samples", f"{num_samples:,} for {plural(ranks, 'rank')} x {plural(micro // ranks, 'image')} at once"
        )


def _num_chosen(data: dict[str, Any], shards: ShardFolder) -> int:
    """How many samples the run learns from."""
    path = None if data.get("ids") is None else Path(data["ids"])
    ids = shards.chosen(None if path is None else read_ids(f"data.ids {path}", path, shards))
    return shards.manifest.num_samples if ids is None else len(ids)


def mixing(context: CheckContext) -> Iterator[Finding]:
    """How many classes the batches will hold, of shards that have at least two."""
    data: dict[str, Any] = context.values["data"]
    if data.get("ids") is not None or AWAY in context.facts:  # which samples these are the start tells
        return
    try:
        shards = find_shards(data["shards"], patience_seconds=PATIENCE_SECONDS)
        sources = list(
            source_mixing(
                shards,
                data["batch_size"],
                seed=context.values.get("seed", 0),
                window=data.get("shuffle_window", SHUFFLE_WINDOW),
                lanes=data.get("lanes", 1),
                frame=data["batch_size"] // data["accumulate"],
                ids=shards.chosen(None),
            )
        )
    except (UserError, Outage):
        return  # told by ``agreement``
    for source, found in sources:
        of = f" of {source.path}" if source is not shards else ""
        classes = f"a batch of {found.batch_size:,}{of} holds {found.found:.0f} classes, where a shuffle has"
        if found.is_poor:
            yield context.warn("mixing", f"{classes} {found.shuffled:.0f}", f"{found.cure}, or pack the images anew")
        else:
            yield context.ok("mixing", f"{classes} {found.shuffled:.0f}")
