"""Which frames of a video a clip shows, and which other sample a view shows instead: pure functions, in integers.

Both follow from (seed, epoch, sample id) and from how long the video is: not from the rank, the batch or the step.
Below, a video has ``count`` frames, numbered from 0, and s is the clip's stride. Whatever is said to be drawn is drawn
uniformly; where ``place`` is "center", the middle of what could be drawn is taken, the lower of two.

even
    The first frame is drawn among those after which the whole clip fits; then every s-th. A video that is too short
    begins with its first frame, and its last is repeated.

ordered (Misra et al. 2016, "Shuffle and learn": five frames a < b < c < d < e)
    b, c and d are s apart; a lies before b, and e after d, by s and up to s more, drawn for each. In a video of fewer
    than 4 s + 1 frames, s becomes (count - 1) // 4; the "more" of each end is at most half of what the video has beyond
    those 4 s + 1 frames. Where all five lie is drawn. Of fewer than five frames, the last is repeated.

near_far (Sermanet et al. 2017, "Time-contrastive networks": anchor, positive, negative)
    The anchor is drawn among the frames that have a negative; the positive among the other frames at most s away; the
    negative among those more than 2 s away. In a video without such frames, s becomes (count - 2) // 2; where that is 0
    (of three frames and fewer) the positive is the anchor, and of a single frame all three are that one.

spread (Wang et al. 2016, "Temporal segment networks": as many segments as frames)
    The video is cut into as many parts as the clip has frames, part k from frame k count // frames on; of each part one
    frame is taken, all at the same place of theirs, which is drawn. The stride plays no part. A video that has fewer
    frames than the clip shows some of them several times.

by_motion
    What says where the clip lies (the first frame; of near_far the anchor) is drawn in proportion to the motion between
    the first and the last of the frames that the clip spans (of near_far: at most s from the anchor), instead of
    uniformly. A video in which nothing moves is drawn from uniformly.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Int64, Integer

from eyespot.data_pipeline.augment.views import Clip
from eyespot.data_pipeline.random_numbers import numbers_below, words

Ids = Integer[np.ndarray, " b"]
Bounds = Int64[np.ndarray, " b"]
Motion = Callable[[int], Float32[np.ndarray, " count"]]
"""Of a sample: how much changes from each of its frames to the next (0 at the last)."""

NUM_DRAWS = 5
"""Per sample: where the clip lies (twice 32 bits), and up to three more."""
MOTION_STEPS = 2**10
"""Motion is counted in so small parts of a level, so that its sums are exact."""


def frame_numbers(
    clip: Clip, seed: int, epochs: Ids, ids: Ids, counts: Ids, motion: Motion | None = None
) -> Int64[np.ndarray, "b t"]:
    """The frames of each sample, the same for all clips that differ in nothing but ``stream``.

    Args:
        clip: what is asked for.
        seed: of the run.
        epochs: how often each sample had been seen before.
        ids: of the samples.
        counts: how many frames each sample's video has, at least one.
        motion: where ``clip.by_motion`` is set.
    """
    name = f"clip {clip.pick} {clip.frames} {clip.stride}{' by motion' * clip.by_motion}"
    drawn, counts = words(seed, epochs, ids, name, NUM_DRAWS), counts.astype(np.int64)
    draw = _Draw(clip, drawn, ids, motion)
    picks = {"even": _even, "ordered": _ordered, "near_far": _near_far, "spread": _spread}
    return picks[clip.pick](clip, counts, draw)


def partner_ids(
    seed: int, epochs: Ids, ids: Ids, num_samples: int, among: Int64[np.ndarray, " n"] | None = None
) -> Int64[np.ndarray, " b"]:
    """Of each sample another one, drawn uniformly.

    Args:
        seed: of the run.
        epochs: how often each sample had been seen before.
        ids: of the samples.
        num_samples: how many there are.
        among: the partners, ascending; None = all samples. At least one must be left when the sample itself is not.
    """
    ids = ids.astype(np.int64)
    places = ids if among is None else np.minimum(np.searchsorted(among, ids), len(among) - 1)
    is_one = np.ones(len(ids), bool) if among is None else among[places] == ids
    others = (num_samples if among is None else len(among)) - is_one
    chosen = numbers_below(others, words(seed, epochs, ids, "partner", 1)[:, 0])
    chosen += is_one & (chosen >= places)
    return chosen if among is None else among[chosen]


class _Draw:
    """Draws whole numbers below others: those of each sample, or the middle ones."""

    def __init__(self, clip: Clip, drawn: np.ndarray, ids: Ids, motion: Motion | None):
        self._center, self._drawn, self._ids = clip.place == "center", drawn, ids.tolist()
        self._motion = motion if clip.by_motion else None

    def below(self, numbers: Int64[np.ndarray, " b"], which: int) -> Int64[np.ndarray, " b"]:
        """One of 0 .. number - 1 for each sample; of the clip's draws 0 .. 2, that one."""
        if self._center:
            return (numbers - 1) // 2
        return numbers_below(numbers, self._drawn[:, 2 + which])

    def place(
        self, numbers: Int64[np.ndarray, " b"], begin: Bounds, end: Bounds, gap: tuple[Bounds, Bounds] | None = None
    ) -> Int64[np.ndarray, " b"]:
        """Where the clip lies: one of so many frames, from the first on.

        Args:
            numbers: how many frames there are to choose from.
            begin: where the motion that counts begins, frames from the one that is chosen.
            end: where it ends.
            gap: how many of the frames to choose from come before a gap, and how long it is.
        """
        gap = gap or (numbers, np.zeros_like(numbers))
        if self._motion is not None:
            rows = zip(range(len(numbers)), *(each.tolist() for each in (numbers, begin, end, *gap)), strict=True)
            place = np.array([self._moving(*row) for row in rows], np.int64)
        elif self._center:
            place = (numbers - 1) // 2
        else:
            place = numbers_below(numbers, self._drawn[:, 0])
        return place + (place >= gap[0]) * gap[1]

    def _moving(self, row: int, number: int, begin: int, end: int, gap_at: int, gap: int) -> int:
        assert self._motion is not None
        steps = np.floor(self._motion(self._ids[row]) * np.float32(MOTION_STEPS)).astype(np.int64)
        until, frames = np.concatenate([[0], np.cumsum(steps)]), np.arange(number)
        frames += (frames >= gap_at) * gap
        first, last = (np.clip(frames + each, 0, len(steps)) for each in (begin, end))
        weights = np.cumsum(until[last] - until[first])
        high, low = self._drawn[row, :2].tolist()
        if not (total := int(weights[-1])):
            return (high * number) >> 32
        return int(np.searchsorted(weights, ((high << 32 | low) * total) >> 64, side="right"))


