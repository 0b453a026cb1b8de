"""Small shards of images with captions, of which some have several and some none."""

import io
import tarfile
from pathlib import Path

from PIL import Image
from shapes import levels

from eyespot.data_pipeline.shards.index_tars import index_folder

WORDS = ("cat", "dog", "bird", "fish", "tree", "house", "car", "boat", "“hat”", "猫")


def captions(number: int) -> list[str]:
    """Those of a sample: one to four; sample 5 of 16 has none."""
    return (
        []
        if number == 5
        else [f"a {WORDS[(number + k) % 10]} {number} {'é🐈“x”' * k}".strip() for k in range(1 + number % 4)]
    )


def make_captioned(folder: Path, count: int = 32) -> Path:
    """Two tars of ``count`` images of 24 pixels, as img2dataset writes them, indexed where they lie."""
    folder.mkdir(parents=True)
    for tar in range(2):
        with tarfile.open(folder / f"{tar:05d}.tar", "w") as archive:
            for number in range(tar * count // 2, (tar + 1) * count // 2):
                stream = io.BytesIO()
                Image.fromarray(levels(24, 24, 3)).save(stream, "PNG")
                texts = "\n".join(captions(number)).encode()
                for name, data in {"png": stream.getvalue(), **({"txt": texts} if texts else {})}.items():
                    member = tarfile.TarInfo(f"{number:06d}.{name}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    index_folder(folder, workers=1)
    return folder
