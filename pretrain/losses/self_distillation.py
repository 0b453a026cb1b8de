"""Distillation: a student has to say what its teacher says, of other views, of hidden patches, of what both see.

What DINO, iBOT, DINOv2 and DINOv3 share, whose teacher follows the student; and what features of a fixed teacher are
matched by. Distributions of the teacher (``goals``) sum to 1 along the last dimension; of the student there are
logarithms of distributions (``answers``).
"""

import torch
import torch.nn.functional as F
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


def patch_similarities(tokens: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n n"]:
    """Cosines of an image's patch tokens with each other: the Gram matrix of their unit vectors.

    Args:
        tokens: of each image, patch by patch; need not be normalised.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        units = F.normalize(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), dim=-1)
        return units @ units.mT


def gram_distance(tokens: Float[Tensor, "*b n d"], goals: Float[Tensor, "*b n e"]) -> Float[Tensor, "*b"]:
    """How far the similarities of patches are from those of the goal's (DINOv3, arXiv:2508.10104, equation 2).

    |X X^T - G G^T|_F^2 / n^2 with X and G the unit vectors of an image's n patches: as in its authors' code the mean
    over pairs of patches, so that it does not grow with the image.

    Args:
        tokens: of each image.
        goals: of the same patches, of the Gram teacher.
    """
    return (patch_similarities(tokens) - patch_similarities(goals)).square().mean((-2, -1))


def on_grid(tokens: Float[Tensor, "b n d"], grid: tuple[int, int], wanted: tuple[int, int]) -> Float[Tensor, "b m d"]:
    """Patch tokens of an image seen larger, brought to the places of a coarser grid (DINOv3, section 4.3): bicubic.

    Args:
        tokens: row by row.
        grid: rows and columns that they have.
        wanted: rows and columns that they get.
    """
    if grid == wanted:
        return tokens
    maps = tokens.transpose(1, 2).unflatten(2, grid)
    with torch.autocast(tokens.device.type, enabled=False):
        maps = F.interpolate(maps.to(torch.promote_types(maps.dtype, torch.float32)), wanted, mode="bicubic")
    return maps.flatten(2).transpose(1, 2)


def feature_distances(
    ours: Float[Tensor, "b *n d"], theirs: Float[Tensor, "b *n d"], smooth_share: float = 0.0
) -> Float[Tensor, " b"]:
    """How far a student's vectors are from its teacher's: of each sample, the mean over its vectors.

    (1 - s) (1 - cos(x, y)) + s mean over channels of smooth-L1(x - y), whose square ends at 1 (AM-RADIO, Ranzinger et
    al. 2023, arXiv:2312.06709, section 3: s is 0 for summaries and 0.1 for patches). In float32 at least.

    Args:
        ours: the student's.
        theirs: the teacher's, without gradient.
        smooth_share: s, 0..1.
    """
    wide = torch.promote_types(ours.dtype, torch.float32)
    ours, theirs = ours.to(wide), theirs.to(wide)
    with torch.autocast(ours.device.type, enabled=False):
        distances = 1 - F.cosine_similarity(ours, theirs, dim=-1)
        if smooth_share:
            smooth = F.smooth_l1_loss(ours, theirs, reduction="none").mean(-1)
            distances = (1 - smooth_share) * distances + smooth_share * smooth
    return distances.reshape(len(distances), -1).mean(1)
