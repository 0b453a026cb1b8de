"""Falling digits: generated clips of scikit-learn's real digits, with an arrow of time and two cameras.

Each clip shows one handwritten digit that is thrown from near the top, falls faster and faster, bounces off the ground
with six tenths of its speed and off the walls with all of it. So time runs one way, frames have an order that can be
seen, and what is a digit moves. Train and test show other digits. Two cameras look on at once: ``plain``, and
``turned``, which sees the scene rotated, smaller and inverted: the same moment in other pixels.

Seeded: the same clips everywhere, to what Pillow's versions make of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from eyespot.data_pipeline.random_numbers import uniforms
from eyespot.data_pipeline.shards.image_check import encode_jpeg
from eyespot.data_pipeline.shards.members.footage import Footage, FrameSource
from eyespot.data_pipeline.shards.members.items import Item, Source

NAME = "falling-digits"
NUM_TEST, NUM_TRAIN = 200, 800
FRAMES, RATE, SIDE = 24, 24.0, 48
"""Of each clip: frames, frames per second, pixels of both sides."""
DIGIT = 14
"""Pixels of a digit's sides."""
GRAVITY, DAMPING = 0.5, 0.6
"""Pixels per frame and frame; what is left of the speed after the ground."""
STREAMS = ("plain", "turned")


class Flight(NamedTuple):
    """How a digit is thrown and how the second camera stands: all that is drawn of a clip."""

    x: float
    """Of its left upper corner in the first frame, pixels."""
    y: float
    speed: float
    """Sideways, pixels per frame."""
    angle: float
    """Of the second camera, radians."""
    scale: float
    """Of what it sees."""


@dataclass(frozen=True, slots=True)
class FallingDigit(FrameSource):
    """One clip; drawn when it is read."""

    pixels: bytes
    """8 x 8, 0..255."""
    flight: Flight

    @property
    def streams(self) -> tuple[str, ...]:
        """Its cameras."""
        return STREAMS

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(STREAMS) * FRAMES * 800

    @property
    def plan(self) -> str:
        """All that decides how it looks."""
        return f"{self.pixels.hex()} {tuple(self.flight)}"

    def read(self) -> Footage:
        """Draws it."""
        return Footage(rate=RATE, frames={name: self._seen(turned=name == "turned") for name in STREAMS})

    def _seen(self, *, turned: bool) -> Iterator[bytes]:
        digit = Image.frombytes("L", (8, 8), self.pixels)
        angle, scale = (self.flight.angle, self.flight.scale) if turned else (0.0, 1.0)
        for x, y in path(self.flight):
            frame = digit.transform((SIDE, SIDE), Image.Transform.AFFINE, _inverse(x, y, angle, scale), _BICUBIC)
            yield encode_jpeg(frame.point([255 - level for level in range(256)]) if turned else frame)


_BICUBIC = Image.Resampling.BICUBIC


def open_falling_digits() -> Source:
    """All clips, in train and test."""
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]

    data: Any = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)  # the values are 0..16
    rows = np.arange(len(pixels))
    draws = uniforms(0, np.zeros(len(rows), np.int64), rows, NAME, 7)
    order = np.argsort(draws[:, 0], kind="stable")
    found = {"test": order[:NUM_TEST], "train": order[NUM_TEST : NUM_TEST + NUM_TRAIN]}
    splits = {
        split: [
            Item(
                f"{NAME}/{row:06d}",
                int(data.target[row]),
                "",
                0,
                0,
                frames=FallingDigit(pixels[row].tobytes(), thrown(draws[row, 1:])),
            )
            for row in sorted(chosen.tolist())
        ]
        for split, chosen in found.items()
    }
    return Source(name=NAME, splits=dict(splits), classes=[str(digit) for digit in range(10)])


def thrown(draws: np.ndarray) -> Flight:
    """A flight of six numbers in 0..1."""
    x, y, speed, angle, side, scale = map(float, draws)
    turn = (25 + 20 * angle) * pi / 180
    return Flight(x * (SIDE - DIGIT), 8 * y, 2.4 * speed - 1.2, turn if side < 0.5 else -turn, 0.6 + 0.12 * scale)


def path(flight: Flight) -> list[tuple[float, float]]:
    """Where the digit's left upper corner is in each frame, pixels."""
    ground, found = float(SIDE - DIGIT), list[tuple[float, float]]()
    x, y, sideways, down = flight.x, flight.y, flight.speed, 0.0
    for _ in range(FRAMES):
        found.append((x, y))
        down += GRAVITY
        x, y = x + sideways, y + down
        if y > ground:
            y, down = ground, -DAMPING * down
        if not 0 <= x <= ground:
            x, sideways = min(max(x, 0.0), ground), -sideways
    return found


def _inverse(x: float, y: float, angle: float, scale: float) -> tuple[float, ...]:
    """Pillow's six numbers: from a pixel of the camera to one of the 8 x 8 digit, whose corner is at (x, y)."""
    shrink, middle = 8 / DIGIT, SIDE / 2
    a, b = cos(angle) / scale, sin(angle) / scale
    return (
        shrink * a,
        shrink * b,
        shrink * (middle - a * middle - b * middle - x),
        -shrink * b,
        shrink * a,
        shrink * (middle + b * middle - a * middle - y),
    )
