"""Propagation: the first frame's mask is carried through a video by features alone.

The protocol of DINO (Caron et al. 2021, arXiv:2104.14294, section 4.2.2, and the authors' code), which is that of
Jabri et al. 2020 (arXiv:2006.14613). With f the L2-normalised features of places, the share of a class at place i is

    L_i = sum over j of softmax_j(f_i . f_j / 0.1) L_j,

j the 5 places most like i among all within 12 rows and columns of it in the first frame and in the 7 before this one.
Shares, not decisions, are carried on. A mask comes to the feature map by nearest neighbour; shares become a mask by
bilinear upsampling, stretching each class to 0..1, the largest one, and nearest neighbour to the mask's own size.

What differs from the authors' code: of places that are exactly alike only five count, and theirs counts all.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

LAST_FRAMES = 7
RADIUS = 12
TOP = 5
TEMPERATURE = 0.1
_AT_ONCE = 2**25
"""Similarities that are held at a time."""


def carried(
    target: Float[Tensor, "d h w"],
    sources: Float[Tensor, "n d h w"],
    shares: Float[Tensor, "n c h w"],
    *,
    radius: int = RADIUS,
    top: int = TOP,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, "c h w"]:
    """One step: the classes' shares at each place of a frame, from those of other frames.

    Args:
        target: L2-normalised features of the frame.
        sources: of the frames that are looked at.
        shares: theirs.
        radius: rows and columns that a place may have moved.
        top: so many places are looked at.
        temperature: divides cosines.
    """
    (_, height, width), count = target.shape, len(sources)
    columns = torch.arange(width, device=target.device)
    rows = torch.arange(height, device=target.device)
    beside = (columns[:, None] - columns).abs() <= radius
    window = min(height, 2 * radius + 1)
    step = max(1, min(height, _AT_ONCE // (count * (window + 1) * width**2)))
    found = []
    for start in range(0, height, step):
        own = rows[start : start + step]
        low, high = max(0, start - radius), min(height, start + step + radius)
        near = (own[:, None] - rows[low:high]).abs() <= radius
        allowed = (near[:, None, :, None] & beside[None, :, None, :]).flatten(2).flatten(0, 1)
        keys = sources[:, :, low:high].flatten(2)
        similar = torch.einsum("dq,ndk->qnk", target[:, start : start + step].flatten(1), keys)
        similar = similar.masked_fill(~allowed[:, None], -torch.inf).flatten(1)
        best, places = similar.topk(min(top, similar.shape[1]), dim=1)
        labels = shares[:, :, low:high].flatten(2).permute(0, 2, 1).flatten(0, 1)
        found.append(torch.einsum("qk,qkc->cq", (best / temperature).softmax(1), labels[places]))
    return torch.cat(found, dim=1).unflatten(1, (height, width))


def propagated(
    maps: Iterable[Float[Tensor, "d h w"]], first: Float[Tensor, "c h w"]
) -> Iterator[Float[Tensor, "c h w"]]:
    """The classes' shares in every frame of a video after the first, in order.

    Args:
        maps: features of the frames, the first one's too; L2-normalised here.
        first: what the first frame shows.
    """
    begun, last = None, deque[tuple[Tensor, Tensor]](maxlen=LAST_FRAMES)
    for features in maps:
        rows = F.normalize(features, dim=0)
        if begun is None:
            begun = rows, first
            continue
        seen, shares = zip(begun, *last, strict=True)
        found = carried(rows, torch.stack(seen), torch.stack(shares))
        last.append((rows, found))
        yield found


def one_hot(mask: UInt8[np.ndarray, "h w"], num_classes: int, grid: tuple[int, int]) -> Float[Tensor, "c gh gw"]:
    """A mask's classes at the places of a feature map; a number beyond them (what is ignored) is in none."""
    small = torch.from_numpy(nearest(mask, *grid)).long()
    return (small == torch.arange(num_classes)[:, None, None]).float()


def decided(
    shares: Float[Tensor, "c gh gw"], shown: tuple[int, int], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    """The class of each pixel.

    Args:
        shares: of the classes, at the places of a feature map.
        shown: height and width of what the encoder saw, pixels: there it is decided.
        size: height and width of the answer, pixels.
    """
    planes = F.interpolate(shares[None], shown, mode="bilinear", align_corners=False)[0]
    low, high = planes.amin((1, 2), keepdim=True), planes.amax((1, 2), keepdim=True)
    stretched = (planes - low) / (high - low).clamp_min(torch.finfo(planes.dtype).tiny)
    planes = torch.where(high > 0, stretched, planes)
    return nearest(planes.argmax(0).to(torch.uint8).cpu().numpy(), *size)


def nearest(mask: UInt8[np.ndarray, "h w"], height: int, width: int) -> UInt8[np.ndarray, "height width"]:
    """The mask at another size: each pixel takes the one under its centre."""
    rows, columns = (
        (2 * np.arange(wanted) + 1) * side // (2 * wanted)
        for wanted, side in zip((height, width), mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]
