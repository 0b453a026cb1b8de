"""Direction: whether a linear classifier of frozen features says if a video is played forwards or backwards.

As the arrow of time asks it (Wei et al. 2018, CVPR), of T frames from all over the video. A linear classifier of the
frames' features, laid side by side, that is to answer backwards where it is shown them backwards has the same weights,
negated, for frame T + 1 - t as for frame t; so it is one of the differences x_t - x_(T + 1 - t), and that is what it is
given. Each video is shown in one direction; half of them backwards. The probe is that of ``linear``.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.protocols import linear
from eyespot.eval.protocols.labeled_data import TEST_SHARE, LabeledData, Part
from eyespot.eval.protocols.task import Candidate, Task, stratified_split

FRAMES = 4
"""Of each video, where nobody says otherwise."""
MIN_VIDEOS = 10
"""Of train: fewer leave no tenth of each direction to choose on."""
DIRECTIONS = ["backwards", "forwards"]


def directed_videos(shards: ShardFolder, seed: int) -> LabeledData:
    """All videos, with labels or without: half of them are to be shown backwards, and that is their class.

    Args:
        shards: train, whose test split is looked for; where there is none, a fifth of the videos is held out.
        seed: decides what is held out, and which videos run backwards.

    Raises:
        UserError: there are too few.
    """
    train, split = _part(shards, np.arange(shards.manifest.num_samples), seed), "its own test split"
    if (own := shards.split("test")) is not None:
        test = _part(own, np.arange(own.manifest.num_samples), seed + 1)
    else:
        kept, held = stratified_split(train.labels, TEST_SHARE, seed)
        test, train = (Part(shards=shards, rows=rows, labels=train.labels[rows]) for rows in (held, kept))
        split = f"no test split: {TEST_SHARE:.0%} of the videos held out (seed {seed})"
    if train.size < MIN_VIDEOS or not test.size:
        raise UserError(
            f"shards {shards.named}: {plural(train.size, 'video')} are too few to learn a direction"
            f" from; {MIN_VIDEOS} are needed"
        )
    return LabeledData(name=shards.manifest.name, train=train, test=test, classes=DIRECTIONS, split=split)


def _part(shards: ShardFolder, rows: Int[np.ndarray, " n"], seed: int) -> Part:
    labels = np.random.default_rng(seed).permutation(np.arange(len(rows)) % len(DIRECTIONS))
    return Part(shards=shards, rows=rows, labels=labels)


def differences(
    rows: Float[Tensor, "n _"], forwards: Int[Tensor, " n"], frames: int
) -> Float[Tensor, "n half_times_d"]:
    """First less last frame, second less last but one, and so on, of videos shown in their direction.

    Args:
        rows: features of so many frames each, in the order of time.
        forwards: 1, or 0 where the video is shown backwards.
        frames: how many.
    """
    apart = rows.unflatten(1, (frames, -1))
    shown = (apart - apart.flip(1))[:, : frames // 2]
    return (shown * (2 * forwards - 1)[:, None, None]).flatten(1)


def candidates(task: Task, *, frames: int) -> list[Candidate]:
    """A linear probe for every kind of features.

    Args:
        task: features of videos, frame after frame; labels are directions.
        frames: how many.
    """
    shown = replace(
        task,
        train={kind: differences(rows, task.train_labels, frames) for kind, rows in task.train.items()},
        test={kind: differences(rows, task.test_labels, frames) for kind, rows in task.test.items()},
    )
    return [
        replace(
            probe,
            metric=probe.metric.replace("linear/", "order/"),
            settings={
                "features": probe.settings["features"],
                "frames": str(frames),
                "lambda": probe.settings["lambda"],
                "chance": 0.5,
            },
        )
        for probe in linear.candidates(shown)
    ]
