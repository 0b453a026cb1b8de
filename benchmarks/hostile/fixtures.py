"""What is sound before it is spoilt: photographs as shards, a run on them, its results, a release; made once."""

import shutil
from pathlib import Path

import numpy as np
from hostile.case import SMALL
from hostile.forked import run
from PIL import Image

CLASSES = ("boat", "cup", "lamp", "tree")


def picture(rng: np.random.Generator, height: int = 40, width: int = 48) -> Image.Image:
    """Something that compresses as photographs do: a few soft blobs."""
    small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def photo_folder(folder: Path, rng: np.random.Generator, of_class: int = 16) -> None:
    """FOLDER/<class>/<number>.jpg."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(of_class):
            picture(rng).save(folder / name / f"{number:03d}.jpg")


def make_fixtures(folder: Path) -> Path:
    """Writes ``shards`` (train, test), ``run``, ``release``, ``results`` and ``encoder.safetensors`` into a new folder.

    Raises:
        RuntimeError: a command failed on sound input.
    """
    from safetensors.torch import save_file

    from eyespot.pretrain.checkpoints.folders import newest
    from eyespot.pretrain.checkpoints.reader import read_encoder

    folder.mkdir()
    photo_folder(folder / "photos", np.random.default_rng(0))
    train = ["pretrain", "mae_tiny", "--data.shards", "shards", *SMALL, "--run-dir", "run"]
    train += ["--save-every", "2", "--steps", "6", "--stop-after", "3"]
    for words in (
        ["shards", "pack", "photos", "shards", "--holdout", "0.25", "--workers", "1"],
        train,
        ["eval", "knn", "run", "shards"],
        ["release", "run", "--license", "apache-2.0", "--allow-dirty", "--out", "release"],
    ):
        ended = run(words, folder, 300, 4000)
        if ended.code not in (0, 75):
            raise RuntimeError(f"eyespot {' '.join(words)}: {ended.code}\n{(ended.out + ended.err).decode()}")
    shutil.rmtree(folder / "run" / "eval" / "features")
    checkpoint = newest(folder / "run")
    assert checkpoint is not None
    save_file(read_encoder(checkpoint), str(folder / "encoder.safetensors"))
    return folder
