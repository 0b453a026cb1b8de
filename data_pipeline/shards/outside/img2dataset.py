"""What img2dataset leaves beside the images that it fetched: a table for each shard, of which some rows failed.

It writes ``00000.tar``, ``00000/`` or ``00000.parquet``, and ``00000_stats.json``; beside tars and folders the table
``00000.parquet`` says how each download ended. The number of a folder is no class.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from eyespot.data_pipeline.shards.members.skipped import Tally
from eyespot.data_pipeline.shards.outside.apart import Lost, each
from eyespot.data_pipeline.shards.outside.rows import Job

_STATISTICS = re.compile(r"(.*/)?(\d+)_stats\.json")


def numbered(others: Iterable[str]) -> set[str]:
    """The shards, such as 00000, of which it left statistics among some names."""
    return {(match[1] or "") + match[2] for name in others if (match := _STATISTICS.fullmatch(name))}


def count_failed(root: Path, others: Sequence[str], shards: Iterable[str], skipped: Tally) -> set[str]:
    """Counts what was not fetched, by the tables beside the shards.

    Args:
        root: the folder of the source.
        others: names of files in it that are no images.
        shards: see ``numbered``.
        skipped: counts.

    Returns:
        Those of the names that are its tables and statistics, and nothing else.
    """
    ours = {f"{shard}_stats.json" for shard in shards}
    tables = [name for name in others if name.removesuffix(".parquet") in set(shards) and name.endswith(".parquet")]
    if not tables:
        return ours & set(others)
    from eyespot.data_pipeline.shards.outside.arrow_tables import read_statuses

    for job, counts in each([Job(str(root / name), name, "", {}) for name in tables], read_statuses, 1):
        if isinstance(counts, Lost) or counts is None:
            skipped.add("a table of img2dataset that cannot be read", job.shown)
            continue
        for status, count in sorted(counts.items()):
            skipped.add(f"img2dataset: {status}", job.shown, count)
    return (ours & set(others)) | set(tables)
