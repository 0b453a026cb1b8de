"""Perceptual hashes: what a picture looks like in 64 bits, whatever file it is in.

The image is shrunk to 32 x 32 gray pixels and transformed by a discrete cosine transform; of the 8 x 8 lowest
frequencies beside the constant ones each bit says whether it is above their median (Zauner 2010, "Implementation and
benchmarking of perceptual image hash functions", section 3.2.1). Re-encoding and resizing change few bits. Mirroring
changes the sign of every second column of frequencies: so each image has a second hash, of its mirror image.

Beside the hash a thumbnail of 16 x 16 colours is kept, which has the last word: different pictures of one layout share
hashes. A picture without contrast has no hash that says anything, and is left to the other comparisons.

    CACHE/pictures-<key>/hash.npy (2 of 64 bits), thumb.npy (768 bytes), flat.npy, row = sample id
"""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8, UInt64
from PIL import Image
from scipy.fft import dctn

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.cpu_share import cpu_share
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.search.row_file import DONE, RowFile, reserve
from eyespot.pretrain.distributed.collectives import agreed, any_rank, barrier
from eyespot.pretrain.distributed.process_group import World

FORMAT = "eyespot-pictures/1"
SIDE, THUMB = 32, 16
FLAT = 4.0
"""Standard deviation of the gray pixels, 0..255, below which a picture has no contrast."""
AT_ONCE = 256
"""Images that are read and decoded at once."""
COLUMNS = {
    "hash": (np.dtype("<u8"), 2),
    "thumb": (np.dtype(np.uint8), 3 * THUMB * THUMB),
    "flat": (np.dtype(np.uint8), 1),
}


@dataclass(kw_only=True, slots=True)
class PictureHashes:
    """Of the chosen samples of one shard folder."""

    hashes: UInt64[np.ndarray, "n 2"]
    """Of the picture, and of its mirror image."""
    flat: Bool[np.ndarray, " n"]
    """It has no contrast: its hash says nothing."""
    thumbs: RowFile
    """Of all samples."""
    ids: Int[np.ndarray, " n"]

    def correlation(
        self, places: Int[np.ndarray, " p"], other: "PictureHashes", others: Int[np.ndarray, " p"], *, mirrored: bool
    ) -> Float32[np.ndarray, " p"]:
        """How alike pairs of thumbnails are: correlation of all their values, -1..1."""
        left, right = self._thumbs(places), other._thumbs(others)
        if mirrored:
            right = right[:, :, ::-1]
        left, right = (
            _standardised(each.reshape(len(each), 3 * THUMB**2).astype(np.float32)) for each in (left, right)
        )
        return (left * right).sum(1)

    def _thumbs(self, places: Int[np.ndarray, " p"]) -> UInt8[np.ndarray, "p 16 16 3"]:
        ids, where = np.unique(self.ids[places], return_inverse=True)
        return self.thumbs.take(ids)[where].reshape(len(where), THUMB, THUMB, 3)


def _standardised(values: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    values = values - values.mean(1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def picture_hashes(shards: ShardFolder, ids: Int[np.ndarray, " n"], cache: Path, world: World) -> PictureHashes:
    """Those of some samples. Images are decoded once; an interrupted call goes on where it was.

    Args:
        shards: whose.
        ids: which samples.
        cache: folder that keeps them, shared by all ranks.
        world: this process; each rank takes its share.

    Raises:
        UserError: a sample is damaged, or the cache cannot be written.
    """
    key = hashlib.sha256(f"{FORMAT}\n{shards.manifest_sha256}".encode()).hexdigest()[:16]
    folder, count = cache / f"pictures-{key}", shards.manifest.num_samples
    with agreed():
        if world.rank == 0:
            try:
                cache.mkdir(parents=True, exist_ok=True)
                reserve(folder, COLUMNS, count)
            except OSError as error:
                raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --cache") from error
    with agreed():
        files = {name: RowFile(folder / f"{name}.npy", writes=True) for name in (*COLUMNS, DONE)}
    known = files[DONE].read(0, count)[:, 0] == 1
    barrier()  # before anybody writes
    if any_rank([not known[ids].all()])[0]:
        with agreed():
            _look(shards, ids[~known[ids]], files, world)
        barrier()
    order = np.sort(ids)
    found = {name: files[name].take(order)[np.searchsorted(order, ids)] for name in ("hash", "flat")}
    return PictureHashes(hashes=found["hash"], flat=found["flat"][:, 0] == 1, thumbs=files["thumb"], ids=ids)


def _look(shards: ShardFolder, ids: Int[np.ndarray, " n"], files: dict[str, RowFile], world: World) -> None:
    own = np.sort(ids)[len(ids) * world.rank // world.size : len(ids) * (world.rank + 1) // world.size]
    with (
        closing(Reader(shards, substitute=False)) as reader,
        ThreadPoolExecutor(cpu_share()) as pool,
        ProgressBar("pictures", len(own), transient=True, shown=world.rank == 0) as bar,
    ):
        parts = [own[start : start + AT_ONCE] for start in range(0, len(own), AT_ONCE)]
        ahead = [reader.start(part) for part in parts[:1]]
        for number, part in enumerate(parts):
            _, contents = ahead.pop().result()
            ahead += [reader.start(following) for following in parts[number + 1 : number + 2]]
            images = list(pool.map(_shrunk, contents))
            for sample, image in zip(part.tolist(), images, strict=True):
                if image is None:
                    raise UserError(f"{reader.describe(sample)}: cannot be decoded; leave it out with --ids")
            hashes, flat, thumbs = hashed(np.stack([image for image in images if image is not None]))
            for name, rows in (("hash", hashes), ("flat", flat[:, None]), ("thumb", thumbs)):
                files[name].write(part, rows)
            files[DONE].write(part, np.ones((len(part), 1), np.uint8))
            bar.advance(len(part))


def _shrunk(content: bytes | bytearray) -> UInt8[np.ndarray, "32 32 3"] | None:
    """The picture at 32 x 32 pixels, squashed; None where it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            image.draft("RGB", (4 * SIDE, 4 * SIDE))  # a JPEG at an eighth of its size costs a fraction
            small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            return np.asarray(small)  # as it lies: the loader does not turn by EXIF either
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def hashed(
    images: UInt8[np.ndarray, "n 32 32 3"],
) -> tuple[UInt64[np.ndarray, "n 2"], Bool[np.ndarray, " n"], UInt8[np.ndarray, "n 768"]]:
    """Hash and mirror image's hash, whether it is flat, and the thumbnail, of each image."""
    gray: Float[np.ndarray, "n 32 32"] = images @ np.array([0.299, 0.587, 0.114])
    waves = np.asarray(dctn(gray, axes=(1, 2), norm="ortho"))[:, 1:9, 1:9]
    mirror = waves * np.where(np.arange(1, 9) % 2, -1.0, 1.0)
    hashes = np.stack([_bits(each.reshape(len(each), -1)) for each in (waves, mirror)], 1)
    small = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    thumbs = torch.nn.functional.avg_pool2d(small, SIDE // THUMB).round().byte().permute(0, 2, 3, 1)
    return hashes, gray.std((1, 2)) < FLAT, thumbs.reshape(len(images), -1).numpy()


def _bits(values: Float[np.ndarray, "n 64"]) -> UInt64[np.ndarray, " n"]:
    bits = values > np.median(values, axis=1, keepdims=True)
    return np.packbits(bits, axis=1, bitorder="little").view("<u8")[:, 0]
