"""Pictures drawn on the fly: noise, and patches of stripes on noise with segmentation masks."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from eyespot.data_pipeline.shards.shard_folder import ShardFolder

GROUND, UPRIGHT, LYING, IGNORED = 0, 1, 2, 255


def levels(*shape: int, below: int = 256) -> np.ndarray:
    """Random bytes below a number; they follow from the test's seed."""
    return torch.randint(below, shape, dtype=torch.uint8).numpy()


def draw_striped(root: Path, num_images: int, *, size: int = 32, seed: int = 0) -> tuple[Path, Path]:
    """Writes ``root/images/*.png`` and ``root/masks/*.png``; returns both folders.

    On gray noise lie a rectangle of upright and one of lying stripes, of random place, size and phase, each with a
    rim of ignored pixels. The mean of a pixel says nothing about its class.
    """
    generator = np.random.default_rng(seed)
    images, masks = root / "images", root / "masks"
    for folder in (images, masks):
        folder.mkdir(parents=True)
    for number in range(num_images):
        pixels = generator.normal(0, 20, (size, size))
        mask = np.full((size, size), GROUND, np.uint8)
        for kind in (UPRIGHT, LYING):
            height, width = generator.integers(size // 3, size // 2 + 1, 2)
            top, left = (int(generator.integers(0, size - side + 1)) for side in (height, width))
            wave = 80 * np.sin(np.pi / 2 * np.arange(size) + generator.uniform(0, 2 * np.pi))
            inside = np.s_[top : top + height, left : left + width]
            stripes = np.broadcast_to(wave if kind == UPRIGHT else wave[:, None], (size, size))
            mask[inside], pixels[inside] = IGNORED, stripes[inside]
            mask[top + 1 : top + height - 1, left + 1 : left + width - 1] = kind
        Image.fromarray((128 + pixels).clip(0, 255).astype(np.uint8)).convert("RGB").save(images / f"{number}.png")
        Image.fromarray(mask).save(masks / f"{number}.png")
    return images, masks


def stored_samples(folder: Path) -> dict[str, tuple[np.ndarray, bytes]]:
    """Image and mask of each sample by its source, read with Python's tarfile."""
    found = {}
    for shard in ShardFolder(folder).manifest.shards:
        with tarfile.open(folder / shard.tar) as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        for name in (name for name in files if name.endswith(".json")):
            key = name.removesuffix(".json")
            image = np.asarray(Image.open(io.BytesIO(files.get(f"{key}.png") or files[f"{key}.jpg"])))
            found[json.loads(files[name])["source"]] = image, files[f"{key}.seg.png"]
    return found
