"""What packing costs an image: the checks and the tar as they are, against obvious ones that give the same, in one run.

    OMP_NUM_THREADS=1 python benchmarks/packing.py --data ../shared/data

CPU microseconds an image, the least of interleaved rounds, in one process: of real photographs
(caltech10-images.tar), and of the same ones enlarged to 500 pixels, with grain, to files of about half the size of
ImageNet's. The obvious ones are what packing did before it was made faster: markers by a regular expression, a second
reading of the header, sums by whole numbers from the histogram of every image, WebDataset's TarWriter. Verdicts, sums,
markers and tars are compared before anything is timed: also that each image is found to be the same whether its pixels
are summed, as in a folder of fewer than 200,000 images, or it is not among the one in 32 that are, as in a larger
one; and that the same is said of ``--damaged`` damaged copies. How far mean and deviation of such a sample lie from
those of all is measured on CIFAR-10's 50,000 training images. The memory is that of synthetic items, in a process of
its own each: those of a source that is packed (listed, sorted, shuffled; tuples are the obvious way), and those of tars
whose headers ``shards index`` and ``shards verify`` read.
"""

import argparse
import hashlib
import io
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from results import write_results
from webdataset import TarWriter

from eyespot.data_pipeline.shards import image_check
from eyespot.data_pipeline.shards.header_check import header_sizes
from eyespot.data_pipeline.shards.image_check import BadImage, Examined, examine, opened
from eyespot.data_pipeline.shards.members.items import Item
from eyespot.data_pipeline.shards.pixels.jpeg_scan import walk_jpeg
from eyespot.data_pipeline.shards.pixels.pixel_sums import ONE_IN, pixel_sums
from eyespot.data_pipeline.shards.shard_writer import ShardWriter

ROUNDS = 5
NEVER = 2**40  # one in so many is summed: none
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
MEMORY = """
import sys
import numpy as np
from eyespot.data_pipeline.shards.manifest import Reading
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.found_files import FoundFile, FoundFiles
from eyespot.data_pipeline.shards.members.items import Item, shuffled, taken
from eyespot.data_pipeline.shards.members.skipped import Tally
from eyespot.data_pipeline.shards.sources import arrange
count, columns = int(sys.argv[1]), sys.argv[2] == "columns"
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024  # of this program alone
before = peak()
names = (f"class{number % 1000:04d}/image{number:09d}.jpg" for number in range(count))
found = FoundFiles("/data") if columns else []
for name in names:
    size = 90_000 + hash(name) % 40_000
    found.append(FoundFile(name, tuple(name.split("/")), Place(f"/data/{name}", 0, size)))
if columns:
    items = arrange("data", found, "source", Tally(), Reading()).splits[""]
else:
    items = [Item(file.name, 0, *file.place) for file in sorted(found)]
order = taken(items, shuffled(count, 0, "pack/"))
print((peak() - before) / count)
"""

TARS = """
import sys, tempfile
from pathlib import Path
from eyespot.data_pipeline.shards.index_tars import read_contents
from eyespot.data_pipeline.shards.manifest import Reading
from eyespot.data_pipeline.shards.shard_writer import _header
count, of_one = int(sys.argv[1]), 10_000
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
with tempfile.TemporaryDirectory() as name:
    tars = [Path(name, f"{number:06d}.tar") for number in range(count // of_one)]
    for number, tar in enumerate(tars):
        with tar.open("wb") as file:
            for row in range(number * of_one, (number + 1) * of_one):
                for extension in ("cls", "jpg"):
                    file.write(_header(f"{row:09d}.{extension}", 1) + b"1" + bytes(511))
            file.write(bytes(1024))
    read_contents(tars[:1], Reading())  # what one tar takes for a while is not what is kept of each item
    before = peak()
    contents = read_contents(tars, Reading())
    assert len(contents.items) == count
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


def verdict(data: bytes, one_in: int) -> object:
    """All that packing says of an image, but its sums."""
    try:
        seen = examine(data, one_in=one_in)
    except BadImage as error:
        return str(error)
    return seen.kind, seen.height, seen.width, seen.crc32, seen.extension, seen.orientation, seen.data


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut, cut and closed, with a flipped bit, lost or new bytes, or a marker where none belongs."""
    bad, place = bytearray(data), int(rng.integers(2, len(data) - 2))
    change, length = rng.integers(6), int(rng.integers(1, 60))
    if change < 2:
        bad[place:] = b"\xff\xd9"[: 2 * change]
    elif change == 2:
        bad[place] ^= 1 << rng.integers(8)
    elif change < 5:
        bad[place : place + length * (change == 3)] = rng.bytes(length * (change == 4))
    else:
        bad[place : place + 2] = bytes([0xFF, int(rng.choice([0xD9, 0xD1, 0xDA, 0xC0, 0xC2, 0xC4, 0xDB, 0xDD, 0xE1]))])
    return bytes(bad)


