"""Alignment and retrieval across time and cameras against loops over single frames."""

import numpy as np
import pytest
import torch

from eyespot.eval.protocols.clips import alignment
from eyespot.eval.protocols.task import Task

VIDEOS, FRAMES, DIM = 5, 7, 4


def two_cameras() -> tuple[torch.Tensor, torch.Tensor]:
    moments = torch.randn(VIDEOS, 1, DIM) + torch.randn(VIDEOS, FRAMES, DIM).cumsum(1)
    seen = moments, moments + torch.randn(VIDEOS, FRAMES, DIM)
    return torch.nn.functional.normalize(seen[0], dim=2), torch.nn.functional.normalize(seen[1], dim=2)


def slow(one: np.ndarray, other: np.ndarray, k: int) -> tuple[list[float], list[float], list[float]]:
    """Per video: the error, and how many frames find their moment, and another moment of their video."""
    errors, moments, videos = [], [], []
    for video in range(VIDEOS):
        wrong, by_moment, by_video = 0.0, 0, 0
        for frame in range(FRAMES):
            query = one[video, frame]
            inside = [float(other[video, time] @ query) for time in range(FRAMES)]
            wrong += abs(inside.index(max(inside)) - frame) / FRAMES
            every = [(v, t) for v in range(VIDEOS) for t in range(FRAMES)]
            first = sorted(every, key=lambda place: -float(other[place] @ query))[:k]
            by_moment += any(v == video and abs(t - frame) <= 1 for v, t in first)
            elsewhere = [(v, t) for v, t in every if v != video or abs(t - frame) > 1]
            first = sorted(elsewhere, key=lambda place: -float(one[place] @ query))[:k]
            by_video += any(v == video for v, _ in first)
        errors.append(wrong / FRAMES)
        moments.append(by_moment / FRAMES)
        videos.append(by_video / FRAMES)
    return errors, moments, videos


@pytest.mark.parametrize("k", alignment.KS)
def test_equals_the_slow_reference(k):
    one, other = two_cameras()
    errors, moments, videos = slow(one.numpy(), other.numpy(), k)
    assert alignment.errors(one, other).tolist() == pytest.approx(errors)
    assert alignment.moment_hits(one, other)[k].double().mean(1).tolist() == pytest.approx(moments)
    assert alignment.video_hits(one)[k].double().mean(1).tolist() == pytest.approx(videos)


def test_chance_is_what_guessing_gives():
    guessed, frames = np.random.default_rng(0).integers(0, 24, (4000, 24)), np.arange(24)
    assert alignment.chance(24) == pytest.approx((np.abs(guessed - frames) / 24).mean(), abs=0.003)
    assert alignment.chance(1000) == pytest.approx(1 / 3, abs=1e-6)


def test_the_result_is_one_minus_the_error_and_says_it_of_each_video():
    one, other = two_cameras()
    rows = torch.stack([3 * one, 0.5 * other], dim=1).flatten(1)
    nothing = {"cls": rows[:0]}
    task = Task(
        train=nothing,
        train_labels=torch.zeros(0, dtype=torch.int64),
        test={"cls": rows, "mean": torch.cat([rows[:, : FRAMES * DIM]] * 2, dim=1)},
        test_labels=torch.full((VIDEOS,), -1),
        num_classes=0,
        seed=0,
    )
    first, same = alignment.candidates(task, frames=FRAMES)
    errors = alignment.errors(one, other)
    assert first.share.value == pytest.approx(1 - errors.mean().item()) and first.settings["chance"] == pytest.approx(
        1 - 48 / (3 * 49), abs=1e-4
    )
    assert first.scores["alignment error"].value == pytest.approx(errors.mean().item())
    low, high = first.share.interval
    assert low <= first.share.value <= high and low < high
    assert first.scores["mean over videos"].values == pytest.approx((1 - errors).tolist(), abs=1e-6)
    assert same.share.value == 1 and same.scores["moment recall@1"].value == 1, "the same camera twice"


def test_a_runs_own_head_stands_beside_every_kind():
    one, other = two_cameras()
    rows = torch.stack([one, other], dim=1).flatten(1)
    test = {"cls": torch.randn(VIDEOS, 2 * FRAMES * 3), "head": rows, "mean": torch.randn(VIDEOS, 2 * FRAMES * 3)}
    labels = torch.full((VIDEOS,), -1)
    known = dict(train={}, train_labels=labels[:0], test_labels=labels, num_classes=1, seed=0)
    found = alignment.candidates(Task(test=test, **known), frames=FRAMES)
    (own,) = alignment.candidates(Task(test={"mean": rows}, **known), frames=FRAMES)
    assert [candidate.metric for candidate in found] == ["alignment/cls_l2", "alignment/mean_l2"]
    for candidate in found:
        assert candidate.scores["own head: alignment"] == own.share
        assert candidate.scores["own head: alignment error"] == own.scores["alignment error"]
        assert candidate.scores["own head: moment recall@1"] == own.scores["moment recall@1"]
    assert not [name for name in own.scores if "head" in name]
