"""Multi-block masks: which patches of an image are seen, and which blocks of others are to be predicted from them.

I-JEPA (Assran et al. 2023, arXiv:2301.08243, section 3, figure 4). Pure functions of numbers that belong to the sample,
on the device where these lie; nobody waits for it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eyespot.data_pipeline.errors import UserError

DRAWS = 4
"""Numbers that decide a block: area, aspect, top, left."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Blocks:
    """How blocks are drawn, and how many patches are taken of them: the same number of every image."""

    grid: tuple[int, int]
    """How many patches stand above and beside each other."""
    num_targets: int
    """Blocks to be predicted; they may overlap."""
    target_scale: tuple[float, float]
    """Smallest and largest area of such a block, as a share of the patches."""
    target_aspect: tuple[float, float]
    """Its smallest and largest height / width."""
    context_scale: tuple[float, float]
    """Smallest and largest area of the square block of which the targets leave what may be seen."""
    context_ratio: float
    """Share of the patches that is seen."""

    @property
    def num_patches(self) -> int:
        """Of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def num_seen(self) -> int:
        """Of an image's patches."""
        return int(self.num_patches * self.context_ratio)

    @property
    def num_predicted(self) -> int:
        """Patches of each block: as many as the smallest one has."""
        return int(self.num_patches * self.target_scale[0])

    @property
    def num_draws(self) -> int:
        """Numbers that an image's blocks take."""
        return DRAWS * (self.num_targets + 1)

    def check(self) -> None:
        """Whether every image can give so many patches.

        Raises:
            UserError: it cannot.
        """
        for name, count in (("context_ratio", self.num_seen), ("target_scale", self.num_predicted)):
            if not count:
                raise UserError(
                    f"objective.{name} {getattr(self, name)}: is no whole patch of {self.num_patches}; raise it, or"
                    " make encoder.patch_size smaller"
                )
        # a block is as wide as its area needs at least, so at most a row less one larger than its area
        largest = int(self.num_patches * self.target_scale[1]) + self.grid[0] - 1
        if self.num_patches - largest < self.num_seen:
            raise UserError(
                f"objective.context_ratio {self.context_ratio}: a block of {largest} of {self.num_patches} patches"
                f" leaves fewer than {self.num_seen} to be seen; lower it, or objective.target_scale"
            )


def multi_block(
    draws: Float[Tensor, "b draws"], ties: Float[Tensor, "b n"], blocks: Blocks
) -> tuple[Int[Tensor, "b seen"], Int[Tensor, "b targets predicted"]]:
    """Patches to be seen, and of each target block patches to be predicted; none of a target block is seen.

    A target block has the area and the aspect that were drawn for it, as nearly as whole patches can, and never less
    area; its place is any in the image. One that would leave fewer than ``num_seen`` patches outside of all blocks lies
    where the block before it lies. Of the square context block what no target block covers is seen: as many patches as
    are wanted, chosen at random; where it has too few, the others come from outside of it. Of each target block as many
    are predicted as the smallest one has, chosen at random, too.

    Args:
        draws: uniform in [0, 1), ``blocks.num_draws`` of each image.
        ties: uniform in [0, 1), one for each patch.
        blocks: how they are drawn.
    """
    area, aspect, top, left = draws.unflatten(1, (blocks.num_targets + 1, DRAWS)).unbind(2)
    num_patches = blocks.num_patches
    covered = torch.zeros_like(ties, dtype=torch.bool)
    targets: list[Tensor] = []
    for number in range(blocks.num_targets):
        size = (num_patches * _between(area[:, number], blocks.target_scale)).floor().clamp(min=blocks.num_predicted)
        shape = _between(aspect[:, number], blocks.target_aspect)
        inside = _rectangle(size, shape, top[:, number], left[:, number], blocks)
        if targets:
            fits = num_patches - (covered | inside).sum(1, keepdim=True) >= blocks.num_seen
            inside = torch.where(fits, inside, targets[-1])
        covered = covered | inside
        targets.append(inside)
    size = (num_patches * _between(area[:, -1], blocks.context_scale)).floor()
    context = _rectangle(size, torch.ones_like(size), top[:, -1], left[:, -1], blocks)
    # numbers below 1 come first, then those of patches outside of the context block, and never a covered one
    order = (ties + (~context).to(ties.dtype) + 2 * covered.to(ties.dtype)).argsort(dim=1, stable=True)
    of_targets = [torch.where(inside, ties, 2).argsort(dim=1, stable=True) for inside in targets]
    predicted = torch.stack([places[:, : blocks.num_predicted] for places in of_targets], dim=1)
    return order[:, : blocks.num_seen], predicted


def _between(numbers: Float[Tensor, " b"], bounds: tuple[float, float]) -> Float[Tensor, " b"]:
    return bounds[0] + numbers * (bounds[1] - bounds[0])


def _rectangle(
    size: Float[Tensor, " b"],
    aspect: Float[Tensor, " b"],
    top: Float[Tensor, " b"],
    left: Float[Tensor, " b"],
    blocks: Blocks,
) -> Bool[Tensor, "b n"]:
    """Which patches lie in a block of at least ``size`` patches, height / width near ``aspect``."""
    rows, columns = blocks.grid
    height = torch.maximum((size * aspect).sqrt().round(), (size / columns).ceil()).clamp(1, rows)
    width = (size / height).ceil().clamp(1, columns)
    top, left = (top * (rows - height + 1)).floor()[:, None], (left * (columns - width + 1)).floor()[:, None]
    number = torch.arange(rows * columns, device=size.device)
    y, x = number // columns, number % columns
    return (y >= top) & (y < top + height[:, None]) & (x >= left) & (x < left + width[:, None])
