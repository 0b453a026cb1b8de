"""What packing costs an image: the checks and the tar as they are, against obvious ones that give the same, in one run.

    OMP_NUM_THREADS=1 python benchmarks/packing.py --data ../shared/data

CPU microseconds an image of real photographs (caltech10-images.tar), the least of interleaved rounds, in one process.
The obvious ones: markers by a regular expression, a second reading of the header, sums by whole numbers from the
histogram, WebDataset's TarWriter. Verdicts, sums, markers and tars are compared before anything is timed. ``--items``
also measures the memory of that many synthetic items, listed, sorted and shuffled.
"""

import argparse
import hashlib
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results import write_results
from webdataset import TarWriter

from eyespot.data_pipeline.shards import image_check
from eyespot.data_pipeline.shards.header_check import header_sizes
from eyespot.data_pipeline.shards.image_check import Examined, examine, opened
from eyespot.data_pipeline.shards.members.items import Item
from eyespot.data_pipeline.shards.shard_writer import ShardWriter

ROUNDS = 5
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
MEMORY = """
import sys
import numpy as np, pyarrow.compute
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.found_files import FoundFile, FoundFiles, in_splits
from eyespot.data_pipeline.shards.members.items import Item, shuffled, taken
from eyespot.data_pipeline.shards.members.skipped import Tally
count, columns = int(sys.argv[1]), sys.argv[2] == "columns"
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024  # of this program alone
before = peak()
names = (f"class{number % 1000:04d}/image{number:09d}.jpg" for number in range(count))
found = FoundFiles("/data") if columns else []
for name in names:
    found.append(FoundFile(name, tuple(name.split("/")), Place(f"/data/{name}", 0, 1)))
if columns:
    items = in_splits(found, [""] * count, np.zeros(count, np.int32), Tally())[""]
else:
    items = [Item(file.name, 0, *file.place) for file in sorted(found)]
order = taken(items, shuffled(count, 0, "pack/"))
print((peak() - before) / count)
"""


def walk(data: bytes) -> tuple[int | None, int]:
    position, frame = 2, 0
    while match := _MARKER.search(data, position):
        marker = match[1][0]
        if marker == 0xD9:
            return match.start(), frame
        if marker in {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}:
            frame = marker
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    return None, frame


def sums(image: Any) -> tuple[list[int], list[int]]:
    histogram = np.array(image.histogram(), np.int64).reshape(-1, 256)
    values = np.arange(256, dtype=np.int64)
    first, second = (histogram @ values).tolist(), (histogram @ values**2).tolist()
    return (first * 3, second * 3) if len(first) == 1 else (first, second)


def obvious(data: bytes) -> tuple[int, int, list[int], list[int]]:
    """The checks of a JPEG that is kept: whole to its last row, its size, its sums."""
    opened(data)
    end, _ = walk(data)
    assert end is not None
    image = opened(data[:end] + b"\xff\x00" * 8)
    image.load()
    image_check.exif_orientation(image)
    return (image.height, image.width, *sums(image))


def ours(data: bytes) -> tuple[int, int, list[int], list[int]]:
    seen = examine(data)
    assert seen.kind is None
    return seen.height, seen.width, list(seen.sums), list(seen.squares)


def write_theirs(folder: Path, images: Sequence[Examined]) -> str:
    """A tar as WebDataset writes it, and its digest."""
    digest = hashlib.sha256()
    path = folder / "theirs.tar"
    with path.open("wb") as file:

        class Both:
            def write(self, data: bytes) -> int:
                digest.update(data)
                return file.write(data)

        stream: Any = Both()
        tar = TarWriter(stream, user="", group="", encoder=False, mtime=0, format=tarfile.USTAR_FORMAT)
        for number, image in enumerate(images):
            notes = f'{{"source": "a/{number}.jpg"}}'.encode()
            tar.write({"__key__": f"{number:08d}", "cls": b"1", "jpg": image.data, "json": notes})
        tar.close()
    return digest.hexdigest()


