"""Photographs with copies planted among them, as shards; which copy is of which image is told by the files' bytes."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def scene(seed: int, side: int = 96) -> Image.Image:
    """Smooth random colours with a few discs, so that no two look alike."""
    rng = np.random.default_rng(seed)
    field = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC)
    pixels, (y, x) = np.asarray(field).copy(), np.mgrid[:side, :side]
    for _ in range(4):
        cy, cx, radius = (int(rng.integers(*ends)) for ends in ((0, side), (0, side), (side // 12, side // 4)))
        pixels[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def coded(image: Image.Image, kind: str = "JPEG", quality: int = 92) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": quality} if kind == "JPEG" else {}))
    return stream.getvalue()


CHANGES = {
    "same": lambda content: content,
    "jpeg": lambda content: coded(opened(content), quality=40),
    "smaller": lambda content: coded(opened(content).resize((60, 60), Image.BICUBIC), "PNG"),
    "mirrored": lambda content: coded(ImageOps.mirror(opened(content)), "PNG"),
}


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))


def pack_scenes(folder: Path, numbers: range, copied: dict[str, range]) -> ShardFolder:
    """Packs scenes of these numbers; and of some, by kind of change, a copy.

    Args:
        folder: gets images/ and shards/.
        numbers: of the scenes.
        copied: by change, of which scenes.
    """
    (folder / "images").mkdir(parents=True)
    for number in numbers:
        (folder / "images" / f"{number:04d}.jpg").write_bytes(coded(scene(number)))
    for change, those in copied.items():
        for number in those:
            content = CHANGES[change](coded(scene(number)))
            ending = ".jpg" if content[:2] == b"\xff\xd8" else ".png"
            (folder / "images" / f"{change}-{number:04d}{ending}").write_bytes(content)
    pack(str(folder / "images"), folder / "shards", workers=1)
    return ShardFolder.find(folder / "shards")


def samples(shards: ShardFolder) -> dict[bytes, list[int]]:
    """Ids by the bytes of their file."""
    found: dict[bytes, list[int]] = {}
    for sample, row in enumerate(shards.index):
        with shards.tar_path(int(row["tar"])).open("rb") as file:
            file.seek(int(row["offset"]))
            found.setdefault(file.read(int(row["size"])), []).append(sample)
    return found


def names(shards: ShardFolder, folder: Path) -> dict[str, int]:
    """Of the images that ``pack_scenes`` wrote, the sample each became; of files with the same bytes any."""
    by_bytes = {content: list(ids) for content, ids in samples(shards).items()}
    return {path.stem: by_bytes[path.read_bytes()].pop(0) for path in sorted((folder / "images").iterdir())}
