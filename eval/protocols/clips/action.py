"""Action: what a video shows, by the mean of its frames' features (the average pooling of Karpathy et al. 2014).

The probe is that of ``linear``, the vote that of ``knn``: both with their settings and their way to choose them. Beside
them an attentive probe looks at the frames one by one, by the kind of features that the linear probe chose, and at all
patches of all frames, where these were kept.
"""

from dataclasses import replace

from eyespot.eval.encoders.subject import PATCHES
from eyespot.eval.protocols import knn, linear
from eyespot.eval.protocols.clips import attentive
from eyespot.eval.protocols.task import Candidate, Task
from eyespot.eval.results.result import Score

FRAMES = 8
"""Of each video, where nobody says otherwise."""
PATCH_BYTES = 2 * 2**30
"""The patches of all frames of all videos are kept, and looked at, where they take no more."""


def candidates(task: Task, *, frames: int) -> list[Candidate]:
    """A linear probe for every kind of features, and beside it the nearest neighbours by these features.

    The attentive probes stand beside the one that is reported.

    Args:
        task: features of videos, frame after frame.
        frames: how many.
    """
    kinds = [kind for kind in task.train if not kind.startswith(PATCHES)]
    means = replace(
        task,
        train={kind: task.train[kind].unflatten(1, (frames, -1)).mean(1) for kind in kinds},
        test={kind: task.test[kind].unflatten(1, (frames, -1)).mean(1) for kind in kinds},
    )
    found = [_beside_neighbours(probe, means, frames) for probe in linear.candidates(means)]
    best = max(range(len(found)), key=lambda place: found[place].validation or 0.0)
    found[best] = _beside_attention(found[best], task, frames)
    return found


def _beside_neighbours(probe: Candidate, means: Task, frames: int) -> Candidate:
    kind = str(probe.settings["features"])
    own = replace(means, train={kind: means.train[kind]}, test={kind: means.test[kind]})
    voted = max(knn.candidates(own), key=lambda candidate: candidate.validation or 0.0)
    assert voted.predictions is not None
    return replace(
        probe,
        metric=probe.metric.replace("linear/", "action/"),
        settings={"features": kind, "frames": str(frames), "lambda": probe.settings["lambda"]},
        scores={"knn": Score.of(voted.predictions == means.test_labels.cpu().numpy())},
    )


def _beside_attention(probe: Candidate, task: Task, frames: int) -> Candidate:
    asked = {"attentive": (str(probe.settings["features"]), frames)}
    for kind in task.train:
        if kind.startswith(PATCHES):
            asked["attentive, patches"] = kind, frames * int(kind.removeprefix(PATCHES))
    scores, settings = dict(probe.scores), dict(probe.settings)
    for name, (kind, num_tokens) in asked.items():
        found, rate = attentive.answers(task, kind, num_tokens)
        scores[name] = Score.of((found == task.test_labels).cpu().numpy())
        settings[name.replace("attentive", "rate")] = rate
    return replace(probe, scores=scores, settings=settings)
