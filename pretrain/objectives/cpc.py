"""CPC: representation learning with contrastive predictive coding (van den Oord et al. 2018, arXiv:1807.03748).

An image becomes a grid of patches that overlap by half, and each patch, by the encoder alone, a row z. Masked
convolutions over the grid sum up its rows of patches down to the r-th in contexts c_r. From a context, patches some
rows below are told by one matrix for each distance k, among patches of everywhere (section 3.2; equation 4):

    L = -log  exp(z_{r+k} . W_k c_r) / sum over z_j in patches of exp(z_j . W_k c_r),

averaged over places, distances and images. The patches of the sum: all those of the image itself, also what the context
has seen, and all those of all other images of the batch, on all ranks. The row right below overlaps what was seen, so
it is passed over (``skipped``; the paper's figure 4), and the five after it are predicted in a grid of seven. What
overlaps must not be predicted: that is refused.

What made it CPC v2 (Hénaff et al. 2019, arXiv:1905.09272, figure 3): ``directions`` = predictions from below, and from
both sides, each with contexts of its own; ``drop_colors`` = of each patch one colour channel only; larger patches that
overlap by more, so that two rows are passed over (from copies of its code); and norms over channels. The first paper
has no batch norm either: it lets patches of an image see each other. Take an encoder without it, as resnetv2_101x1_bit,
resnet50_gn or convnext_tiny.

What differs from the authors' code: masked convolutions and scores are those of v2's appendix for both (rows of 64
numbers, scores a tenth of the product); v1's are of a PixelCNN's kind, and a row-GRU PixelRNN gave similar results.
The whole encoder is trained, theirs up to its third stage. Predictions count alike, so near distances, of which there
are more, count more. Images are cut out as everywhere here, by area. v2's changes of shape and colour by AutoAugment
and its average of the weights (Polyak's, 0.9999; from memory) are left out, and of dropped channels the data set's mean
stays.

To expect: ResNet-v2-101, linear: 48.7 % on ImageNet-1k (table 3), by a probe of the mean of 7 x 7 patches' rows from
the third stage, where ``eyespot eval linear`` shows a run's encoder the whole image at its patches' size, unless
``--image-size`` says otherwise; v2, ResNet-50: 63.8 %, ResNet-161: 71.5 % (table 1; from memory).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, Lt
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.tiles import cut_grid
from eyespot.pretrain.losses.predictive_coding import predictive_coding_loss
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.objective import About, one_sized

SCALE = 0.1
"""Of predictions: scores begin small, so that at first all patches are about as likely."""


class CPC(Contrastive):
    """Says which patch lies some rows below what it has seen."""

    only_encodes = True
    picture_rows = ("the image", "its patches", "the patch that is likeliest after the rows above")

    cuts_views = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The paper's geometry; heads as in v2's appendix."""

        about: ClassVar = About(
            family="contrast",
            task="which patch lies some rows below those that were seen, among a batch's",
            paper="van den Oord et al.",
            year=2018,
            link="arXiv:1807.03748",
            expected="ResNet-v2-101, ImageNet-1k, linear: 48.7 %; v2, ResNet-50: 63.8 %",
        )

        grid: Annotated[int, Ge(2)] = 7
        """Rows and columns of patches."""
        overlap: Annotated[float, Ge(0), Lt(1)] = 0.5
        """Share of a patch's side that the next one covers."""
        jitter: Annotated[float, Ge(0), Le(0.5)] = 1 / 16
        """Share of a patch's side that it loses, somewhere on both sides, to a border of zeros."""
        drop_colors: bool = False
        """Keep one colour channel of each patch (v2)."""
        directions: Literal[1, 2, 4] = 1
        """Predictions downwards (1), upwards too (2), and to the right and left as well (4; v2)."""
        skipped: Annotated[int, Ge(0)] = 1
        """Rows next to a context that are not predicted, because patches overlap."""
        ahead: Annotated[int, Ge(1)] = 5
        """Rows after those that are predicted, or as many as there are."""
        context_dim: Annotated[int, Ge(1)] = 256
        """Channels inside the masked convolutions."""
        context_blocks: Annotated[int, Ge(1)] = 5
        """Residual blocks of masked convolutions: so many rows above does a context see beside its own."""
        out_dim: Annotated[int, Ge(1)] = 64
        """Width of the rows that are compared."""
        view: RandomView = RandomView(scale=(0.5, 1.0), grayscale=1.0)  # noqa: RUF009 - frozen
        """How the image is made that the patches are cut from; its size follows from theirs."""

        def __post_init__(self) -> None:
            Contrastive.Config.__post_init__(self)
            if self.skipped > self.grid - 2:
                raise UserError(
                    f"objective.skipped {self.skipped}: nothing is left to predict in a grid of {self.grid} rows;"
                    f" set it to {self.grid - 2} or less"
                )

        @property
        def distances(self) -> range:
            """How many rows below a context its predictions lie."""
            return range(self.skipped + 1, min(self.skipped + self.ahead, self.grid - 1) + 1)

        def build(self, encoder: nn.Module, image_size: int) -> "CPC":
            """Predictive coding around any encoder, which sees patches of ``image_size``."""
            return CPC(self, encoder, image_size)

    ways: Int[Tensor, "directions n"]
    """Of each direction the patches, in the order in which they are read: those of the first row to be seen first."""
    places: Int[Tensor, " p"]
    """Which patch each prediction is of."""

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.stride = max(1, round(image_size * (1 - config.overlap)))
        least = math.ceil(image_size / self.stride) - 1
        if config.skipped < least:
            raise UserError(
                f"objective.skipped {config.skipped}: patches of {image_size} pixels every {self.stride} overlap with"
                f" those of {least} rows below, which would be seen before they are predicted; set it to {least} or"
                " more, or lower objective.overlap"
            )
        width, side = feature_width(encoder), config.grid
        self.target = nn.Linear(width, config.out_dim, bias=False)  # it would shift all scores of a prediction alike
        num_rows = len(config.distances) * config.out_dim
        ways = _ways(side)[: config.directions]
        self.contexts = nn.ModuleList(_Context(width, config.context_dim, config.context_blocks) for _ in ways)
        self.predictors = nn.ModuleList(nn.Conv2d(width, num_rows, 1) for _ in ways)
        places = [way.view(side, side)[k:].flatten() for way in ways for k in config.distances]
        self.register_buffer("ways", ways, persistent=False)
        self.register_buffer("places", torch.cat(places), persistent=False)

    def views(self) -> ViewSpec:
        """One view, as large as the grid."""
        return one_sized(self.config.view, self.image_size + (self.config.grid - 1) * self.stride)

    def patches(self, batch: Batch) -> Float[Tensor, "b n 3 s s"]:
        """What the encoder sees, row by row."""
        count, size = self.config.grid**2, self.image_size
        draws = batch.uniforms("cpc", 3 * count)
        margin = round(size * self.config.jitter)
        patches = cut_grid(batch.views[0], size, self.stride, margin=margin, draws=draws[:, : 2 * count])
        if self.config.drop_colors:
            kept = (draws[:, 2 * count :] * 3).long()[..., None] == torch.arange(3, device=draws.device)
            patches = torch.where(kept[..., None, None], patches, 0)
        return patches

    def embed(self, batch: Batch) -> Rows:
        """The rows of all patches, and all predictions of them."""
        patches = self.patches(batch)
        features = self.encode(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        return {"patches": self.target(features), "predictions": self.predictions(features)}

    def predictions(self, features: Float[Tensor, "b n d"]) -> Float[Tensor, "b p r"]:
        """For each direction, distance and place what is expected there: row by row, in the direction's order."""
        found, side = [], (self.config.grid,) * 2
        for way, context, predictor in zip(self.ways, self.contexts, self.predictors, strict=True):
            grid = features[:, way].transpose(1, 2).unflatten(2, side)
            by_distance = predictor(context(grid)).chunk(len(self.config.distances), dim=1)
            found += [rows[:, :, :-k].flatten(2) for k, rows in zip(self.config.distances, by_distance, strict=True)]
        return SCALE * torch.cat(found, dim=2).transpose(1, 2)

    def targets(self, batch: Batch) -> Rows:
        """Sample ids: patches of the same image twice in a batch are no negatives of each other."""
        return {"ids": batch.ids_on_device()}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: log of all patches where nothing was learned; and how often the right one of its own image wins."""
        losses, found = predictive_coding_loss(rows["predictions"], rows["patches"], self.places, ids=rows["ids"])
        return {"loss": losses.mean(), "accuracy": found.float().mean()}

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "3 n 3 h w"]:
        """A few images, their patches side by side, and at each place the patch of all of them that is likeliest."""
        patches, rows = self.patches(batch)[:NUM_PICTURED], self.embed(batch)
        known, predicted = (rows[name][:NUM_PICTURED].float() for name in ("patches", "predictions"))
        first = (
            self.config.distances[0] * self.config.grid
        )  # of the first direction and distance: all rows from here on
        likeliest = (predicted[:, : patches.shape[1] - first] @ known.flatten(0, 1).T).argmax(2)
        told = torch.zeros_like(patches)
        told[:, first:] = patches.flatten(0, 1)[likeliest]
        images = batch.views[0][:NUM_PICTURED]
        boards = [F.interpolate(_board(tiles, self.config.grid), images.shape[2:]) for tiles in (patches, told)]
        return torch.stack([images, *boards]).float()


class _Context(nn.Module):
    """Masked convolutions: what a place makes of its own row and of those above (v2's appendix).

    Args:
        width: channels of the grid.
        hidden_dim: channels inside a block.
        num_blocks: residual blocks, each of which sees a row further up, and a column more on both sides.
    """

    def __init__(self, width: int, hidden_dim: int, num_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, hidden_dim, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(hidden_dim, hidden_dim, (1, 3), padding=(0, 1)),
                nn.ZeroPad2d((0, 0, 1, 0)),
                nn.Conv2d(hidden_dim, hidden_dim, (2, 1)),
                nn.ReLU(inplace=True),
                nn.Conv2d(hidden_dim, width, 1),
            )
            for _ in range(num_blocks)
        )

    def forward(self, grid: Float[Tensor, "b d n n"]) -> Float[Tensor, "b d n n"]:
        """A context at each place."""
        for block in self.blocks:
            grid = grid + block(grid)
        return F.relu(grid)


def _ways(side: int) -> Int[Tensor, "4 n"]:
    """The numbers of a grid's patches as read downwards, upwards, to the right and to the left.

    On the CPU, for they are read here, also where only the sizes of an objective are wanted.
    """
    whole: dict[str, Any] = dict(device="cpu")
    down = torch.arange(side * side, **whole).view(side, side)
    return torch.stack([down, down.flip(0), down.T, down.T.flip(0)]).flatten(1)


def _board(tiles: Float[Tensor, "b n c s s"], side: int) -> Float[Tensor, "b c h w"]:
    """All of them side by side, row by row."""
    rows = tiles.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5)
    return rows.flatten(4, 5).flatten(2, 3)