def compare_damaged(data: Sequence[bytes], count: int) -> list[str]:
    """One row: how many damaged images were refused, and of how many the two ways say different things."""
    rng, refused, different = np.random.default_rng(0), 0, 0
    for number in range(count):
        bad = damaged(data[number % len(data)], rng)
        found = verdict(bad, 1)
        refused += isinstance(found, str)
        different += found != verdict(bad, NEVER)
    return [
        f"{count:,} damaged copies: refused, and of another verdict where not summed",
        f"{refused:,}",
        "",
        f"{different}",
    ]


def sample_rows(archive: Path) -> list[list[str]]:
    """How far the mean and the deviation of a sample lie from those of all, in levels of 255."""
    sums = list[tuple[int, int, tuple[int, ...], tuple[int, ...]]]()
    with tarfile.open(archive) as file:
        for member in file:
            if member.name.endswith((".png", ".jpg")) and "train" in member.name:
                data = file.extractfile(member).read()  # pyright: ignore[reportOptionalMemberAccess]
                image = opened(data)
                image.load()
                sums.append((zlib.crc32(data), image.width * image.height, *pixel_sums(image)))
    whole, sample = (moments([one for one in sums if one[0] % one_in == 0]) for one_in in (1, ONE_IN))
    apart = np.abs(whole - sample).max(1)
    rows = list[list[str]]()
    for name, value in zip(("mean", "deviation"), apart, strict=True):
        what = f"{len(sums):,} images of CIFAR-10: {name} of one in {ONE_IN} from that of all, levels of 255"
        rows.append([what, f"{value:.3f}", "", ""])
    return rows


def moments(sums: Sequence[tuple[int, int, tuple[int, ...], tuple[int, ...]]]) -> np.ndarray:
    """(2, 3): mean and deviation per channel."""
    pixels = sum(one[1] for one in sums)
    first, second = (np.sum([one[place] for one in sums], 0) / pixels for place in (2, 3))
    return np.array([first, np.sqrt(second - first**2)])


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
    """Bytes an item."""
    program = [TARS] if how == "tars" else [MEMORY]
    words = [sys.executable, "-c", *program, str(count), how]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def enlarged(data: bytes, number: int) -> bytes:
    """A photograph of 500 pixels, with the grain of a camera's."""
    image = opened(data).convert("RGB")
    scale = 500 / max(image.size)
    pixels = np.asarray(image.resize((round(image.width * scale), round(image.height * scale))), np.float32)
    grain = np.random.default_rng(number).normal(0, 10, (*pixels.shape[:2], 1))
    stream = io.BytesIO()
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=94)
    return stream.getvalue()


