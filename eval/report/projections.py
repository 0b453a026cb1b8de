"""Features brought down to what a page can show: three colours, or a place in the plane."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

TAILS = 0.02
"""Share of the values that lie beyond the ends of a colour, on each side."""
NUM_STEPS = 500
"""Of t-SNE: half as many as scikit-learn's default, and enough for hundreds of points."""


def patch_colors(patches: Float[Tensor, "b d h w"]) -> tuple[Float[Tensor, "b 3 h w"], float]:
    """The first three principal components of all patches of all images, as red, green and blue within 0..1.

    What has the same colour is alike to the encoder, across images too (Oquab et al. 2023, arXiv:2304.07193, figure 1).
    What a place has in common over all images is taken off first: in many an encoder the position is what patches
    differ by most. A component's sign is chosen so that its largest weight is positive.

    Returns:
        The colours, and the share of the variance that they hold.
    """
    batch, dim, height, width = patches.shape
    patches = patches.double()
    rows = (patches - patches.mean(0)).permute(0, 2, 3, 1).reshape(-1, dim)
    variances, directions = torch.linalg.eigh(rows.T @ rows)
    top = directions[:, -3:].flip(1)
    top = top * top.gather(0, top.abs().argmax(0, keepdim=True)).sign()
    found = rows @ top
    low, high = found.quantile(TAILS, 0), found.quantile(1 - TAILS, 0)
    colors = ((found - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    colors = torch.nn.functional.pad(colors, (0, 3 - colors.shape[1]))
    share = variances[-3:].clamp(min=0).sum() / variances.clamp(min=0).sum().clamp(min=1e-300)
    return colors.reshape(batch, height, width, 3).permute(0, 3, 1, 2).float(), float(share)


def plane(features: Float[Tensor, "n d"]) -> Float[np.ndarray, "n 2"]:
    """t-SNE of L2-normalised features: who is near whom, and nothing about distances (van der Maaten & Hinton 2008).

    scikit-learn's, begun from the principal components, with perplexity 30 (less for fewer than 91 rows); the same
    every time.
    """
    from sklearn.manifold import TSNE

    rows = normalize(features.double(), dim=1).cpu().numpy()
    perplexity = max(1.0, min(30.0, (len(rows) - 1) / 3))
    if np.ptp(rows, axis=0).max() == 0:
        return np.zeros((len(rows), 2))  # all the same: there is nothing to lay out
    return (
        TSNE(init="pca", perplexity=perplexity, max_iter=NUM_STEPS, random_state=0)
        .fit_transform(rows)
        .astype(np.float64)
    )
