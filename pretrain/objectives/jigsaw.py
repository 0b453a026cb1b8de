"""Jigsaw: unsupervised learning of visual representations by solving jigsaw puzzles (Noroozi & Favaro 2016).

arXiv:1603.09246. Nine tiles of an image are put in one of ``num_permutations`` orders, chosen to differ from each
other as much as can be (algorithm 1). The encoder sees one tile at a time, and a classifier on all nine features in
that order names the order:

    L = -log softmax(head(encoder(tile_p(1)), ..., encoder(tile_p(9))))_p,

averaged over the batch.

What must not give the answer away (section 3.4): tiles are shifted in their cells, so edges do not continue each
other; each tile is normalised by its own mean and deviation; some images are gray; with many orders that differ in
nearly all places no single tile tells the order.

What differs from the authors' code: tiles are as large as what the encoder sees, so the view is larger than the
encoder's own; theirs spread the colour channels against each other, which is left out.

To expect: AlexNet on PASCAL VOC 2007: 67.6 % classification, 53.2 mAP detection (table 1).
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
from eyespot.pretrain.images.tiles import GRID, NUM_TILES, cut_tiles, permutations, side_by_side
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.objective import About, Objective, one_sized


class Jigsaw(Objective):
    """Says in which order the tiles of an image were laid."""

    picture_rows = ("puzzle", "laid as the classifier says", "solved")

    cuts_views = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's geometry (cells of 75 pixels, tiles of 64) and a hundred orders."""

        about: ClassVar = About(
            family="transformation",
            task="in which order nine tiles were laid",
            paper="Noroozi & Favaro",
            year=2016,
            link="arXiv:1603.09246",
            expected="AlexNet, PASCAL VOC 2007 classification: 67.6 %",
        )

        num_permutations: Annotated[int, Ge(2), Le(5000)] = 100
        """Orders to tell apart."""
        room: Annotated[float, Ge(0), Le(2), "must lie between 0 and 2 tiles"] = 0.17
        """Room that a cell has beyond its tile, as a share of the tile."""
        tile_dim: Annotated[int, Ge(1)] = 512
        """What each tile's features are brought to before they are laid side by side."""
        hidden_dim: Annotated[int, Ge(1)] = 4096
        """Width of the classifier's hidden layer."""
        view: RandomView = RandomView(scale=(0.5, 1.0), grayscale=0.3)  # noqa: RUF009 - frozen
        """How the image is made that the tiles are cut from; its size follows from theirs."""

        def build(self, encoder: nn.Module, image_size: int) -> "Jigsaw":
            """Puzzles around any encoder."""
            return Jigsaw(self, encoder, image_size)

    orders: Int[Tensor, "p tiles"]
    """(P, 9) which tile lies at each place."""

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.reduce = mlp(feature_width(encoder), config.tile_dim)
        self.head = mlp(NUM_TILES * config.tile_dim, config.hidden_dim, config.num_permutations)
        self.register_buffer("orders", torch.from_numpy(permutations(config.num_permutations).copy()))

    def views(self) -> ViewSpec:
        """One view, three cells wide."""
        size = GRID * round(self.image_size * (1 + self.config.room))
        return one_sized(self.config.view, size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log(num_permutations) where nothing was learned; and the share of orders that are named right."""
        tiles, answers = self.puzzles(batch)
        reduced = F.relu(self.reduce(self.encode(standardized(tiles).flatten(0, 1)))).unflatten(0, tiles.shape[:2])
        logits = self.head(reduced.flatten(1))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, answers)
        self.note_losses(lambda: F.cross_entropy(logits, answers, reduction="none"))
        return {"loss": loss, "accuracy": (logits.argmax(1) == answers).float().mean()}

    def puzzles(self, batch: Batch) -> tuple[Float[Tensor, "b tiles 3 s s"], Int[Tensor, " b"]]:
        """The tiles of each image in an order of its own, and which order."""
        draws = batch.uniforms("jigsaw", 1 + 2 * NUM_TILES)
        answers = (draws[:, 0] * len(self.orders)).long()
        tiles = cut_tiles(batch.views[0], self.image_size, draws[:, 1:])
        return tiles[torch.arange(len(tiles), device=tiles.device)[:, None], self.orders[answers]], answers

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"]:
        """For a few images: the puzzle as it is given, what the classifier makes of it, and the answer."""
        tiles, answers = self.puzzles(batch)
        tiles, answers = tiles[:NUM_PICTURED], answers[:NUM_PICTURED]
        reduced = F.relu(self.reduce(self.encode(standardized(tiles).flatten(0, 1)))).unflatten(0, tiles.shape[:2])
        guesses = self.head(reduced.flatten(1)).argmax(1)
        rows = [tiles] + [laid_back(tiles, self.orders[said]) for said in (guesses, answers)]
        return torch.stack([side_by_side(row).float() for row in rows])


def standardized(tiles: Float[Tensor, "b n 3 h w"]) -> Float[Tensor, "b n 3 h w"]:
    """Each tile with mean 0 and deviation 1 of its own: neighbours share their brightness."""
    mean = tiles.mean((2, 3, 4), keepdim=True)
    return (tiles - mean) / (tiles.std((2, 3, 4), keepdim=True, correction=0) + 1e-3)


def laid_back(tiles: Float[Tensor, "b n 3 h w"], orders: Int[Tensor, "b n"]) -> Float[Tensor, "b n 3 h w"]:
    """The tiles of each image where they belong, if they lie in this order."""
    return tiles[torch.arange(len(tiles), device=tiles.device)[:, None], orders.argsort(dim=1)]
