"""Small shards of images with captions, of which some have several and some none; and with sounds."""

import io
import tarfile
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from shapes import levels
from sklearn.datasets import load_digits

from eyespot.data_pipeline.shards.index_tars import index_folder
from eyespot.data_pipeline.shards.pack import pack

WORDS = ("cat", "dog", "bird", "fish", "tree", "house", "car", "boat", "“hat”", "猫")
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


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


def pack_named_digits(folder: Path, count: int = 128) -> Path:
    """The first of scikit-learn's digits as shards of one split, each with two captions that name it, its class's tone
    and a depth map: ink is near, and the corner was not measured."""
    bunch, source = load_digits(), folder / "source"
    for number, (image, label) in enumerate(zip(bunch.images[:count], bunch.target[:count], strict=True)):
        place = source / NAMES[label]
        place.mkdir(parents=True, exist_ok=True)
        shown = Image.fromarray((image * 15).astype(np.uint8)).resize((24, 24))
        shown.convert("RGB").save(place / f"{number:04d}.png")
        depth = 2000 - 4 * np.asarray(shown, np.uint16)
        depth[:3, :3] = 0
        Image.fromarray(depth).save(place / f"{number:04d}.depth.png")
        (place / f"{number:04d}.txt").write_text(f"a handwritten {NAMES[label]}\nthe digit {NAMES[label]}\n")
        tone = np.sin(2 * np.pi * (300 + 200 * label + number % 50) * np.arange(6000) / 8000) / 2
        soundfile.write(place / f"{number:04d}.wav", tone, 8000)
    pack(str(source), folder / "shards", workers=1)
    return folder / "shards"
