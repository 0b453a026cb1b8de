"""Makes data_pipeline/shards/caltech10.tar.gz, the photographs of the quickstart, from ten classes of Caltech-101.

    python benchmarks/make_caltech10.py caltech10-images.tar

The archive holds <class>/image_NNNN.jpg, as Caltech-101 has them (Li, Andreeto, Ranzato, Perona 2022, CaltechDATA,
doi:10.22002/D1.20086, CC BY 4.0). Of each class at most 450 are kept, none of which looks like another one (difference
hash of 16 x 16 bits, 20 of them or fewer differ); 30 % of each class, drawn by seed 0, become test/, the others train/.
Each is shrunk to 72 pixels along its short side, and all are written in one order without times, so the same Pillow
makes the same file.
"""

import argparse
import gzip
import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from eyespot.data_pipeline.shards.members.items import shuffled
from eyespot.data_pipeline.shards.sources import CALTECH10

SIDE, QUALITY = 72, 85
MOST_OF_A_CLASS, TEST_SHARE, SEED = 450, 0.3, 0
HASH_SIDE, ALIKE_BITS = 16, 20


def looks_like(image: Image.Image) -> Bool[np.ndarray, " bits"]:
    """Where the image becomes brighter to the right, on a grid: nearly the same for nearly the same picture."""
    gray = np.asarray(image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
    return (gray[:, 1:] > gray[:, :-1]).ravel()


def read_classes(archive: Path) -> dict[str, list[tuple[str, Image.Image]]]:
    """The photographs by class, sorted by name."""
    classes: dict[str, list[tuple[str, Image.Image]]] = {}
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            if member.isfile() and (file := tar.extractfile(member)) is not None:
                image = Image.open(io.BytesIO(file.read()))
                image.load()
                classes.setdefault(Path(member.name).parent.name, []).append((Path(member.name).name, image))
    return classes


def different_ones(images: list[tuple[str, Image.Image]]) -> list[tuple[str, Image.Image]]:
    """Those that look like none before them."""
    kept: list[tuple[str, Image.Image]] = []
    seen: list[Bool[np.ndarray, " bits"]] = []
    for name, image in images:
        bits = looks_like(image)
        if all(np.count_nonzero(bits != other) > ALIKE_BITS for other in seen):
            kept.append((name, image))
            seen.append(bits)
    return kept


def small_jpeg(image: Image.Image) -> bytes:
    """A JPEG whose short side has SIDE pixels."""
    scale = SIDE / min(image.size)
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    with io.BytesIO() as file:
        small.save(file, format="JPEG", quality=QUALITY, optimize=True)
        return file.getvalue()


def chosen(archive: Path) -> dict[str, bytes]:
    """Members of the tar to be: split/class/name and its bytes."""
    members: dict[str, bytes] = {}
    for name, images in read_classes(archive).items():
        kept = different_ones(images)
        drawn = [kept[place] for place in shuffled(len(kept), SEED, f"caltech10 {name}")[:MOST_OF_A_CLASS]]
        num_test = round(len(drawn) * TEST_SHARE)
        for place, (file, image) in enumerate(drawn):
            members[f"{'test' if place < num_test else 'train'}/{name}/{file}"] = small_jpeg(image)
    return dict(sorted(members.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="ten classes of Caltech-101: <class>/image_NNNN.jpg")
    parser.add_argument("--out", type=Path, default=CALTECH10)
    options = parser.parse_args()
    members = chosen(options.archive)
    with (
        options.out.open("wb") as file,
        gzip.GzipFile("", "wb", mtime=0, fileobj=file) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    counts = Counter(str(Path(name).parent) for name in members)
    print("\n".join(f"{count:>5}  {folder}" for folder, count in counts.items()))
    print(f"{len(members)} photographs, {options.out.stat().st_size:,} bytes: {options.out}")


if __name__ == "__main__":
    main()