def costs_of(data: Sequence[bytes]) -> dict[str, float]:
    """Microseconds an image of each part, ours and the obvious one, which give the same."""
    assert [ours(one) for one in data] == [obvious(one) for one in data]
    assert [walk_jpeg(one) for one in data] == [walk(one) for one in data]
    assert [verdict(one, 1) for one in data] == [verdict(one, NEVER) for one in data]
    images = [examine(one) for one in data]
    decoded = [opened(one) for one in data[:200]]
    for image in decoded:
        image.load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert write_ours(folder, images) == write_theirs(folder, images)
        whole = {
            "checks, obvious": lambda: [obvious(one) for one in data],
            "checks": lambda: [examine(one, one_in=ONE_IN) for one in data],
            "checks, each summed": lambda: [ours(one) for one in data],
            "markers, obvious": lambda: [walk(one) for one in data],
            "markers": lambda: [walk_jpeg(one) for one in data],
            "decoding alone (PIL)": lambda: [opened(one).load() for one in data],
            "DALI reads the header": lambda: [header_sizes(data[n : n + 32]) for n in range(0, len(data), 32)],
            "tar, obvious": lambda: write_theirs(folder, images),
            "tar, index and digest": lambda: write_ours(folder, images),
        }
        costs = least(whole, len(data))
    costs |= least({"sums, obvious": lambda: [sums(image) for image in decoded]}, len(decoded))
    return costs | least({"sums": lambda: [pixel_sums(image) for image in decoded]}, len(decoded))


def rows_of(costs: dict[str, float], size: str) -> list[list[str]]:
    """The lines of one size of images."""
    pairs = [("checks", "checks, obvious"), ("checks, each summed", "checks, obvious")]
    pairs += [("markers", "markers, obvious"), ("sums", "sums, obvious")]
    pairs += [("tar, index and digest", "tar, obvious")]
    rows = [
        [f"{size}: {name}", f"{costs[name]:.0f}", f"{costs[other]:.0f}", f"{costs[other] / costs[name]:.2f}"]
        for name, other in pairs
    ]
    rows += [
        [f"{size}: {name}", f"{costs[name]:.0f}", "", ""] for name in ("decoding alone (PIL)", "DALI reads the header")
    ]
    beside = costs["DALI reads the header"]
    before = costs["checks, obvious"] + beside + costs["tar, obvious"]
    for name, checks in (("all of an image", "checks"), ("all of an image, each summed", "checks, each summed")):
        total = costs[checks] + beside + costs["tar, index and digest"]
        rows.append([f"{size}: {name}", f"{total:.0f}", f"{before:.0f}", f"{before / total:.2f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--damaged", type=int, default=5000)
    parser.add_argument("--items", type=int, nargs="*", default=[100_000, 1_000_000])
    asked = parser.parse_args()
    with tarfile.open(asked.data / "caltech10-images.tar") as archive:
        members = [member for member in archive if member.name.endswith(".jpg")][: asked.images]
        small = [archive.extractfile(member).read() for member in members]  # pyright: ignore[reportOptionalMemberAccess]
    large = [enlarged(one, number) for number, one in enumerate(small[::5])]
    rows, details = list[list[str]](), dict[str, dict[str, float]]()
    for data in (small, large):
        size = f"{sum(map(len, data)) / len(data) / 1000:.0f} KB"
        details[size] = costs_of(data)
        rows += rows_of(details[size], size)
    rows.append(compare_damaged(small, asked.damaged))
    rows += sample_rows(asked.data / "cifar10-images.tar.gz")
    for count in asked.items:
        new, old, tars = (memory(count, how) for how in ("columns", "tuples", "tars"))
        rows.append([f"bytes an item, {count:,} to pack", f"{new:.0f}", f"{old:.0f}", f"{old / new:.2f}"])
        rows.append([f"bytes an item, {count:,} to index or verify", f"{tars:.0f}", "", ""])
    write_results(
        "packing",
        title="Packing: CPU microseconds an image, by the size of its file, and bytes of memory an item; one process",
        header=["what", "eyespot", "obvious", "ratio"],
        rows=rows,
        details={"microseconds": details},
    )


if __name__ == "__main__":
    main()
