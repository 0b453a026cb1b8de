"""The frames of some samples side by side, as a picture: what a video holds is best judged by eye."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

HEIGHT, GAP = 96, 4
"""Of a frame in the picture, and between them, pixels."""
MOST_FRAMES = 12
WIDEST = 4
"""Times as wide as high; what is wider is squeezed."""


def draw_frames(shards: ShardFolder, path: Path, num_samples: int) -> int:
    """Writes a PNG: a row for each stream of the first samples, with frames evenly spread over its whole length.

    Returns:
        How many rows.

    Raises:
        UserError: the shards have no frames, or one cannot be read.
    """
    rows = [
        [_frame(shards, int(clip["first"]) + n) for n in spread(int(clip["count"]))]
        for streams in shards.clips[:num_samples]
        for clip in streams
    ]
    width = max(sum(frame.width + GAP for frame in row) for row in rows) - GAP
    sheet = Image.new("RGB", (width, len(rows) * (HEIGHT + GAP) - GAP), "white")
    for place, row in enumerate(rows):
        left = 0
        for frame in row:
            sheet.paste(frame, (left, place * (HEIGHT + GAP)))
            left += frame.width + GAP
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise UserError(f"out {path}: cannot be written ({error.strerror or error})") from error
    return len(rows)


def spread(count: int) -> list[int]:
    """Numbers of frames, first and last among them, evenly apart; all where there are few."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int)).tolist()


def _frame(shards: ShardFolder, row: int) -> Image.Image:
    tar, offset, size, *_ = shards.frames[row].item()
    file = shards.tar_path(tar)
    try:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            image = Image.open(io.BytesIO(os.pread(descriptor, size, offset)), formats=("JPEG", "PNG")).convert("RGB")
        finally:
            os.close(descriptor)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file}: frame {row} cannot be read; find all damage: eyespot shards verify") from error
    return image.resize((min(max(1, round(image.width * HEIGHT / image.height)), WIDEST * HEIGHT), HEIGHT))