def _even(clip: Clip, counts: Int64[np.ndarray, " b"], draw: _Draw) -> Int64[np.ndarray, "b t"]:
    span = (clip.frames - 1) * clip.stride
    start = draw.place(np.maximum(counts - span, 1), np.zeros_like(counts), np.full_like(counts, span))
    return np.minimum(start[:, None] + clip.stride * np.arange(clip.frames), counts[:, None] - 1)


def _ordered(clip: Clip, counts: Int64[np.ndarray, " b"], draw: _Draw) -> Int64[np.ndarray, "b t"]:
    stride = np.maximum(np.minimum(clip.stride, (counts - 1) // 4), 1)
    more = np.clip((counts - 1 - 4 * stride) // 2, 0, stride)
    before, after = (draw.below(more + 1, which) for which in (0, 1))
    span = before + 4 * stride + after
    start = draw.place(np.maximum(counts - span, 1), np.zeros_like(counts), span)
    b = start + before + stride
    five = np.stack([start, b, b + stride, b + 2 * stride, start + span], axis=1)
    return np.minimum(five, counts[:, None] - 1)


def _near_far(clip: Clip, counts: Int64[np.ndarray, " b"], draw: _Draw) -> Int64[np.ndarray, "b t"]:
    near = np.clip((counts - 2) // 2, 0, clip.stride)
    far = 2 * near + 1
    ahead = counts - far  # so many anchors have a negative ahead of them, and as many behind them
    numbers = np.where(ahead >= far, counts, np.maximum(2 * ahead, 1))
    gap = np.where(ahead >= far, counts, ahead), np.maximum(far - ahead, 0)
    anchor = np.minimum(draw.place(numbers, -near, near, gap), counts - 1)
    low, high = np.maximum(anchor - near, 0), np.minimum(anchor + near, counts - 1)
    positive = low + draw.below(np.maximum(high - low, 1), 1)
    positive += (positive >= anchor) & (high > low)
    behind = np.maximum(anchor - far + 1, 0)
    beyond = np.maximum(counts - anchor - far, 0)
    place = draw.below(np.maximum(behind + beyond, 1), 2)
    negative = np.where(place < behind, place, anchor + far + place - behind)
    return np.stack([anchor, positive, np.minimum(negative, counts - 1)], axis=1)


def _spread(clip: Clip, counts: Int64[np.ndarray, " b"], draw: _Draw) -> Int64[np.ndarray, "b t"]:
    parts = np.arange(clip.frames) * counts[:, None] // clip.frames
    place = draw.place(np.maximum(counts // clip.frames, 1), np.zeros_like(counts), parts[:, -1])
    return parts + place[:, None]
