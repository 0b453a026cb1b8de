"""SIGReg: are rows spread as a standard normal distribution is, seen from random directions? (LeJEPA.)

The empirical characteristic function is a mean over samples, so sums over ranks make it that of the whole batch: what
crosses the network are two numbers for each direction and knot. Every rank gets the same value, and the backward pass
is that of the sum over ranks: after the mean over ranks that an engine takes, every gradient is that of one process
with the whole batch.

Embeddings of any type become float32 here (float64 stays), with autocast off.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from eyespot.pretrain.distributed.collectives import num_rows, rank_sum

KNOTS = 17
"""From -REACH to REACH, both ends among them."""
REACH = 5.0


def sigreg_loss(
    views: Float[Tensor, "b v d"], directions: Float[Tensor, "d m"], *, knots: int = KNOTS, reach: float = REACH
) -> Float[Tensor, ""]:
    """Sketched isotropic Gaussian regularisation (Balestriero & LeCun 2025, arXiv:2511.08544, section 4, algorithm 1).

    With a of all directions and x of all N samples of all ranks, the statistic of Epps and Pulley (1983) of the
    projections a . x is

        T_a = N * integral of |mean_x exp(i t a . x) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,

    by the trapezoidal rule; the loss is its mean over directions, and over views, each of which is judged on its own.

    What is integrated is even, and 0 at t = 0: so the knots above 0 are reckoned, and count twice.

    Args:
        views: embeddings, of each sample as many views.
        directions: unit vectors; the same on all ranks.
        knots: points of the trapezoidal rule, an odd number of 3 or more.
        reach: they lie between -reach and reach.
    """
    with torch.autocast(views.device.type, enabled=False):
        rows = views.to(torch.promote_types(views.dtype, torch.float32))
        projections = rows @ directions.to(rows.dtype)  # (B, V, M)
        count, step = num_rows(rows), 2 * reach / (knots - 1)
        points = [number * step for number in range(1, knots // 2 + 1)]
        angles = [point * projections for point in points]
        sums = rank_sum(torch.stack([torch.stack([angle.cos().sum(0), angle.sin().sum(0)]) for angle in angles]))
        total = projections.new_zeros(())
        for point, (cosine, sine) in zip(points, sums / count, strict=True):
            normal = math.exp(-(point**2) / 2)
            weight = normal * step * (1 if point == points[-1] else 2)  # the rule halves both ends
            total = total + weight * ((cosine - normal).square() + sine.square()).mean()
    return count * total


def random_directions(seed: Int[Tensor, ""], step: Int[Tensor, ""], dim: int, count: int) -> Float[Tensor, "dim count"]:
    """Unit vectors, evenly spread over the sphere: a function of seed and step alone, with the same bits on any rank.

    Normal numbers (Box and Muller 1958) from a hash of the place of each (the finaliser of SplitMix64, Steele et al.
    2014), in 64-bit integers on the tensors' device: nothing is copied to it, no host waits for it, and there is no
    generator whose state a checkpoint would have to hold.

    Args:
        seed: of the run, int64.
        step: int64.
        dim: of the vectors.
        count: how many.
    """
    places = torch.arange(2 * dim * count, device=seed.device)
    bits = _mixed(_mixed(_mixed(seed) + step) + places)
    one, other = ((bits >> 40) & 0xFFFFFF).float().unflatten(0, (2, dim * count))  # 24 bits each, exact in float32
    radius = (-2 * ((one + 1) * 2.0**-24).log()).sqrt()
    normal = (radius * (other * (2 * math.pi * 2.0**-24)).cos()).unflatten(0, (dim, count))
    return normal / normal.norm(dim=0).clamp_min(1e-12)


def _mixed(numbers: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """SplitMix64's output function of numbers times its increment; products wrap around."""
    numbers = numbers * -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number
    numbers = (numbers ^ _shifted(numbers, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    numbers = (numbers ^ _shifted(numbers, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Int[Tensor, "*n"], bits: int) -> Int[Tensor, "*n"]:
    """To the right, zeros coming in: the numbers are signed only because torch knows no others to calculate with."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)
