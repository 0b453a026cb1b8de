"""Metric losses: what is alike lies close together and everything else apart, measured pair by pair in a batch.

Each loss compares this rank's rows with the rows of all ranks and gives a number per row. Every row is an anchor; where
it has several positives they count alike, so a frequent label weighs no more than a rare one. Memory is that of a few
matrices of own rows x all rows, on each rank. The backward pass is that of the sum over ranks: after the mean over
ranks that an engine takes, every gradient is that of one process with the whole batch.

Rows of any type become float32 here (float64 stays). A row without negatives costs what its positives cost.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eyespot.pretrain.distributed.collectives import gather_rows, gather_with_gradient, num_ranks

Mining = Literal["semi-hard", "hardest"]

LEAST = 1e-12
"""Squared distances below it are taken for it: the root has no slope at 0."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Pairs:
    """This rank's rows, those of all ranks, and which belong together."""

    rows: Float[Tensor, "m d"]
    others: Float[Tensor, "n d"]
    """Of all ranks, this one's among them."""
    positives: Bool[Tensor, "m n"]
    """Same sample or same label, but not the row itself."""
    negatives: Bool[Tensor, "m n"]
    """Neither."""

    @classmethod
    def of(cls, rows: Float[Tensor, "m d"], ids: Int[Tensor, " m"], labels: Int[Tensor, " m"]) -> "Pairs":
        """Pairs this rank's rows with everybody's.

        Args:
            rows: embeddings, a row per view of a sample.
            ids: of the rows' samples.
            labels: of the rows' samples; one without label (-1) has its own views as positives, and no others.

        Raises:
            UserError: the ranks' numbers of rows differ.
        """
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        all_ids, all_labels = (gather_rows(part) for part in (ids, labels))
        same = ids[:, None] == all_ids
        same |= (labels[:, None] == all_labels) & (labels[:, None] >= 0)
        first = dist.get_rank() * len(rows) if num_ranks() > 1 else 0
        places = torch.arange(len(all_ids), device=ids.device)
        itself = places[first : first + len(rows), None] == places
        return cls(rows=rows, others=gather_with_gradient(rows), positives=same & ~itself, negatives=~same)

    def products(self) -> Float[Tensor, "m n"]:
        """Inner products."""
        return self.rows @ self.others.T

    def squares(self) -> Float[Tensor, "m n"]:
        """Squared Euclidean distances."""
        lengths = self.rows.square().sum(1)[:, None] + self.others.square().sum(1)
        return (lengths - 2 * self.products()).clamp_min(LEAST)


def contrastive_loss(pairs: Pairs, margin: float) -> Float[Tensor, " m"]:
    """Positives together, negatives at least a margin apart (Hadsell et al. 2006, equation 4).

    With D the distance of a pair, 1/2 D^2 of a positive one and 1/2 max(0, margin - D)^2 of a negative one. The two
    kinds weigh alike, as where pairs are drawn half and half: each is the mean over the row's pairs of that kind.

    Args:
        pairs: rows that belong together or not.
        margin: a distance.
    """
    squares = pairs.squares()
    apart = (margin - squares.sqrt()).clamp_min(0).square()
    return (_mean_where(pairs.positives, squares) + _mean_where(pairs.negatives, apart)) / 2


def triplet_loss(pairs: Pairs, margin: float, mining: Mining) -> Float[Tensor, " m"]:
    """A positive is nearer than a negative by a margin (Schroff et al. 2015, arXiv:1503.03832, equation 3).

    For the anchor a with each positive p and one negative n, max(0, |a - p|^2 - |a - n|^2 + margin).

    Args:
        pairs: rows that belong together or not.
        margin: a difference of squared distances.
        mining: which negative: "semi-hard" = the nearest of those farther away than the positive (section 3.2), or the
            farthest of all where none is; "hardest" = the nearest of all.
    """
    squares = pairs.squares()
    candidates = torch.where(pairs.negatives, squares, torch.inf)
    if mining == "hardest":
        chosen = candidates.amin(1, keepdim=True)
    else:
        ordered = candidates.sort(1).values
        farthest = pairs.negatives.sum(1, keepdim=True) - 1
        places = torch.searchsorted(ordered.detach(), squares.detach(), right=True)
        chosen = ordered.gather(1, torch.minimum(places, farthest).clamp_min(0))
    return _mean_where(pairs.positives, (squares - chosen + margin).clamp_min(0))


def few_negatives_loss(pairs: Pairs, order: Float[Tensor, "m n"], margin: float, count: int) -> Float[Tensor, " m"]:
    """A positive is nearer than each of a few negatives by a margin (Wang & Gupta 2015, arXiv:1505.00687, equation 2).

    With D = 1 - cosine, the mean over positives p and ``count`` negatives n of max(0, D(a, p) - D(a, n) + margin).

    Args:
        pairs: unit vectors that belong together or not.
        order: of each pair a number: the negatives with the least are taken.
        margin: a difference of cosine distances.
        count: of negatives, or as many as there can be.
    """
    distances = 1 - pairs.products()
    most = min(count, max(1, distances.shape[1] - 2))
    chosen = torch.where(pairs.negatives, order, torch.inf).topk(most, dim=1, largest=False).indices
    apart, is_negative = distances.gather(1, chosen), pairs.negatives.gather(1, chosen)
    losses = (distances[:, :, None] - apart[:, None] + margin).clamp_min(0)
    each = torch.where(is_negative[:, None], losses, 0).sum(2) / is_negative.sum(1, keepdim=True).clamp_min(1)
    return _mean_where(pairs.positives, each)


