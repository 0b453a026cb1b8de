"""Scores of an encoder without labels, and how sure they are: the same images, in blocks that are drawn again.

    rankme      effective rank of the features of whole images (Garrido et al. 2022, arXiv:2210.02885); more is better
    alpha_req   decay of their covariance's eigenvalues (Agrawal et al. 2022, alpha-ReQ); 1 is best
    lidar       effective rank of what tells images apart beyond their views (Thilak et al. 2023, arXiv:2312.04000)
    knn         agreement of two views of the images about which others are near; more is better

All but the last are functions of sums over images of products of features. Of random blocks of images these sums are
kept, so a bootstrap costs no second look at the features: it draws blocks.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor
from torch.nn.functional import normalize

from eyespot.eval.protocols.label_free import eigenvalue_decay
from eyespot.pretrain.losses.feature_statistics import spread_of

NUM_NEIGHBOURS = 10
"""Of each image, by cosine; fewer where there are fewer images."""
NUM_BLOCKS = 32
NUM_DRAWS = 64
WITHIN = 1e-4
"""What LiDAR adds to the diagonal of the covariance of views (delta)."""
FLOOR = 1e-7
"""What LiDAR adds to each share of the eigenvalues (epsilon)."""
_TILE = 1024


@dataclass(kw_only=True, slots=True)
class Looks:
    """One encoder's features of the same images."""

    whole: Float[Tensor, "n d"]
    """Of whole images."""
    views: Float[Tensor, "n q d"]
    """Of random views of each, two or more, of an even number."""


@dataclass(kw_only=True, slots=True)
class Scored:
    """One encoder's scores."""

    values: dict[str, float]
    draws: dict[str, Float64[np.ndarray, " draws"]]
    """The same of each drawn collection of blocks."""
    neighbours: Int64[Tensor, "n k"]
    """Of whole images."""


