"""Videos for tests: each frame has a gray level of its own, by which it is known again."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "mpeg4", ".webm": "libvpx", ".avi": "mjpeg", ".gif": "gif"}


def level(number: int) -> int:
    """Gray level of a frame."""
    return 20 + 5 * number % 220


def film(
    path: Path,
    count: int = 12,
    *,
    rate: int = 12,
    size: tuple[int, int] = (64, 48),
    times: list[int] | None = None,
    rotation: int = 0,
    sound: float = 0.0,
    aspect: int = 1,
    codec: str = "",
) -> Path:
    """Writes a video of which frame k is gray of ``level(k)`` with a white stripe at its top.

    Args:
        path: its suffix says the container.
        count: frames.
        rate: frames per second.
        size: width, height.
        times: when each frame is shown, in 1/1000 s; None = evenly.
        rotation: of the display matrix, degrees counterclockwise.
        sound: seconds of a tone that begins with the first frame.
        aspect: of a pixel, width by height.
        codec: None = the container's usual one.
    """
    codec = codec or CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        stream.bit_rate = 2_000_000
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if aspect != 1:
            stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        if rotation:
            stream.set_display_rotation(rotation)
        audio: Any = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number in range(count):
            pixels = np.full((size[1], size[0], 3), level(number), np.uint8)
            pixels[: size[1] // 6] = 255
            frame: Any = av.VideoFrame.from_ndarray(pixels, "rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            tone = np.sin(np.arange(int(16000 * sound)) * 0.2).astype(np.float32)[None] * 0.5
            samples: Any = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            samples.sample_rate, samples.pts = 16000, 0
            container.mux(audio.encode(samples))
            container.mux(audio.encode(None))
    return path


def levels(jpegs: list[bytes]) -> list[int]:
    """The number of the frame that each JPEG shows."""
    grays = [float(np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))[-4:].mean()) for jpeg in jpegs]
    return [round((gray - 20) / 5) for gray in grays]


def wandering(count: int, *, seed: int = 0, pan: float = 1.0, speed: tuple[float, float] = (3.0, 1.5)) -> Any:
    """A textured square that wanders over a textured ground, which the camera pans over.

    Args:
        count: frames.
        seed: of the textures.
        pan: pixels per frame by which the camera moves.
        speed: of the square in the picture, pixels per frame, right and down.

    Returns:
        Frames (count, 120, 160) uint8, and where the square is in each: (count, 120, 160) bool.
    """
    draws = np.random.default_rng(seed)

    def texture(height: int, width: int) -> Image.Image:
        noise = draws.integers(0, 256, (height // 4, width // 4)).astype(np.uint8)
        return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)

    ground, square = texture(160, 320), texture(40, 40)
    frames, places = [], []
    for number in range(count):
        frame = ground.transform(
            (160, 120), Image.Transform.AFFINE, (1, 0, pan * number, 0, 1, 10), Image.Resampling.BICUBIC
        )
        left, top = 20 + speed[0] * number, 20 + speed[1] * number
        shift = (1, 0, -left, 0, 1, -top)
        there = np.asarray(Image.new("L", (40, 40), 255).transform((160, 120), Image.Transform.AFFINE, shift)) > 0
        moved = square.transform((160, 120), Image.Transform.AFFINE, shift, Image.Resampling.BICUBIC)
        frames.append(np.where(there, np.asarray(moved), np.asarray(frame)))
        places.append(there)
    return np.stack(frames), np.stack(places)


def write_film(path: Path, frames: np.ndarray, rate: int) -> None:
    """Writes (count, H, W) uint8 as a gray video that looks nearly as they do."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "10"})
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            pixels: Any = av.VideoFrame.from_ndarray(np.repeat(frame[..., None], 3, -1), "rgb24")
            container.mux(stream.encode(pixels))
        container.mux(stream.encode(None))
