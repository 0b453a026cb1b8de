"""What a reader of a foreign table finds: images by name and place, their labels and captions, and what it left out.

Readers run in a process of their own (apart.py). Bytes that lie whole in the table's file are named where they lie;
others, compressed ones for instance, by their rows, and are fetched while they are packed (fetching.py). Captions are
written one behind another into one file of the spool folder.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.captions import LARGEST_TEXT
from eyespot.data_pipeline.shards.members.found_files import TEXT, FoundFile, FoundFiles, parts_of
from eyespot.data_pipeline.shards.members.samples import LONGEST_LABEL
from eyespot.data_pipeline.shards.members.skipped import Tally

GROWTH = 100
"""Times the bytes of its file that the images of a table may have: more is a bomb."""
ROOM = 2**28
"""Bytes beyond that."""


class Job(NamedTuple):
    """A file to be read."""

    path: str
    shown: str
    """What it is called inside of the source."""
    spool: str
    """A file to write to; it may not be there yet."""
    columns: dict[str, str]
    """As ``columns.parse_columns`` gives them."""
    listing: str = ""
    """Where other tasks may have written down what it holds, or may read that; none = nobody does (listings.py)."""


@dataclass(kw_only=True, slots=True)
class Found:
    """What stood in one file."""

    files: FoundFiles = field(default_factory=FoundFiles)
    classes: tuple[str, ...] = ()
    """Where the table names them; the texts of labels are then their numbers."""
    skipped: Tally = field(default_factory=Tally)
    problem: str = ""
    """Why it cannot be read, one line."""


class Shared(NamedTuple):
    """What the tasks of one pack tell each other of their source."""

    folder: Path
    """Where what they found in tables is written down; need not be there yet."""
    turn: float
    """Of 0..1, where in the list of tables a task begins."""


class NotReadable(Exception):
    """The file cannot be read, or not as what it should be. One line, without the file's name."""


class Spool:
    """Takes the images and captions of one table.

    Args:
        job: which.
        found: what they are added to.
    """

    def __init__(self, job: Job, found: Found) -> None:
        self._job, self._found, self._end, self._total = job, found, 0, 0
        self._size = os.stat(job.path).st_size  # noqa: PTH116
        self._file: Any = None

    def add(self, name: str, image: Any, *, label: str | None = None, captions: list[str] | None = None) -> None:
        """One image.

        Args:
            name: inside of the table.
            image: where it lies; or its bytes, which are then written into the spool.
            label: its text.
            captions: a line each.

        Raises:
            NotReadable: that is more than such a file can hold.
        """
        if len(self._found.files) >= self._size:
            raise NotReadable(f"has more rows than bytes ({self._size:,}); it was made to fill memories")
        at = self._known(image) if isinstance(image, Place) else self._written(image)
        if label is not None and len(label) > LONGEST_LABEL:
            self._found.skipped.add(f"a label of more than {LONGEST_LABEL:,} characters (the image is taken)", name)
            label = None
        lines = [line for text in captions or () if (line := " ".join(text.splitlines()).strip())]
        if captions is not None and not lines:
            self._found.skipped.add("an empty caption (the image is taken)", name)
        beside = ()
        if lines:
            text = "".join(f"{line}\n" for line in lines)[: LARGEST_TEXT + 1].encode("utf-8", "surrogatepass")
            beside = ((TEXT, self._written(text)),)
        name = f"{self._job.shown}/{name}"
        self._found.files.append(FoundFile(name, parts_of(name), at, label, members=beside))

    def _known(self, place: Place) -> Place:
        self._count(place.size)
        return place

    def _count(self, size: int) -> None:
        if self._total + size > GROWTH * self._size + ROOM:
            raise NotReadable(f"its images take more than {GROWTH} times its {self._size:,} bytes: a bomb")
        self._total += size

    def _written(self, data: Any) -> Place:
        if self._file is None:
            self._file = open(self._job.spool, "wb", buffering=1 << 20)  # noqa: PTH123, SIM115
        begin, size = self._end, len(data)
        self._count(size)
        self._file.write(data)
        self._end += size
        return Place(self._job.spool, begin, size)

    def close(self) -> None:
        """Writes what is still buffered."""
        if self._file is not None:
            self._file.close()

    def skip(self, reason: str, name: str) -> None:
        """Counts a row that is no sample."""
        self._found.skipped.add(reason, f"{self._job.shown}/{name}")


def spool_file(spool: Path, number: int) -> str:
    """Where the images of the table of that number go."""
    return str(spool / f"table-{number:06d}.raw")


def listing_file(shared: Shared | None, number: int) -> str:
    """Where what the table of that number holds is written down for other tasks; empty = there are none."""
    return str(shared.folder / f"table-{number:06d}.arrow") if shared else ""
