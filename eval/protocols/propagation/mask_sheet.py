"""Pictures of masks, or points, carried through videos: a row for each video, some of its frames from first to last."""

from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.video.contact_sheet import MASK_COLORS
from eyespot.eval.protocols.propagation.label_propagation import nearest
from eyespot.eval.protocols.propagation.masked_videos import BACKGROUND, MaskedVideo
from eyespot.eval.protocols.propagation.region_boundary import outline

COLUMNS = 5
VIDEOS = 4
"""In one sheet."""
HEIGHT = 120
GAP = 4

Strip = list[UInt8[np.ndarray, "_ _ 3"]]
"""One video's row."""


def strip_of(video: MaskedVideo, answers: list[UInt8[np.ndarray, "h w"]]) -> Strip:
    """Frames of equal distance, from the first to the last: coloured where an object is thought to be, and where masks
    are known with the true outline in white.

    Args:
        video: its frames and true masks.
        answers: the mask of every frame.
    """
    return [_painted(video.frames[n], answers[n], video.masks.get(n), video.ignored) for n in _shown(len(video.frames))]


def dotted_strip_of(
    frames: list[UInt8[np.ndarray, "h w 3"]],
    answers: Float64[np.ndarray, "t k 2"],
    true: Float64[np.ndarray, "t k 2"],
) -> Strip:
    """The same frames with points: white where they are, coloured where they are thought to be; lines join the two.

    Args:
        frames: of one video.
        answers: x and y of the points, pixels; nan where unknown.
        true: the same of where they are.
    """
    return [_dotted(frames[number], answers[number], true[number]) for number in _shown(len(frames))]


def _shown(count: int) -> list[int]:
    return np.linspace(0, count - 1, COLUMNS).round().astype(int).tolist()


def _dotted(
    frame: UInt8[np.ndarray, "h w 3"], answers: Float64[np.ndarray, "k 2"], true: Float64[np.ndarray, "k 2"]
) -> UInt8[np.ndarray, "shown wide 3"]:
    pixels = _small(frame)
    white = np.full_like(true[:, :1], 255) * np.ones(3)
    colors = MASK_COLORS[np.arange(len(answers)) % len(MASK_COLORS)]
    for start, end, paint in zip(*(points * (HEIGHT / len(frame)) for points in (true, answers)), colors, strict=True):
        if np.isfinite(start).all() and np.isfinite(end).all():
            _draw_line(pixels, start, end, paint)
    for points, paints, radius in ((true, white, 3), (answers, colors, 2)):
        for point, paint in zip(points * (HEIGHT / len(frame)), paints, strict=True):
            if np.isfinite(point).all():
                x, y = (int(np.clip(value, -radius - 1, 10 * HEIGHT)) for value in point)
                pixels[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = paint
    return pixels.round().astype(np.uint8)


def _draw_line(
    pixels: Float64[np.ndarray, "h w 3"],
    start: Float64[np.ndarray, "2"],
    end: Float64[np.ndarray, "2"],
    paint: Float64[np.ndarray, "3"],
) -> None:
    """From one x and y to the other, as far as the picture goes."""
    size = np.array(pixels.shape[1::-1])
    start, end = (np.clip(point, -size, 2 * size) for point in (start, end))
    places = np.linspace(start, end, int(np.abs(end - start).max()) + 2).astype(int)
    x, y = places[((places >= 0) & (places < size)).all(1)].T
    pixels[y, x] = paint


def _small(frame: UInt8[np.ndarray, "h w 3"]) -> Float64[np.ndarray, "shown wide 3"]:
    width = max(1, round(HEIGHT * frame.shape[1] / frame.shape[0]))
    return np.asarray(Image.fromarray(frame).resize((width, HEIGHT), Image.Resampling.BICUBIC)).astype(np.float64)


def _painted(
    frame: UInt8[np.ndarray, "h w 3"],
    answer: UInt8[np.ndarray, "h w"],
    true: UInt8[np.ndarray, "h w"] | None,
    ignored: int,
) -> UInt8[np.ndarray, "shown wide 3"]:
    pixels = _small(frame)
    width = pixels.shape[1]
    small = nearest(answer, HEIGHT, width)
    inside = small != BACKGROUND
    pixels[inside] = (pixels[inside] + MASK_COLORS[(small[inside].astype(int) - 1) % len(MASK_COLORS)]) / 2
    if true is not None:
        mask = nearest(true, HEIGHT, width)
        pixels[outline((mask != BACKGROUND) & (mask != ignored))] = 255
    return pixels.round().astype(np.uint8)


def write_sheets(strips: list[Strip], folder: Path, name: str) -> list[Path]:
    """Writes FOLDER/NAME_00.png and so on, of VIDEOS rows each; those of an earlier evaluation that are left go away.

    Raises:
        UserError: the folder cannot be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(strips), VIDEOS):
            path = folder / f"{name}_{start // VIDEOS:02d}.png"
            partial = path.with_suffix(".tmp")
            Image.fromarray(sheet(strips[start : start + VIDEOS])).save(partial, format="PNG")
            partial.replace(path)
            paths.append(path)
        for old in set(folder.glob(f"{name}_[0-9][0-9].png")) - set(paths):
            old.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from error
    return paths


def sheet(strips: list[Strip]) -> UInt8[np.ndarray, "h w 3"]:
    """The rows below each other, on white."""
    width = max(sum(picture.shape[1] + GAP for picture in strip) - GAP for strip in strips)
    canvas = np.full((len(strips) * (HEIGHT + GAP) - GAP, width, 3), 255, np.uint8)
    for row, strip in enumerate(strips):
        left = 0
        for picture in strip:
            canvas[row * (HEIGHT + GAP) :][:HEIGHT, left : left + picture.shape[1]] = picture
            left += picture.shape[1] + GAP
    return canvas
