"""Action: what a video shows, by the mean of its frames' features (the average pooling of Karpathy et al. 2014).

The probe is that of ``linear``, the vote that of ``knn``: both with their settings and their way to choose them.
"""

from dataclasses import replace

from eyespot.eval.protocols import knn, linear
from eyespot.eval.protocols.task import Candidate, Task
from eyespot.eval.results.result import Score

FRAMES = 8
"""Of each video, where nobody says otherwise."""


def candidates(task: Task, *, frames: int) -> list[Candidate]:
    """A linear probe for every kind of features, and beside it the nearest neighbours by these features.

    Args:
        task: features of videos: means over frames.
        frames: of how many, for the table.
    """
    return [_beside_neighbours(probe, task, frames) for probe in linear.candidates(task)]


def _beside_neighbours(probe: Candidate, task: Task, frames: int) -> Candidate:
    kind = str(probe.settings["features"])
    own = replace(task, train={kind: task.train[kind]}, test={kind: task.test[kind]})
    voted = max(knn.candidates(own), key=lambda candidate: candidate.validation or 0.0)
    assert voted.predictions is not None
    return replace(
        probe,
        metric=probe.metric.replace("linear/", "action/"),
        settings={"features": kind, "frames": str(frames), "lambda": probe.settings["lambda"]},
        scores={"knn": Score.of(voted.predictions == task.test_labels.cpu().numpy())},
    )
