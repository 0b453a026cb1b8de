"""Self-distillation: a student has to say what its teacher says, of other views and of hidden patches.

What DINO, iBOT and DINOv2 share. Distributions of the teacher (``goals``) sum to 1 along the last dimension; of the
student there are logarithms of distributions (``answers``).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def from_other_views(goals: Float[Tensor, "s b k"], answers: Float[Tensor, "v b k"]) -> Float[Tensor, ""]:
    """Cross-entropy of every view's answer with the goal of every other, large one (DINO, arXiv:2104.14294, eq. 3).

    - mean over samples, large views t, views v other than t of sum_k goals_t,k answers_v,k.

    Args:
        goals: of the S large views.
        answers: of all views, the large ones first.
    """
    others = answers.sum(0) - answers[: len(goals)]  # of each large view, all other views together
    return -(goals * others).sum(2).mean() / max(1, len(answers) - 1)


def of_masked_patches(
    goals: Float[Tensor, "v b m k"], answers: Float[Tensor, "v b m k"], masked: Bool[Tensor, "v b m"]
) -> Float[Tensor, ""]:
    """Cross-entropy of the answers for masked patches with what the teacher, which sees them, says of them.

    iBOT (Zhou et al. 2021, arXiv:2111.07832, equation 2), as its authors' code weighs it: the mean over the masked
    patches of a view, 0 where none is, then the mean over views and samples. So a sample weighs the same however much
    of it is masked, and micro-batches and ranks can be averaged.

    Args:
        goals: of patches of each view.
        answers: of the same patches.
        masked: which of them are.
    """
    errors = torch.where(masked, -(goals * answers).sum(3), 0.0)
    return (errors.sum(2) / masked.sum(2).clamp_min(1)).mean()


@torch.no_grad()
def entropies(goals: Float[Tensor, "s b k"]) -> dict[str, Tensor]:
    """Both kinds of collapse, in scalars to log.

    Returns:
        "teacher_entropy": mean entropy of what the teacher says of a view: at log(K) it says nothing;
        "mean_entropy": entropy of what it says on average: at 0 it says the same of all.
    """
    of_each, of_mean = (torch.special.entr(p).sum(-1).mean() for p in (goals, goals.mean((0, 1))))
    return {"teacher_entropy": of_each, "mean_entropy": of_mean}


def warmed_up(ends: tuple[float, float], share: float, progress: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """From the first of ``ends`` at the run's start to the other after this share of it, linearly; then it stays.

    Args:
        ends: any numbers.
        share: of the run, 0..1.
        progress: share of the run that is done, 0..1.
    """
    first, last = ends
    return first + (last - first) * (progress / max(share, 1e-9)).clamp(max=1)