def write_ours(folder: Path, images: Sequence[Examined]) -> str:
    writer = ShardWriter(folder, 0, 0)
    for number, image in enumerate(images):
        item = Item(f"a/{number}.jpg", 1, "", 0, 1)
        writer.has_room(image, item, 10**9, 10**12)
        writer.add(image, item)
    return writer.close()[0].sha256


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def least(works: dict[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Microseconds of CPU for each of ``count`` images, the least of interleaved rounds."""
    found = dict.fromkeys(works, float("inf"))
    for _ in range(ROUNDS):
        for name, work in works.items():
            begin = cpu()
            work()
            found[name] = min(found[name], (cpu() - begin) / count * 1e6)
    return found


def memory(count: int, how: str) -> float:
    words = [sys.executable, "-c", MEMORY, str(count), how]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--items", type=int, default=0)
    asked = parser.parse_args()
    with tarfile.open(asked.data / "caltech10-images.tar") as archive:
        members = [member for member in archive if member.name.endswith(".jpg")][: asked.images]
        data = [archive.extractfile(member).read() for member in members]  # pyright: ignore[reportOptionalMemberAccess]
    assert [ours(one) for one in data] == [obvious(one) for one in data]
    assert [image_check._walk_jpeg(one) for one in data] == [walk(one) for one in data]
    images = [examine(one) for one in data]
    decoded = [opened(one) for one in data[:200]]
    for image in decoded:
        image.load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert write_ours(folder, images) == write_theirs(folder, images)
        whole = {
            "checks, obvious": lambda: [obvious(one) for one in data],
            "checks": lambda: [ours(one) for one in data],
            "markers, obvious": lambda: [walk(one) for one in data],
            "markers": lambda: [image_check._walk_jpeg(one) for one in data],
            "decoding alone (PIL)": lambda: [opened(one).load() for one in data],
            "DALI reads the header": lambda: [header_sizes(data[n : n + 32]) for n in range(0, len(data), 32)],
            "tar, obvious": lambda: write_theirs(folder, images),
            "tar, index and digest": lambda: write_ours(folder, images),
        }
        costs = least(whole, len(data))
        costs |= least({"sums, obvious": lambda: [sums(image) for image in decoded]}, len(decoded))
        measure = image_check._measure
        few = list(zip(data, decoded, strict=False))
        costs |= least({"sums": lambda: [measure(one, image, "jpg", False) for one, image in few]}, len(few))
    pairs = [("checks", "checks, obvious"), ("markers", "markers, obvious"), ("sums", "sums, obvious")]
    pairs += [("tar, index and digest", "tar, obvious")]
    rows = [
        [name, f"{costs[name]:.0f}", f"{costs[other]:.0f}", f"{costs[other] / costs[name]:.2f}"]
        for name, other in pairs
    ]
    rows += [[name, f"{costs[name]:.0f}", "", ""] for name in ("decoding alone (PIL)", "DALI reads the header")]
    total = costs["checks"] + costs["DALI reads the header"] + costs["tar, index and digest"]
    before = costs["checks, obvious"] + costs["DALI reads the header"] + costs["tar, obvious"]
    rows.append(["all of an image", f"{total:.0f}", f"{before:.0f}", f"{before / total:.2f}"])
    if asked.items:
        new, old = (memory(asked.items, how) for how in ("columns", "tuples"))
        rows.append([f"bytes an item, {asked.items:,} of them", f"{new:.0f}", f"{old:.0f}", f"{old / new:.2f}"])
    size = sum(map(len, data)) / len(data) / 1000
    write_results(
        "packing",
        title=f"Packing: CPU microseconds an image, {len(data):,} photographs of {size:.1f} KB, one process",
        header=["what", "eyespot", "obvious", "ratio"],
        rows=rows,
        details={"microseconds": costs},
    )


if __name__ == "__main__":
    main()