def blocks_of(num_images: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Which block each image is in: at random, of equal sizes but for one."""
    return np.random.default_rng(seed).permutation(num_images) % min(NUM_BLOCKS, num_images)


def scored(looks: Looks, blocks: Int64[np.ndarray, " n"], seed: int) -> Scored:
    """All scores, and those of ``NUM_DRAWS`` bootstrap draws, the same for each encoder.

    Args:
        looks: what the encoder makes of the images.
        blocks: of ``blocks_of``.
        seed: of the draws.
    """
    sums = _Sums.of(looks, torch.from_numpy(blocks).to(looks.whole.device))
    num_blocks = len(sums.counts)
    chances = np.full(num_blocks, 1 / num_blocks)
    drawn = np.random.default_rng([seed, 1]).multinomial(num_blocks, chances, size=NUM_DRAWS)
    found = [sums.scores(torch.from_numpy(times).to(sums.whole)) for times in drawn]
    return Scored(
        values=sums.scores(torch.ones_like(sums.counts)),
        draws={name: np.array([each[name] for each in found]) for name in found[0]},
        neighbours=nearest(looks.whole),
    )


def merit(name: str, values: float | Float64[np.ndarray, " draws"]) -> float | Float64[np.ndarray, " draws"]:
    """What is more, the better: of alpha-ReQ the closeness to 1, else the score."""
    return -abs(values - 1) if name == "alpha_req" else values


def nearest(rows: Float[Tensor, "n d"]) -> Int64[Tensor, "n k"]:
    """Of each row the ``NUM_NEIGHBOURS`` others with the largest cosine."""
    unit, k = normalize(rows.float(), dim=1), min(NUM_NEIGHBOURS, len(rows) - 1)
    found = []
    for begin in range(0, len(unit), _TILE):
        likeness = unit[begin : begin + _TILE] @ unit.T
        likeness[torch.arange(len(likeness)), begin + torch.arange(len(likeness))] = -math.inf
        found.append(likeness.topk(k, dim=1).indices)
    return torch.cat(found)


def shared(one: Int64[Tensor, "n k"], other: Int64[Tensor, "n k"]) -> Float64[Tensor, " n"]:
    """Of each image the share of its neighbours that are the same in both, 0..1; chance is k / (n - 1)."""
    return (one[:, :, None] == other[:, None, :]).any(2).double().mean(1)


def lidar(between: Float64[Tensor, "d d"], within: Float64[Tensor, "d d"]) -> float:
    """exp of the entropy of the eigenvalues of W^-1/2 B W^-1/2, with W = within + delta I.

    LiDAR, equations 3 to 5: with p_k = lambda_k / sum lambda + epsilon,

        exp(-sum_k p_k log p_k).

    Args:
        between: covariance of the images' mean features.
        within: covariance of views around their image's mean.
    """
    eye = torch.eye(len(within), dtype=within.dtype, device=within.device)
    root = torch.linalg.cholesky(within + WITHIN * eye)
    half = torch.linalg.solve_triangular(root, between, upper=False)
    values = torch.linalg.eigvalsh(torch.linalg.solve_triangular(root, half.T, upper=False)).clamp_min(0)
    if not (total := values.sum()):
        return 0.0
    shares = values / total + FLOOR
    return torch.special.entr(shares).sum().exp().item()


@dataclass(kw_only=True, slots=True)
class _Sums:
    """Sums over the images of each block."""

    counts: Float64[Tensor, " blocks"]
    whole: Float64[Tensor, "blocks d d"]
    """Of x x^T, of whole images."""
    whole_sum: Float64[Tensor, "blocks d"]
    means: Float64[Tensor, "blocks d d"]
    """Of m m^T, of the means over an image's views."""
    means_sum: Float64[Tensor, "blocks d"]
    within: Float64[Tensor, "blocks d d"]
    """Of the mean over an image's views of (v - m) (v - m)^T, unbiased."""
    agreement: Float64[Tensor, " blocks"]
    noise: float
    """Singular values below it, as a share of the root of the sum of their squares, are rounding."""

    @classmethod
    def of(cls, looks: Looks, blocks: Int[Tensor, " n"]) -> "_Sums":
        near = [nearest(view) for view in looks.views.unbind(1)]
        pairs = list(zip(near[::2], near[1::2], strict=True))
        agreement = torch.stack([shared(one, other) for one, other in pairs]).mean(0)
        wholes, centres, spreads = [], [], []
        places = [(blocks == block).nonzero()[:, 0] for block in range(int(blocks.max()) + 1)]
        for rows in places:
            whole, views = looks.whole[rows].double(), looks.views[rows].double()
            mean = views.mean(1)
            apart = (views - mean[:, None]).flatten(0, 1)
            wholes.append((whole.T @ whole, whole.sum(0)))
            centres.append((mean.T @ mean, mean.sum(0)))
            spreads.append(apart.T @ apart / (views.shape[1] - 1))
        return cls(
            counts=torch.tensor([float(len(rows)) for rows in places], dtype=torch.float64, device=blocks.device),
            whole=torch.stack([product for product, _ in wholes]),
            whole_sum=torch.stack([total for _, total in wholes]),
            means=torch.stack([product for product, _ in centres]),
            means_sum=torch.stack([total for _, total in centres]),
            within=torch.stack(spreads),
            agreement=torch.stack([agreement[rows].sum() for rows in places]),
            noise=torch.finfo(looks.whole.dtype).eps,
        )

    def scores(self, times: Float64[Tensor, " blocks"]) -> dict[str, float]:
        """Of the blocks, each taken so many times."""
        count = times @ self.counts
        whole, total = torch.einsum("b,bij->ij", times, self.whole), times @ self.whole_sum
        means, centre = torch.einsum("b,bij->ij", times, self.means), times @ self.means_sum
        noise = self.noise * whole.trace().sqrt()
        values, centred = (_singular(each, noise) for each in (whole, whole - torch.outer(total, total) / count))
        between = (means - torch.outer(centre, centre) / count) / (count - 1)
        return {
            "rankme": spread_of(values),
            "alpha_req": eigenvalue_decay(centred),
            "lidar": lidar(between, torch.einsum("b,bij->ij", times, self.within) / count),
            "knn": float(times @ self.agreement / count),
        }


def _singular(product: Float64[Tensor, "d d"], noise: Float64[Tensor, ""]) -> Float64[Tensor, " r"]:
    """Singular values of X, largest first, of X^T X, without what is rounding in X."""
    values = torch.linalg.eigvalsh(product).clamp_min(0).sqrt().flip(0)
    return values[values > noise]
