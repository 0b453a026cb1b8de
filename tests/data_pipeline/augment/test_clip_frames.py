"""Frames of clips and partners: the written rules, sample by sample; what is drawn is spread as they say."""

from collections import Counter

import numpy as np
import pytest

from eyespot.data_pipeline.augment.clip_frames import frame_numbers, partner_ids
from eyespot.data_pipeline.augment.views import Clip
from eyespot.data_pipeline.random_numbers import words

MANY = 6000


def frames(clip: Clip, counts, *, seed: int = 0, epoch: int = 0, ids=None, motion=None) -> np.ndarray:
    counts = np.asarray(counts)
    ids = np.arange(len(counts)) if ids is None else np.asarray(ids)
    return frame_numbers(clip, seed, np.full_like(ids, epoch), ids, counts, motion)


def possible(clip: Clip, count: int) -> set[tuple[int, ...]]:
    """All clips of a video, by trying every one: slow and obvious."""
    last, s = count - 1, clip.stride
    if clip.pick == "even":
        span = (clip.frames - 1) * s
        starts = [a for a in range(count) if a + span <= last] or [0]
        return {tuple(min(a + s * k, last) for k in range(clip.frames)) for a in starts}
    if clip.pick == "spread":
        begins = [int(count * k / clip.frames) for k in range(clip.frames)]
        shortest = min(after - begin for begin, after in zip(begins, [*begins[1:], count], strict=True))
        return {tuple(begin + place for begin in begins) for place in range(max(shortest, 1))}
    if clip.pick == "ordered":
        if count < 5:
            return {tuple(min(k, last) for k in range(5))}
        s = min(s, last // 4)
        more = min(s, (last - 4 * s) // 2)
        found = set()
        for a in range(count):
            for before in range(more + 1):
                for after in range(more + 1):
                    b = a + s + before
                    if (e := b + 3 * s + after) <= last:
                        found.add((a, b, b + s, b + 2 * s, e))
        return found
    while s > 0 and not any(abs(a - n) > 2 * s for a in range(count) for n in range(count)):
        s -= 1
    found = set()
    for a in range(count):
        near = [p for p in range(count) if p != a and abs(p - a) <= s] or [a]
        far = [n for n in range(count) if abs(n - a) > 2 * s]
        found |= {(a, p, n) for p in near for n in far}
    return found or {(0, 0, 0)}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 9, 14, 25])
@pytest.mark.parametrize(
    "clip",
    [
        *(Clip(1), Clip(4), Clip(3, 4), Clip(5, 2, pick="ordered"), Clip(5, 4, pick="ordered")),
        *(Clip(3, 2, pick="near_far"), Clip(4, pick="spread")),
    ],
    ids=repr,
)
def test_every_clip_that_the_rules_allow_is_drawn_and_no_other(clip, count):
    found = frames(clip, [count] * MANY)
    allowed = possible(clip, count)
    assert set(map(tuple, found.tolist())) == allowed or (
        len(allowed) > 500 and set(map(tuple, found.tolist())) < allowed
    )
    if count > 20 and clip.pick == "near_far":
        assert allowed == {
            (a, p, n) for a in range(25) for p in range(25) for n in range(25) if 0 < abs(p - a) <= 2 and abs(n - a) > 4
        }


def spread(drawn: list[int], among: int) -> float:
    """Chi-squared over its degrees of freedom: near 1 where all are equally likely."""
    expected = len(drawn) / among
    counts = Counter(drawn)
    return sum((counts[one] - expected) ** 2 / expected for one in range(among)) / (among - 1)


def test_places_are_drawn_uniformly():
    assert spread(frames(Clip(4, 3), [40] * MANY)[:, 0].tolist(), 31) < 1.6
    assert spread(frames(Clip(3, 2, pick="near_far"), [30] * MANY)[:, 0].tolist(), 30) < 1.6
    five = frames(Clip(5, 3, pick="ordered"), [60] * MANY)
    assert spread((five[:, 1] - five[:, 0] - 3).tolist(), 4) < 3
    assert spread((five[:, 4] - five[:, 3] - 3).tolist(), 4) < 3
    assert abs(np.corrcoef(five[:, 1] - five[:, 0], five[:, 4] - five[:, 3])[0, 1]) < 0.06
    assert spread(partner_ids(0, np.arange(MANY), np.full(MANY, 8), 9).tolist(), 8) < 3


