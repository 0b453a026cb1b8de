"""One task's share of a source: shards of a stretch of the shuffled order, and what merging needs to know of them.

    DST/.parts/0003-of-0008/[SPLIT/]shard-000000.tar    and its .idx, numbered as if nothing before were left out
    DST/.parts/0003-of-0008/tables/SPLIT-000000.*       rows, sums, where each sample begins in its tar
    DST/.parts/0003-of-0008/part.json                   written last: with it the part is complete

A stretch begins where a shard would begin if no image were left out and none changed its size, as far as the listing
tells: then merging only renames. How many images were left out before its stretch, a task cannot know: what follows
from that is set right by merge.py, which copies.
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tarfile import RECORDSIZE
from typing import Any

import numpy as np

from eyespot.data_pipeline import atomic_files, foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.manifest import Manifest, Skipped
from eyespot.data_pipeline.shards.members.items import Item, Source, have_frames, sampling_of
from eyespot.data_pipeline.shards.members.tar_members import BLOCK
from eyespot.data_pipeline.shards.outside.rows import Shared
from eyespot.data_pipeline.shards.packed_shard import PackedShard
from eyespot.data_pipeline.shards.parts.goal import SPLITS, Goal, Start, manifest_folders
from eyespot.data_pipeline.shards.parts.task import Task
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

FORMAT = "eyespot-part/1"
PARTS = ".parts"
LAUNCH = ".launch"
"""Beside the parts, where eyespot launch keeps code and logs."""
RECORD = "part.json"
_FOLDER = re.compile(r"\d{4,5}-of-\d{4,5}", re.ASCII)
LOCK = "lock"
"""Held while the parts are merged."""
TABLES = "tables"
LISTED = "listed"
"""Among the parts, what tasks found in the source's tables (outside/listings.py)."""
ALIGNED = 4
"""From so many shards for each task on, a task begins where a shard does: no shard is copied, and with 4 to a task the
last to finish has at most a quarter more than the others. With fewer, stretches are equally long."""


@dataclass(kw_only=True, slots=True)
class Stretch:
    """Of one split."""

    first: int
    """Position of its first item in the shuffled order."""
    stop: int
    num_items: int
    """Of the whole split."""
    num_tables: int


@dataclass(kw_only=True, slots=True)
class PartRecord:
    """part.json."""

    number: int
    count: int
    plan: str
    """Digest of everything that determines the shards: the listing and the options."""
    name: str
    classes: list[str]
    skipped: list[Skipped]
    notes: list[str]
    options: dict[str, Any]
    splits: dict[str, Stretch]
    format: str = FORMAT


class Share(Goal):
    """The stretch of every split that is one task's.

    Args:
        root: the shard folder that all tasks work for.
        task: which of them this is.
    """

    def __init__(self, root: Path, task: Task) -> None:
        self.root, self.task = root, task
        self.shared = Shared(root / PARTS / LISTED, task.number / task.total)
        self._stretches: dict[str, Stretch] = {}

    @property
    def folder(self) -> Path:
        """Where the task writes."""
        return self.root / PARTS / f"{self.task.number:04d}-of-{self.task.total:04d}"

    def has_begun(self, destination: Path) -> bool:
        """Whether the task was here before."""
        return (destination / RECORD).exists()

    def refuse(self, found: Source, options: dict[str, Any]) -> None:
        """Raises a UserError where the source cannot be dealt out, or others pack something else here."""
        if found.prepare is not None or any(map(have_frames, found.splits.values())):
            raise UserError(f"task {self.task}: samples of many frames are packed by one process; leave out --task")
        if (self.root / ".packing").exists():
            raise UserError(
                f"destination {self.root}: an unfinished pack without --task lies there; finish it by the same command,"
                f" or delete it: rm -r {self.root}"
            )
        merging = manifest_folders(self.root) or (self.root / PARTS / LOCK).exists()
        if not merging and any(path.name not in (PARTS, LAUNCH) for path in self.root.iterdir()):
            raise UserError(f"destination {self.root}: holds other files; name a new or an empty folder")
        for path in part_folders(self.root):
            if (count := task_of(path).total) != self.task.total:
                raise UserError(
                    f"task {self.task}: {self.root} holds parts of {count} tasks; say as many, or delete them:"
                    f" rm -r {self.root / PARTS}"
                )
            if (path / RECORD).exists() and read_record(path).plan != options["plan"]:
                raise UserError(f"destination {self.root}: {_others(path)}; name another folder, or delete them")

    def finished(self, destination: Path, found: Source, plan: str) -> dict[str, Manifest] | None:
        """Nothing, where this task's part, or all that is made of the parts, is there already; else None."""
        if (destination / RECORD).exists() and read_record(destination).plan == plan:
            return {}
        folders = manifest_folders(self.root)
        if any(ShardFolder(folder).manifest.packing.get("plan") != plan for folder in folders):
            raise UserError(
                f"destination {self.root}: holds shards of another source or other options; name another folder"
            )
        if len(folders) < len(found.splits):
            return None
        shutil.rmtree(self.root / PARTS / LISTED, ignore_errors=True)  # of a task that came after all were merged
        return {}

    def start(self, split: str, order: Sequence[Item], options: dict[str, Any]) -> Start:
        """The task's stretch; the ids are what they are if nothing before it is left out."""
        bounds = stretches(predicted_cuts(order, options), len(order), self.task.total)
        first, stop = bounds[self.task.number], bounds[self.task.number + 1]
        self._stretches[split] = Stretch(first=first, stop=stop, num_items=len(order), num_tables=0)
        return Start(range(first, stop), first_id=first, one_in=sampling_of(order))

    def commit(
        self, destination: Path, found: Source, parts: dict[str, list[PackedShard]], options: dict[str, Any]
    ) -> dict[str, Manifest]:
        """Keeps what is known of the shards, and writes part.json."""
        (destination / TABLES).mkdir(exist_ok=True)
        for split, done in parts.items():
            for number, part in enumerate(done):
                stem = table_stem(destination, split, number)
                part.save(stem)
                if part.shard is not None:
                    begins = sample_begins((destination / split / part.shard.tar).with_suffix(".idx"))
                    atomic_files.write_bytes(stem.with_suffix(".begins.npy"), atomic_files.npy_bytes(begins))
            self._stretches[split].num_tables = len(done)
        record = PartRecord(
            number=self.task.number,
            count=self.task.total,
            plan=options["plan"],
            name=found.name,
            classes=found.classes,
            skipped=found.skipped.listed(),
            notes=found.notes,
            options=options,
            splits=self._stretches,
        )
        atomic_files.write_bytes(destination / RECORD, (json.dumps(asdict(record), indent=1) + "\n").encode())
        return {}