def batch_hard_loss(pairs: Pairs) -> Float[Tensor, " m"]:
    """The farthest positive nearer than the nearest negative, with a soft margin (Hermans et al. 2017).

    arXiv:1703.07737, equation 5 with section 3.2's ln(1 + exp(x)) in place of the hinge: with D the distance,

        log(1 + exp(max over p of D(a, p) - min over n of D(a, n))).

    Args:
        pairs: rows that belong together or not.
    """
    distances = pairs.squares().sqrt()
    farthest = torch.where(pairs.positives, distances, 0).amax(1)
    nearest = torch.where(pairs.negatives, distances, torch.inf).amin(1)
    return F.softplus(farthest - nearest)


def n_pair_loss(pairs: Pairs, norm_weight: float) -> Float[Tensor, " m"]:
    """One positive against all negatives at once (Sohn 2016, equations 6 and 7).

    With s the inner products and the rows as long as they are, log(1 + sum over n of exp(s(a, n) - s(a, p))), plus
    ``norm_weight`` |a|^2, which keeps them from growing (section 3.2.2).

    Args:
        pairs: rows that belong together or not.
        norm_weight: of the squared length.
    """
    products = pairs.products()
    losses = F.softplus(_log_sum_where(pairs.negatives, products)[:, None] - products)
    return _mean_where(pairs.positives, losses) + norm_weight * pairs.rows.square().sum(1)


def lifted_loss(pairs: Pairs, margin: float) -> Float[Tensor, " m"]:
    """Each positive pair against all negatives of both its ends (Oh Song et al. 2016, arXiv:1511.06452, equation 4).

    With D the distance and J(a, p) = log(sum over n of exp(margin - D(a, n)) + sum over n of exp(margin - D(p, n)))
    + D(a, p), half of max(0, J(a, p))^2.

    Args:
        pairs: rows that belong together or not.
        margin: a distance.
    """
    distances = pairs.squares().sqrt()
    near = _log_sum_where(pairs.negatives, margin - distances)[:, None]
    losses = (torch.logaddexp(near, gather_with_gradient(near).T) + distances).clamp_min(0).square() / 2
    return _mean_where(pairs.positives, losses)


def nce_loss(pairs: Pairs, temperature: float) -> Float[Tensor, " m"]:
    """Data told from noise, pair by pair (Gutmann & Hyvärinen 2010; with k noise samples: 2012, JMLR 13, equation 8).

    The model of a positive j of row i is p(j | i) = exp(s_ij / T) / Z_i; the noise is uniform, and the row's k
    negatives are drawn from it. A classifier with the logit log p(j | i) - log(k p_noise) is right about all of them:

        -log sigmoid(g_ip) - sum over negatives n of log sigmoid(-g_in),  g_ij = s_ij / T - log(k Z_i p_noise).

    Z_i is estimated from the negatives, as in Wu et al. 2018 (arXiv:1805.01978, equation 8) but for each row and step:
    then k Z_i p_noise = sum over n of exp(s_in / T). It is a number here, without gradient.

    Args:
        pairs: rows that belong together or not.
        temperature: divides inner products.
    """
    logits = pairs.products() / temperature
    logits = logits - _log_sum_where(pairs.negatives, logits).detach()[:, None]
    noise = torch.where(pairs.negatives, F.softplus(logits), 0).sum(1)
    return _mean_where(pairs.positives, F.softplus(-logits)) + noise


def soft_neighbours_loss(pairs: Pairs, temperature: float) -> Float[Tensor, " m"]:
    """How unlikely it is that a random near neighbour belongs to the row.

    Salakhutdinov & Hinton 2007; with the temperature T of Frosst et al. 2019 (arXiv:1902.01889, equation 1): with D the
    distance, -log(sum over p of exp(-D(a, p)^2 / T) / sum over p and n of exp(-D(a, .)^2 / T)).

    Args:
        pairs: rows that belong together or not.
        temperature: divides squared distances.
    """
    closeness = -pairs.squares() / temperature
    positives, negatives = (_log_sum_where(mask, closeness) for mask in (pairs.positives, pairs.negatives))
    return F.softplus(negatives - positives)


def _mean_where(mask: Bool[Tensor, "m n"], values: Float[Tensor, "m n"]) -> Float[Tensor, " m"]:
    """Of each row; 0 where it has none."""
    return torch.where(mask, values, 0).sum(1) / mask.sum(1).clamp_min(1)


def _log_sum_where(mask: Bool[Tensor, "m n"], values: Float[Tensor, "m n"]) -> Float[Tensor, " m"]:
    """The logarithm of each row's sum of exponentials; a large negative number where it has none."""
    return torch.where(mask, values, torch.finfo(values.dtype).min).logsumexp(1)
