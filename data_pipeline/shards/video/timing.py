"""When frames are shown: resampling by timestamps, and the cut of long videos into samples."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import TypeVar

T = TypeVar("T")
MOST_REPEATS = 1000
"""Of one frame, on average over a video: timestamps that ask for more are damaged or hostile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The frames of a video that make one sample."""

    first: int
    """Number of its first frame."""
    count: int
    """Frames."""
    start: float
    """Seconds from the video's first frame."""
    end: float
    """Seconds."""


def resampled(
    frames: Iterable[tuple[Fraction, Fraction, T]], fps: Fraction, slack: Fraction
) -> Iterator[tuple[Fraction, T, int]]:
    """What is to be seen at each tick of a clock that starts with the first frame: the last frame shown by then.

    Args:
        frames: when each begins and ends, seconds, in the order of time; the end counts of the last one only.
        fps: ticks a second.
        slack: a frame that begins so many seconds behind a tick still counts for it: containers round times.

    Yields:
        When a frame begins, the frame, and at how many ticks in a row it is to be seen, 0 or more.
    """
    before: tuple[Fraction, Fraction, T] | None = None
    start, done = Fraction(0), 0
    for frame in frames:
        if before is None:
            start = frame[0]
        else:
            ticks = max(done, ceil((frame[0] - start - slack) * fps))
            yield before[0], before[2], ticks - done
            done = ticks
        before = frame
    if before is not None:
        yield before[0], before[2], max(done, ceil((before[1] - start - slack) * fps), 1) - done


def parts(times: list[float], end: float, longest: float | None) -> list[Part]:
    """Cuts a video into parts of about the same number of frames, none longer than ``longest`` seconds.

    Args:
        times: when each frame is shown, seconds, ascending; at least one.
        end: when the last one ends.
        longest: None = all of it is one part. A single frame that is shown for longer is one.
    """
    last, origin = len(times), times[0]
    edges = [*times, end]
    number = 1 if longest is None else min(last, max(1, ceil((end - origin) / longest - 1e-6)))
    while True:
        cuts = [last * place // number for place in range(number + 1)]
        found = [Part(first=a, count=b - a, start=edges[a] - origin, end=edges[b] - origin) for a, b in pairwise(cuts)]
        tolerance = (end - origin) / last / 2
        if longest is None or number == last or all(p.end - p.start <= longest + tolerance for p in found):
            return found
        number += 1


def rate(times: list[float], end: float) -> tuple[float, bool]:
    """Frames per second, on average, and whether they are shown for very different times."""
    if len(times) < 2:
        return (1 / (end - times[0]) if end > times[0] else 0.0), False
    steps = [b - a for a, b in pairwise(times)]
    mean = sum(steps) / len(steps)
    if mean <= 0:
        return 0.0, True
    usual = sorted(steps)[len(steps) // 2]
    odd = sum(abs(step - usual) > 0.25 * usual + 0.002 for step in steps)
    return 1 / mean, odd > 0.02 * len(steps)