def part_folders(root: Path) -> list[Path]:
    """Those of all tasks that have begun, in their order; what is called otherwise is none."""
    return sorted(path for path in (root / PARTS).glob("*-of-*") if _FOLDER.fullmatch(path.name) and path.is_dir())


def task_of(folder: Path) -> Task:
    """Whose folder that is, one of ``part_folders``."""
    number, total = folder.name.split("-of-")
    return Task(int(number), int(total))


def _others(path: Path) -> str:
    return f"holds a part of another source or other options ({path.name})"


def read_record(folder: Path) -> PartRecord:
    """part.json of one task.

    Raises:
        UserError: it is damaged, or of another version.
    """
    path = folder / RECORD
    try:
        record = foreign_json.read(path, PartRecord)
    except (OSError, foreign_json.ForeignJsonError) as error:
        why = error.why if isinstance(error, foreign_json.ForeignJsonError) else error.strerror
        raise UserError(f"{path}: unreadable ({why}); pack that task again: rm -r {folder}") from error
    if record.format != FORMAT:
        raise UserError(f"{path}: format {record.format[:40]!r} is not {FORMAT!r}; pack the parts again")
    if task_of(folder) != (record.number, record.count):
        raise UserError(f"{path}: is of task {record.number}/{record.count}, copied here; delete it: rm -r {folder}")
    sizes = [record.options.get(name) for name in ("max_samples", "max_bytes")]
    what = "names no split" if not record.splits else "says no max_samples or max_bytes"
    if odd := record.splits.keys() - {"", *SPLITS}:
        what = f"has a split {min(odd)[:40]!r}, which is none"
    if odd or not record.splits or not all(type(size) is int and size > 0 for size in sizes):
        raise UserError(f"{path}: {what}; pack that task again: rm -r {folder}")
    return record


def table_stem(folder: Path, split: str, number: int) -> Path:
    """Where a task keeps what is known of one of its shards, without suffix."""
    return folder / TABLES / f"{split or 'all'}-{number:06d}"


def sample_begins(idx: Path) -> np.ndarray:
    """Where each sample of a tar begins, and behind them where the last one ends: (num_samples + 1,) uint64, bytes."""
    begins, end = [], 0
    for line in idx.read_text().splitlines()[1:]:
        words = line.split(" ")
        begins.append(int(words[1]) - BLOCK)
        end = int(words[-3]) + padded(int(words[-2]))
    return np.array([*begins, end], np.uint64)


def padded(size: int) -> int:
    """What a file of so many bytes takes in a tar, without its header."""
    return -(-size // BLOCK) * BLOCK


def shard_cuts(sizes: np.ndarray, max_samples: int, max_bytes: int) -> list[int]:
    """Where a new shard begins: ``ShardWriter.has_room`` for all samples at once.

    Args:
        sizes: (num_samples,), bytes that each takes in its tar.
        max_samples: of one tar.
        max_bytes: of one tar; a larger sample stands alone.

    Returns:
        The first sample of each shard, and the number of samples.
    """
    ends = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    cuts = [0]
    while cuts[-1] < len(sizes):
        fitting = int(np.searchsorted(ends, ends[cuts[-1]] + max_bytes - RECORDSIZE, side="right")) - 1
        cuts.append(min(max(fitting, cuts[-1] + 1), cuts[-1] + max_samples, len(sizes)))
    return cuts


def predicted_cuts(order: Sequence[Item], options: dict[str, Any]) -> list[int]:
    """The shards' first positions if every image is stored as it is; of images that are shrunk, as if all were small.

    Args:
        order: the items of a split, shuffled.
        options: of packing.
    """
    sizes = np.zeros(len(order), np.int64)
    if options["resize"] is None:
        sizes = np.fromiter((_predicted_size(item) for item in order), np.int64, len(order))
    return shard_cuts(sizes, options["max_samples"], options["max_bytes"])


def _predicted_size(item: Item) -> int:
    beside = [place.size for _, place in item.members] + ([item.mask.size] if item.mask else [])
    notes = len(json.dumps({"source": item.name}))
    labels = [len(str(item.label))] if item.label >= 0 else []
    return sum(BLOCK + padded(max(size, 0)) for size in (item.size, notes, *labels, *beside))


def stretches(cuts: list[int], num_items: int, count: int) -> list[int]:
    """Where the stretches of ``count`` tasks begin, and the number of items: equally long, as far as shards allow.

    Args:
        cuts: the shards' first positions, and the number of items.
        num_items: of the split.
        count: tasks.
    """
    bounds = [num_items * number // count for number in range(count + 1)]
    if len(cuts) - 1 < ALIGNED * count:
        return bounds
    shards = np.array(cuts)
    return [int(shards[np.argmin(np.abs(shards - bound))]) for bound in bounds]