def test_the_middle_of_a_video_is_drawn_from_nothing():
    assert frames(Clip(4, 2, "center"), [10, 7, 3]).tolist() == [[1, 3, 5, 7], [0, 2, 4, 6], [0, 2, 2, 2]]
    assert frames(Clip(4, 1, "center", "spread"), [24, 4, 2]).tolist() == [[2, 8, 14, 20], [0, 1, 2, 3], [0, 0, 1, 1]]
    for pick, count in (("ordered", 5), ("near_far", 3)):
        clip = Clip(count, 3, "center", pick)
        assert len(set(map(tuple, frames(clip, [30] * 50).tolist()))) == 1
        assert tuple(frames(clip, [30])[0].tolist()) in possible(Clip(count, 3, pick=pick), 30)


def test_frames_belong_to_the_sample_its_epoch_and_the_seed():
    clip, counts = Clip(4, 2), np.full(64, 50)
    together = frames(clip, counts)
    assert (together[10:13] == frames(clip, counts[:3], ids=[10, 11, 12])).all()
    assert (together[::-1] == frames(clip, counts, ids=np.arange(64)[::-1])).all()
    assert (together == frames(Clip(4, 2, stream=1), counts)).all(), "cameras are synchronous"
    for other in (frames(clip, counts, seed=1), frames(clip, counts, epoch=1)):
        assert (other[:, 0] == together[:, 0]).mean() < 0.2


def test_windows_are_drawn_in_proportion_to_the_motion_in_them():
    motion = np.random.default_rng(0).integers(0, 9, 24).astype(np.float32) / 4
    motion[-1] = 0
    for clip in (Clip(3, 2, by_motion=True), Clip(3, 3, pick="near_far", by_motion=True)):
        first = frames(clip, [24] * MANY, motion=lambda sample: motion)[:, 0]
        if clip.pick == "even":
            weights = np.array([motion[start : start + 4].sum() for start in range(20)])
        else:
            weights = np.array([motion[max(a - 3, 0) : min(a + 3, 24)].sum() for a in range(24)])
        expected = weights / weights.sum() * MANY
        found = np.bincount(first, minlength=len(weights))
        assert (found[expected == 0] == 0).all()
        some = expected > 0
        assert ((found - expected)[some] ** 2 / expected[some]).sum() / (some.sum() - 1) < 1.9


def test_a_draw_by_motion_is_exact():
    """Against Python's own whole numbers."""
    motion = np.random.default_rng(1).random(30).astype(np.float32) * 200
    clip, ids = Clip(4, 2, by_motion=True), np.arange(300)
    found = frames(clip, [30] * 300, seed=5, motion=lambda sample: motion)[:, 0].tolist()
    drawn = words(5, ids * 0, ids, "clip even 4 2 by motion", 2).tolist()
    levels = [int(float(value) * 1024) for value in motion]
    weights = [sum(levels[start : start + 6]) for start in range(24)]
    for start, (high, low) in zip(found, drawn, strict=True):
        place = (high * 2**32 + low) * sum(weights) // 2**64
        assert sum(weights[:start]) <= place < sum(weights[: start + 1])


def test_where_nothing_moves_all_windows_are_equally_likely():
    still = frames(Clip(4, 2, by_motion=True), [30] * MANY, motion=lambda sample: np.zeros(30, np.float32))
    assert spread(still[:, 0].tolist(), 24) < 1.7


def test_a_short_video_that_moves_keeps_the_rules():
    for count in range(1, 12):
        for clip in (Clip(3, 2, pick="near_far", by_motion=True), Clip(5, 2, pick="ordered", by_motion=True)):
            motion = np.ones(count, np.float32)
            found = frames(clip, [count] * 200, motion=lambda sample, motion=motion: motion)
            assert set(map(tuple, found.tolist())) <= possible(clip, count)


@pytest.mark.parametrize("among", [None, [2, 3, 7, 11]])
def test_a_partner_is_any_other_sample_and_never_the_sample(among):
    pool = list(range(12)) if among is None else among
    for sample in (0, 2, 7, 11):
        epochs = np.arange(400)
        found = partner_ids(3, epochs, np.full(400, sample), 12, among and np.array(among))
        assert set(found.tolist()) == set(pool) - {sample}
    ids = np.array([7, 2, 11])
    together = partner_ids(3, ids * 0, ids, 12)
    assert together.tolist() == [partner_ids(3, ids[:1] * 0, ids[k : k + 1], 12).item() for k in range(3)]
