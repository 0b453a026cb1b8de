"""The direction of videos: what is shown, to what, and that it is the linear probe of the frames side by side."""

import numpy as np
import pytest
import torch
from films import pack_films
from sklearn.linear_model import LogisticRegression

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.protocols.clips import direction
from eyespot.eval.protocols.task import Task


def test_differences_change_their_sign_with_the_direction():
    rows = torch.arange(30.0).view(2, 15)  # five frames of three numbers
    found = direction.differences(rows, torch.tensor([1, 0]), 5)
    assert found.tolist() == [[-12.0] * 3 + [-6.0] * 3, [12.0] * 3 + [6.0] * 3]


def test_the_probe_of_differences_is_that_of_frames_side_by_side_in_both_directions():
    frames, dim, penalty = 4, 3, 0.05
    videos = np.random.default_rng(3).normal(size=(60, frames, dim)) + np.arange(frames)[:, None] * 0.3
    backwards = videos[:, ::-1]
    whole = np.concatenate([videos, backwards]).reshape(120, -1)
    labels = np.repeat([1, 0], 60)
    reference = LogisticRegression(C=1 / (penalty * 120), tol=1e-10, max_iter=1000).fit(whole, labels)
    weights = reference.coef_.reshape(frames, dim)
    assert weights == pytest.approx(-weights[::-1], abs=1e-5), "negated for the frame at the other end"
    both = torch.from_numpy(videos.reshape(60, -1)).repeat(2, 1)
    rows = direction.differences(both, torch.from_numpy(labels), frames).numpy()
    narrow = LogisticRegression(C=1 / (2 * penalty * 120), tol=1e-10, max_iter=1000, fit_intercept=False)
    narrow.fit(rows, labels)  # a weight of a difference stands twice in the whole: twice the penalty
    assert narrow.coef_.ravel() == pytest.approx(weights[: frames // 2].ravel(), abs=1e-4)


def test_what_moves_one_way_is_told_and_what_has_no_direction_is_not():
    speeds = 1 + 0.2 * torch.randn(200, 1, 1)
    times = torch.arange(6.0).view(1, 6, 1)
    moving = (speeds * times + torch.randn(200, 1, 2)).flatten(1)
    forwards = torch.arange(200) % 2
    for rows, low, high in ((moving, 0.95, 1.0), (torch.randn(200, 12), 0.25, 0.75), (torch.ones(200, 12), 0.3, 0.7)):
        task = Task(
            train={"mean": rows[:150]},
            train_labels=forwards[:150],
            test={"mean": rows[150:]},
            test_labels=forwards[150:],
            num_classes=2,
            seed=0,
        )
        (found,) = direction.candidates(task, frames=6)
        assert found.metric == "order/mean" and found.settings["chance"] == 0.5
        assert low <= (found.predictions == forwards[150:].numpy()).mean() <= high


def test_half_of_the_videos_run_backwards_and_none_is_in_both_parts(tmp_path):
    shards = ShardFolder(pack_films(tmp_path / "films"))
    data = direction.directed_videos(shards, 0)
    assert sorted([*data.train.rows, *data.test.rows]) == list(range(24)) and data.classes == ["backwards", "forwards"]
    assert sorted(np.concatenate([data.train.labels, data.test.labels])) == [0] * 12 + [1] * 12
    assert (direction.directed_videos(shards, 0).test.rows == data.test.rows).all()
    assert sorted(direction.directed_videos(shards, 1).test.rows) != sorted(data.test.rows)


def test_too_few_videos(tmp_path):
    shards = ShardFolder(pack_films(tmp_path / "films", count=6))
    with pytest.raises(UserError, match=r"^shards .*: 4 videos are too few to learn a direction from; 10 are needed$"):
        direction.directed_videos(shards, 0)
