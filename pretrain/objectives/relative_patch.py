"""Relative patches: unsupervised visual representation learning by context prediction (Doersch et al. 2015).

arXiv:1505.05192. Two patches are cut from an image: the middle one of a grid of three by three, and one of its eight
neighbours. Both go through the encoder, and a classifier on both features names which neighbour it was:

    L = -log softmax(head(encoder(centre), encoder(neighbour)))_k,   k in 0..7,

averaged over the batch.

What must not give the answer away (section 3.1): patches do not touch (``gap``) and each is shifted in its cell
(``jitter`` is what the cell leaves); of each image two colour channels, drawn anew, become noise, because a lens bends
colours by where they are.

What differs from the authors' code: one pair of patches per image and step, theirs are many; patches are as large as
what the encoder sees, so the view is larger than the encoder's own; each patch is cut at one scale, theirs at several.

To expect: AlexNet on PASCAL VOC 2007 detection: 46.3 mAP where random weights give 40.7 (table 1).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.tiles import GRID, NUM_TILES, cut_tiles, side_by_side, without_fringes
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.objective import About, Objective, one_sized

CENTRE = NUM_TILES // 2
NEIGHBOURS = [place for place in range(NUM_TILES) if place != CENTRE]


class RelativePatch(Objective):
    """Says on which side of a patch another one lay."""

    picture_rows = ("middle patch", "other patch", "where the classifier puts it", "where it lay")

    cuts_views = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's geometry: gaps of about half a patch, jitter of a few pixels."""

        about: ClassVar = About(
            family="transformation",
            task="on which of eight sides of a patch another one lay",
            paper="Doersch et al.",
            year=2015,
            link="arXiv:1505.05192",
            expected="AlexNet, PASCAL VOC 2007 detection: 46.3 mAP",
        )

        gap: Annotated[float, Ge(0), Le(2), "must lie between 0 and 2 patches"] = 0.5
        """Room that a cell has beyond its patch, as a share of the patch: gap and jitter together."""
        hidden_dim: Annotated[int, Ge(1)] = 2048
        """Width of the classifier's hidden layer."""
        drop_colors: bool = True
        """Keep one colour channel of each image and make the others noise."""
        view: RandomView = RandomView(scale=(0.5, 1.0))  # noqa: RUF009 - frozen
        """How the image is made that the patches are cut from; its size follows from theirs."""

        def build(self, encoder: nn.Module, image_size: int) -> "RelativePatch":
            """Context prediction around any encoder."""
            return RelativePatch(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        width = feature_width(encoder)
        self.head = mlp(2 * width, config.hidden_dim, len(NEIGHBOURS))

    def views(self) -> ViewSpec:
        """One view, three cells wide."""
        size = GRID * round(self.image_size * (1 + self.config.gap))
        return one_sized(self.config.view, size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log 8 where nothing was learned; and the share of neighbours that are named right."""
        patches, sides = self.pairs(batch)
        logits = self.logits(patches)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, sides)
        self.note_losses(lambda: F.cross_entropy(logits, sides, reduction="none"))
        return {"loss": loss, "accuracy": (logits.argmax(1) == sides).float().mean()}

    def logits(self, patches: Float[Tensor, "b 2 3 s s"]) -> Float[Tensor, "b 8"]:
        """The classifier's answer, before the softmax."""
        features = self.encode(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        return self.head(features.flatten(1))

    def pairs(self, batch: Batch) -> tuple[Float[Tensor, "b 2 3 s s"], Int[Tensor, " b"]]:
        """The middle patch and a neighbour of each image, and which neighbour: 0..7, row by row."""
        draws = batch.uniforms("relative_patch", 2 + 2 * NUM_TILES + 6)
        sides = (draws[:, 0] * len(NEIGHBOURS)).long()
        tiles = cut_tiles(batch.views[0], self.image_size, draws[:, 2 : 2 + 2 * NUM_TILES])
        places = _place(sides)
        chosen = torch.stack([torch.full_like(places, CENTRE), places], dim=1)
        patches = tiles[torch.arange(len(tiles), device=tiles.device)[:, None], chosen]
        if self.config.drop_colors:
            noise = torch.erfinv(2 * draws[:, -6:].clamp(1e-6, 1 - 1e-6) - 1) * 2**0.5
            kept = (draws[:, 1] * 3).long()
            patches = without_fringes(patches, kept, noise.view(-1, 2, 3, 1, 1).to(patches.dtype))
        return patches, sides

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"]:
        """For a few images: the middle patch, the other one, and both laid as the classifier says and as they were."""
        patches, sides = self.pairs(batch)
        patches, sides = patches[:NUM_PICTURED], sides[:NUM_PICTURED]
        guesses = self.logits(patches).argmax(1)
        alone = [F.interpolate(patch, scale_factor=GRID) for patch in patches.unbind(1)]
        return torch.stack([*alone, *(_laid(patches, said) for said in (guesses, sides))]).float()


def _place(sides: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """NEIGHBOURS[sides], reckoned where the sides are."""
    return sides + (sides >= CENTRE)


def _laid(patches: Float[Tensor, "b 2 3 h w"], sides: Int[Tensor, " b"]) -> Float[Tensor, "b 3 s s"]:
    """Both where they are said to lie, on black."""
    board = patches.new_full((len(patches), NUM_TILES, *patches.shape[2:]), patches.amin().item())
    board[:, CENTRE] = patches[:, 0]
    board[torch.arange(len(patches), device=sides.device), _place(sides)] = patches[:, 1]
    return side_by_side(board)
