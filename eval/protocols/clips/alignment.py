"""Alignment: whether features say which moment of a video a frame shows, whoever sees it (Sermanet et al. 2017).

The alignment error of time-contrastive networks (arXiv:1704.06888, section 4.1): for each frame i of one camera the
most similar frame j of the other camera, in the same video; |i - j| as a share of the number of frames, averaged. What
is reported is 1 minus that, so that more is better, as everywhere; the error stands beside it. By chance the error is
(T^2 - 1) / (3 T^2), nearly a third.

Among the frames of all videos: "moment recall@k" is the share of frames for which the first k of the other camera
hold one of the same video at most one step away in time; "video recall@k" that for which the first k of their own
camera hold one of the same video more than one step away, those nearer being left out.

Similarity is the cosine. Nothing is learned and nothing is chosen: the first kind of features is reported. The paper's
numbers are those of a head's outputs: where a run has a head that embeds frames, its numbers stand beside.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn.functional import normalize

from eyespot.eval.encoders.subject import HEAD
from eyespot.eval.protocols.knn import nearest
from eyespot.eval.protocols.mean_iou import NUM_RESAMPLES
from eyespot.eval.protocols.task import Candidate, Task
from eyespot.eval.results.result import EACH, Score

FRAMES = 32
"""At most so many of each video, where nobody says otherwise."""
TOLERANCE = 1
"""Steps between the frames that are looked at: what is no farther away is the same moment."""
KS = (1, 5)
OF_HEAD = ("alignment", "alignment error", "moment recall@1")
"""What is said of a run's own head."""
_AT_ONCE = 1024


def errors(one: Float[Tensor, "n t d"], other: Float[Tensor, "n t d"]) -> Float64[Tensor, " n"]:
    """The alignment error of each video: of two cameras' features, L2-normalised; of equals the first frame counts."""
    count = one.shape[1]
    found = (one @ other.transpose(1, 2)).argmax(2)
    return (found - torch.arange(count, device=one.device)).abs().double().mean(1) / count


def chance(count: int) -> float:
    """The error of whoever names frames at random."""
    return (count**2 - 1) / (3 * count**2)


def moment_hits(one: Float[Tensor, "n t d"], other: Float[Tensor, "n t d"]) -> dict[int, Bool[Tensor, "n t"]]:
    """Whether the first k frames of all videos of the other camera hold the moment, for each frame of the one."""
    count, k = one.shape[1], min(max(KS), one.shape[0] * one.shape[1])
    own = torch.arange(one.shape[0] * count, device=one.device)
    rows = _nearest(one.flatten(0, 1), other.flatten(0, 1), k)
    right = _same_video(rows, own, count) & (_apart(rows, own, count) <= TOLERANCE)
    return {k: right[:, :k].any(1).unflatten(0, one.shape[:2]) for k in KS}


def video_hits(one: Float[Tensor, "n t d"]) -> dict[int, Bool[Tensor, "n t"]]:
    """Whether the first k frames of all videos, but for the same moment, hold one of the frame's own video."""
    count, left_out = one.shape[1], 2 * TOLERANCE + 1
    own = torch.arange(one.shape[0] * count, device=one.device)
    rows = _nearest(one.flatten(0, 1), one.flatten(0, 1), min(max(KS) + left_out, len(own)))
    same = _same_video(rows, own, count)
    counts = ~(same & (_apart(rows, own, count) <= TOLERANCE))
    places = counts.cumsum(1)  # among those that count
    return {k: (same & counts & (places <= k)).any(1).unflatten(0, one.shape[:2]) for k in KS}


def _nearest(queries: Float[Tensor, "q d"], bank: Float[Tensor, "n d"], k: int) -> Int[Tensor, "q k"]:
    return torch.cat([nearest(rows, bank, k)[1] for rows in queries.split(_AT_ONCE)])


def _same_video(rows: Int[Tensor, "q k"], own: Int[Tensor, " q"], count: int) -> Bool[Tensor, "q k"]:
    return rows // count == own[:, None] // count


def _apart(rows: Int[Tensor, "q k"], own: Int[Tensor, " q"], count: int) -> Int[Tensor, "q k"]:
    return (rows % count - own[:, None] % count).abs()


def over_videos(values: Float64[np.ndarray, " n"]) -> Score:
    """The mean over videos; the interval of 95 % is the bootstrap's (Efron 1979): whole videos are drawn again."""
    draws = np.random.default_rng(0).multinomial(len(values), np.full(len(values), 1 / len(values)), NUM_RESAMPLES)
    low, high = np.quantile(draws @ values / len(values), [0.025, 0.975])
    return Score(value=float(values.mean()), interval=(float(low), float(high)))


def candidates(task: Task, *, frames: int) -> list[Candidate]:
    """Alignment and retrieval by every kind of features; beside each of them by a run's own head, where there is one.

    Args:
        task: features of videos: those of so many frames of one camera, then of as many of the other.
        frames: how many.
    """
    kinds = dict(task.test)
    own = _numbers(kinds.pop(HEAD), frames) if HEAD in kinds else {}
    beside = {f"own head: {name}": own[name] for name in OF_HEAD if name in own}
    return [_candidate(kind, rows, frames, beside) for kind, rows in kinds.items()]


def _candidate(kind: str, rows: Float[Tensor, "n _"], frames: int, beside: dict[str, Score]) -> Candidate:
    numbers = _numbers(rows, frames)
    return Candidate(
        metric=f"alignment/{kind}_l2",
        settings={"features": kind, "frames": str(frames), "chance": round(1 - chance(frames), 4)},
        share=numbers.pop("alignment"),
        scores={**numbers, **beside},
    )


def _numbers(rows: Float[Tensor, "n _"], frames: int) -> dict[str, Score]:
    """All that there is to say, by one kind of features."""
    one, other = normalize(rows.unflatten(1, (2, frames, -1)), dim=3).unbind(1)
    wrong = errors(one, other).cpu().numpy()
    hits = {"moment": moment_hits(one, other), "video": video_hits(one)}
    recalls = {
        f"{what} recall@{k}": over_videos(right.double().mean(1).cpu().numpy())
        for what, found in hits.items()
        for k, right in found.items()
    }
    each = [round(float(1 - value), 6) for value in wrong]
    return {
        "alignment": over_videos(1 - wrong),
        "alignment error": over_videos(wrong),
        **recalls,
        EACH: Score(value=float(np.mean(each)), values=each),
    }
