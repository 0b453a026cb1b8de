"""Colours as people see them: sRGB, CIE Lab (D65), and the squares of the ab plane in which a colour is named.

A method that computes with colours asks for views of a known normalisation: ``ViewSpec(..., fixed=True)``, ImageNet's.
Lab is from CIE 15 with the D65 white of sRGB (IEC 61966-2-1): L 0..100 is lightness, a goes from green to red, b from
blue to yellow, in units of which two just differ. The names of colours are those of Zhang et al. 2016
(arXiv:1603.08511), section 2: a grid of 10 units on what of the ab plane sRGB can show.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import IMAGENET_MEAN, IMAGENET_STD
from eyespot.pretrain.distributed.collectives import rank_sum
from eyespot.pretrain.skipped_step import Taken

BIN_UNITS = 10
NUM_NEAREST = 5
SIGMA = 5.0
"""Of the kernel that spreads a colour over its nearest bins, and the prior over its neighbours; units of Lab."""

_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _TO_XYZ.sum(1)
_TO_RGB = np.linalg.inv(_TO_XYZ / _WHITE[:, None])
_KNEE = 6 / 29
_ROWS = {
    **{-90: (50, 90), -80: (20, 90), -70: (0, 90), -60: (-20, 90), -50: (-30, 100), -40: (-40, 100), -30: (-50, 100)},
    **{-20: (-50, 100), -10: (-60, 100), 0: (-70, 100), 10: (-80, 90), 20: (-80, 90), 30: (-90, 90), 40: (-100, 80)},
    **{50: (-100, 80), 60: (-110, 80), 70: (-110, 80), 80: (-110, 70), 90: (-110, 70), 100: (-80, -20)},
}
"""For each a of the grid the least and the greatest b of a bin; found by a look at all 16.8 million colours of sRGB."""
_PIXELS_AT_ONCE = 65536


def pixels(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """sRGB values in 0..1 of normalised images."""
    return (images * _channels(IMAGENET_STD, images) + _channels(IMAGENET_MEAN, images)).clamp(0, 1)


def normalized(rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """The inverse of ``pixels``."""
    return (rgb - _channels(IMAGENET_MEAN, rgb)) / _channels(IMAGENET_STD, rgb)


def to_lab(rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """L, a and b of sRGB values in 0..1."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    xyz = _mixed(linear, _TO_XYZ / _WHITE[:, None])
    roots = torch.where(xyz > _KNEE**3, xyz.clamp_min(_KNEE**3) ** (1 / 3), xyz / (3 * _KNEE**2) + 4 / 29)
    x, y, z = roots.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def to_rgb(lab: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """sRGB values in 0..1; what sRGB cannot show is cut off channel by channel."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    roots = torch.stack([y + a / 500, y, y - b / 200], dim=1)
    linear = _mixed(torch.where(roots > _KNEE, roots**3, 3 * _KNEE**2 * (roots - 4 / 29)), _TO_RGB).clamp(0, 1)
    return torch.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    ).clamp(0, 1)


def to_gray(lightness: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 3 h w"]:
    """sRGB values in 0..1 of the gray of this lightness, 0..100."""
    return to_rgb(torch.cat([lightness, torch.zeros_like(lightness).expand(-1, 2, -1, -1)], dim=1))


def thinned(lab: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "n c"]:
    """A row for each of ``size`` x ``size`` pixels of each image, evenly spread: picked, for a mean would be grayer."""
    return F.interpolate(lab, (size, size), mode="nearest-exact").permute(0, 2, 3, 1).flatten(0, 2)


@torch.no_grad()
def make_colorblind(encoder: nn.Module) -> None:
    """Gives the first convolution the same weights for all three channels: their root mean square is what it was."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            weight = module.weight.mean(1, keepdim=True) * 3**0.5
            module.weight.copy_(weight.expand_as(module.weight))
            return


def _mixed(channels: Float[Tensor, "b 3 h w"], matrix: np.ndarray) -> Float[Tensor, "b 3 h w"]:
    """Each pixel times the matrix: sums, because a matrix product would be cast to bf16 under autocast."""
    return torch.stack([sum(float(weight) * channels[:, n] for n, weight in enumerate(row)) for row in matrix], dim=1)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _channels(values: tuple[float, ...], like: Tensor) -> Float[Tensor, "3 1 1"]:
    return torch.stack([like.new_full((1, 1), value) for value in values])  # filled there: nothing is copied


def bins() -> Float64[np.ndarray, "q 2"]:
    """The a and b of every name: the corners of all squares of the grid that hold a colour of sRGB.

    They are 309. Zhang et al. list 313 and do not say how they were chosen; some 260 would do if a colour were only
    ever in the bin nearest to it. With all corners there, each colour lies amid the bins that it is spread over.
    """
    return np.array(
        [(a, b) for a, (low, high) in _ROWS.items() for b in range(low, high + 1, BIN_UNITS)], dtype=np.float64
    )


class ColorNames(nn.Module):
    """Which of the bins a colour is, how rare that is, and which colour is meant by a distribution over bins."""

    bins: Float[Tensor, "q 2"]
    seen: Int[Tensor, " q"]
    """How many pixels of the run so far were nearest to each bin."""

    def __init__(self) -> None:
        super().__init__()
        found = bins()
        squared = np.square(found[:, None] - found).sum(-1)
        kernel = np.exp(-squared / (2 * SIGMA**2))
        self.register_buffer("bins", torch.from_numpy(found).float(), persistent=False)
        smoothing = torch.from_numpy(kernel / kernel.sum(0)).float()
        self.register_buffer("smoothing", smoothing, persistent=False)
        self.register_buffer("seen", torch.zeros(len(found), dtype=torch.int64))
        self._waiting: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.bins)

    def encode(self, ab: Float[Tensor, "n 2"]) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
        """The nearest bins of each colour, the nearest first, and its shares in them (section 2.2).

        The shares are proportional to a Gaussian of the distance, and sum to 1.
        """
        near, places = zip(*(self._nearest(part) for part in ab.split(_PIXELS_AT_ONCE)), strict=True)
        return torch.cat(places), (-torch.cat(near) / (2 * SIGMA**2)).softmax(1)

    def _nearest(self, ab: Float[Tensor, "n 2"]) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
        """Squared distances and bins."""
        squared = (ab[:, None] - self.bins.to(ab.dtype)).square().sum(-1)
        near, places = squared.topk(NUM_NEAREST, largest=False)
        return near, places

    def weights(self, balance: float) -> Float[Tensor, " q"]:
        """How much a pixel counts by its nearest bin, so that rare colours are learned too (equation 4).

        With p the share of each bin, smoothed over its neighbours, proportional to 1 / ((1 - balance) p + balance / Q),
        and 1 on average over pixels. Each bin counts as seen once more than it was.

        Args:
            balance: 0 = in inverse proportion to the share, 1 = all alike.
        """
        shares = (self.seen + 1).to(self.bins.dtype) / (self.seen.sum() + len(self))
        smooth = self.get_buffer("smoothing") @ shares
        inverse = 1 / ((1 - balance) * smooth + balance / len(self))
        return inverse / (smooth * inverse).sum()

    def mean(self, logits: Float[Tensor, "b q h w"], temperature: float) -> Float[Tensor, "b 2 h w"]:
        """The annealed mean (equation 5): of softmax(logits / temperature), between its mode and its mean."""
        shares = (logits / temperature).softmax(1)
        return torch.einsum("bqhw,qc->bchw", shares, self.bins.to(shares.dtype))

    def wait(self, nearest: Int[Tensor, " n"]) -> None:
        """Holds back the bins of a micro-batch's pixels until the step is taken."""
        self._waiting.append(torch.zeros_like(self.seen).index_add_(0, nearest, torch.ones_like(nearest)))

    @torch.no_grad()
    def count(self, taken: Taken = True) -> None:
        """Counts what waited, of all ranks, if the step was taken."""
        if self._waiting:
            self.seen += rank_sum(torch.stack(self._waiting).sum(0)) * taken
            self.forget()

    def forget(self) -> None:
        """Drops what waited: its step was skipped."""
        self._waiting.clear()
