"""Series: one metric of a run in bounded memory, and its envelope: as many points as a screen has columns.

A long series is not thinned by leaving points out, which would hide its spikes: every bin keeps its least, its mean and
its largest value.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from eyespot.eval.report.charts import LARGEST, Number

MOST_POINTS = 1 << 17
"""Of a series; beyond, neighbours are put together two by two. A run of 100,000 lines stays as it was logged."""
_LOW, _MEAN, _HIGH = range(3)


@dataclass(kw_only=True, slots=True)
class Envelope:
    """A part of a series, for a chart."""

    steps: Int64[np.ndarray, " n"]
    """The last of each bin."""
    mean: Float64[np.ndarray, " n"]
    low: Float64[np.ndarray, " n"] | None
    """None where each bin is a single value."""
    high: Float64[np.ndarray, " n"] | None
    replaces: int | None
    """The step from which on it replaces what was sent before; None = all of it."""


class Series:
    """Values by rising steps. Those that are not finite, or immense, are counted and not kept.

    Args:
        most: points that it holds.
    """

    def __init__(self, most: int = MOST_POINTS) -> None:
        self._most, self._length, self._merged = most, 0, False
        self._steps = np.empty(256, np.int64)
        self._values = np.empty((1, 256))
        self.num_broken = 0
        self.last = np.nan

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """That it takes."""
        return self._steps.nbytes + self._values.nbytes

    @property
    def steps(self) -> Int64[np.ndarray, " n"]:
        """Of the points."""
        return self._steps[: self._length]

    @property
    def means(self) -> Float64[np.ndarray, " n"]:
        """Of the points."""
        return self._values[_MEAN if self._merged else 0, : self._length]

    def extend(self, steps: Int64[np.ndarray, " n"], values: Float64[np.ndarray, " n"]) -> bool:
        """Adds values of later steps; True where older points had to be put together for it."""
        self.last = float(values[-1]) if len(values) else self.last
        finite = np.abs(values) < LARGEST
        self.num_broken += int(len(values) - finite.sum())
        steps, values = steps[finite], values[finite]
        end = self._length + len(steps)
        if end > len(self._steps):
            size = max(end, 2 * len(self._steps))
            self._steps = np.concatenate([self.steps, np.empty(size - self._length, np.int64)])
            rest = np.empty((len(self._values), size - self._length))
            self._values = np.concatenate([self._values[:, : self._length], rest], axis=1)
        self._steps[self._length : end] = steps
        self._values[:, self._length : end] = values
        self._length = end
        halved = end > self._most
        while self._length > self._most:
            self.halve()
        return halved

    def cut(self, step: int) -> None:
        """Forgets this step and all later ones: the run went back."""
        if self._length and self._steps[self._length - 1] >= step:
            self._length = int(np.searchsorted(self.steps, step))

    def halve(self) -> None:
        """Puts neighbours together, which lose nothing but which of the two was which."""
        size = self._length // 2 * 2
        values = self._values if self._merged else np.repeat(self._values, 3, axis=0)
        pairs, rest = values[:, :size].reshape(3, -1, 2), values[:, size : self._length]
        merged = np.stack([pairs[_LOW].min(1), pairs[_MEAN].mean(1), pairs[_HIGH].max(1)])
        self._values = np.concatenate([merged, rest], axis=1)
        self._steps = np.concatenate([self._steps[1:size:2], self._steps[size : self._length]])
        self._length, self._merged = len(self._steps), True

    def envelope(self, bins: int, begin: Number, end: Number, after: Number) -> Envelope:
        """At most about ``bins`` points.

        Args:
            bins: columns of the screen.
            begin: first step that is wanted, or -inf; the point before it comes too, so that a line enters the chart.
            end: last step that is wanted, or inf; likewise.
            after: the newest step that the asker has, or -inf: where the bins stay as they were then, only what has
                changed since comes.
        """
        steps = self.steps
        first = max(0, int(np.searchsorted(steps, begin)) - 1)
        last = min(self._length, int(np.searchsorted(steps, end, "right")) + 1)
        had = min(last, int(np.searchsorted(steps, after, "right")))
        shift = _shift(steps[first:last], bins)
        whole = had <= first or shift != _shift(steps[first:had], bins)
        replaces = None
        if not whole:  # the bin of the newest point that the asker has may have grown
            replaces = int(steps[had - 1] >> shift << shift) if shift else int(steps[had - 1]) + 1
            first = int(np.searchsorted(steps, replaces))
        steps, values = steps[first:last], self._values[:, first:last]
        if not shift:
            low, high = (values[_LOW], values[_HIGH]) if self._merged else (None, None)
            mean = values[_MEAN if self._merged else 0]
            return Envelope(steps=steps, mean=mean, low=low, high=high, replaces=replaces)
        starts = np.flatnonzero(np.diff(steps >> shift, prepend=-1))
        counts = np.diff(starts, append=len(steps))
        low, mean, high = values if self._merged else (values[0],) * 3
        return Envelope(
            steps=steps[starts + counts - 1],
            mean=np.add.reduceat(mean, starts) / counts if len(starts) else mean,
            low=np.minimum.reduceat(low, starts) if len(starts) else low,
            high=np.maximum.reduceat(high, starts) if len(starts) else high,
            replaces=replaces,
        )


def _shift(steps: Int64[np.ndarray, " n"], bins: int) -> int:
    """Bins of 2^shift steps, which do not move as the series grows until they double; 0 = every point by itself."""
    if len(steps) <= bins:
        return 0
    return max(1, int((int(steps[-1]) - int(steps[0])) // bins).bit_length())
