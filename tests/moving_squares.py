"""Videos drawn on the fly: squares that move over noise, with masks of their frames."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from eyespot.data_pipeline.shards.members.footage import Footage
from eyespot.data_pipeline.shards.members.items import Item, Source
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

HEIGHT, WIDTH, SIDE, FRAMES = 48, 64, 16, 9


def draw_square(number: int, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask: a square of one colour goes three pixels a frame to the right, over noise that stays."""
    pixels = np.random.default_rng(number).integers(90, 150, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    top, left = (8 + 4 * number) % (HEIGHT - SIDE), 4 + 3 * frame
    mask[top : top + SIDE, left : left + SIDE] = 1
    pixels[mask == 1] = (230, 40 + 30 * number % 200, 20)
    return pixels, mask


def pack_squares(folder: Path, num_videos: int = 3, *, masks: bool = True, empty: Sequence[int] = ()) -> ShardFolder:
    """Clip shards of such videos; the last frame of each, and its fourth, have no mask; of some the first is empty."""
    items = []
    for number in range(num_videos):
        drawn = [draw_square(number, frame) for frame in range(FRAMES)]
        frames = [_file(pixels, quality=95) for pixels, _ in drawn]
        if number in empty:
            drawn[0][1][:] = 0
        known = [None if frame in (3, FRAMES - 1) else _file(mask) for frame, (_, mask) in enumerate(drawn)]
        film = Footage(rate=8.0, frames={"": frames}, masks={"": known} if masks else {})
        items.append(Item(f"square {number}", -1, "", 0, 0, frames=film))
    pack(lambda _: Source(name="squares", splits={"": items}), folder, workers=1)  # type: ignore[arg-type]
    return ShardFolder(folder)


def _file(pixels: np.ndarray, **options: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG" if pixels.ndim == 3 else "PNG", **options)
    return stream.getvalue()
