"""Columns hold what lists of Python's tuples hold, in a fraction of the memory, and sort alike."""

import subprocess
import sys

import numpy as np
import pytest

from eyespot.data_pipeline.shards.members import found_files
from eyespot.data_pipeline.shards.members import items as items_of
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.found_files import FoundFile, FoundFiles, in_splits
from eyespot.data_pipeline.shards.members.items import Item, hold_out, shuffled, taken
from eyespot.data_pipeline.shards.members.skipped import Tally, printable

ODD = ["é/\n.jpg", "\udcff/x.jpg", "\ue000.jpg", "\U0001f415.jpg", "a//b/./c.jpg", "z", "", "./1.jpg"]


def some(seed: int, count: int = 300) -> list[FoundFile]:
    """Of many kinds, some names twice."""
    rng = np.random.default_rng(seed)
    files: list[FoundFile] = []
    for number in rng.integers(0, count // 2, count).tolist():
        name = ODD[number % len(ODD)] if number % 7 == 0 else f"c{number % 3}/{number}.jpg"
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        place = Place(["/data/" + name, "/a.tar", "/b.tar"][int(rng.integers(3))], int(rng.integers(99)), number)
        members = ((("txt", Place("/caps", number, number % 2)),), (("wav", place),), ())[number % 3]
        mask = Place("/mask", 0, -1) if number % 11 == 0 else None
        text, split = [None, "", "x"][number % 3], [None, "train"][number % 2]
        prefixed = f"t.tar/{name}" if number % 5 == 0 else name
        files.append(FoundFile(prefixed, parts, place, text, mask, split, None, members))
    return files


@pytest.mark.parametrize("seed", range(3))
def test_they_are_a_list(seed: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(found_files, "SORTED_AT_ONCE", 20 if seed else 1000)
    files = some(seed)
    found = FoundFiles("/data")
    found.extend(files)
    assert list(found) == files and found[3:6] == files[3:6] and len(found) == len(files)
    assert [list(found.column(name)) for name in ("text", "split", "parts")] == [
        [getattr(file, name) for file in files] for name in ("text", "split", "parts")
    ]
    expected = sorted(files, key=lambda file: (file.name, file.parts, file.place))
    assert [(files[row].name, files[row].place) for row in found.order()] == [(one.name, one.place) for one in expected]
    half = FoundFiles("/data")
    half.extend(files[:100])
    for piece in (files[100:120], [], files[120:]):
        other = FoundFiles("/data")
        other.extend(piece)
        half.join(other)
    assert list(half) == files


def test_items_are_those_of_a_sorted_list():
    files = [file for file in some(5) if not file.mask and all(name != "wav" for name, _ in file.members)]
    found, skipped = FoundFiles.of(files), Tally()
    labels, splits = np.arange(len(files), dtype=np.int32), [file.split for file in files]
    tables = in_splits(found, splits, labels, skipped)
    rows = sorted(range(len(files)), key=lambda row: (files[row].name, files[row].parts, files[row].place))
    expected = [
        Item(printable(files[row].name), row, *files[row].place, members=files[row].members)
        for row in rows
        if files[row].split
    ]
    assert list(tables) == ["train"] and list(tables["train"]) == expected and skipped.total == splits.count(None)
    order = shuffled(len(expected), 3, "x")
    assert list(taken(tables["train"], order)[5:50]) == [expected[row] for row in order[5:50]]
    assert [list(part) for part in hold_out(tables["train"], 0.3, 1)] == [*map(list, hold_out(expected, 0.3, 1))]


@pytest.mark.parametrize("at_once", [64, 1 << 16])
def test_the_shuffle_is_what_it_was(at_once: int, monkeypatch: pytest.MonkeyPatch):
    """Drawn and sorted in pieces or at once; and these ten, which shards that were packed long ago have."""
    from eyespot.data_pipeline.random_numbers import uniforms

    monkeypatch.setattr(items_of, "_AT_ONCE", at_once)

    for count in (0, 1, 10, 3000):
        draws = uniforms(7, np.zeros(count, np.int64), np.arange(count), "pack/train", 2)
        assert np.array_equal(shuffled(count, 7, "pack/train"), np.lexsort((draws[:, 1], draws[:, 0])))
    assert shuffled(10, 0, "pack/train").tolist() == PINNED


PINNED = [8, 9, 7, 2, 4, 1, 3, 6, 5, 0]

PROGRAM = """
import sys
import numpy as np
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.manifest import Reading
from eyespot.data_pipeline.shards.members.found_files import FoundFile, FoundFiles
from eyespot.data_pipeline.shards.members.items import shuffled, taken
from eyespot.data_pipeline.shards.members.skipped import Tally
from eyespot.data_pipeline.shards.sources import arrange
count = int(sys.argv[1])
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024  # of this program alone
before, found = peak(), FoundFiles("/data")
for number in range(count):
    name = f"class{number % 1000:04d}/image{number:09d}.jpg"
    found.append(FoundFile(name, tuple(name.split("/")), Place(f"/data/{name}", 0, 90_000 + number * 7919 % 40_000)))
listed = peak()
items = arrange("data", found, "source", Tally(), Reading()).splits[""]
order = taken(items, shuffled(count, 0, "pack/"))
assert sum(item.size for item in order[:1000]) > 0
print((listed - before) / count, (peak() - before) / count)
"""


def test_memory_of_an_item():
    """A list of items took 301 bytes each, and 600 while they were listed; some megabytes are taken once."""
    words = [sys.executable, "-c", PROGRAM, "300000"]
    listed, peak = map(float, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    assert 3 < listed < 30 and listed < peak < 200, (listed, peak)
