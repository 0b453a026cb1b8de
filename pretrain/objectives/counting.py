"""Counting: representation learning by learning to count (Noroozi, Pirsiavash & Favaro 2017, arXiv:1708.06734).

What an image shows does not change when it is shrunk, and its four quarters together show it once. So there are numbers
phi(x) >= 0, one for each kind of thing, that add up over the quarters T_j x to those of the shrunken image D x; and
another image y has others (equation 4):

    L = |phi(D x) - sum_j phi(T_j x)|^2 + max(0, M - |phi(D y) - sum_j phi(T_j x)|^2),

averaged over the batch. The second term keeps phi from being 0 for all images. All five images have the size that the
encoder sees, so the view is twice as large; phi is the head's output after a ReLU.

What must not give the answer away (section 4): the way an image was shrunk leaves traces that the quarters do not have,
so each sample draws its own of three; colours that a lens bends differently tell where a quarter lay, so most views are
gray.

What differs from the authors' code: y is the sample that follows x in an order of the whole batch that each sample's
own draw decides, the same on any number of ranks; images are not shrunk by Lanczos' filter, which torch has for CPUs
only; any encoder in place of AlexNet, with batch norm where it has one;
the view is a random crop of varying size.

To expect: AlexNet on PASCAL VOC 2007: 67.7 % classification, 51.4 mAP detection (table 1, from memory).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.collectives import gather_rows, gather_with_gradient
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.objective import About, one_sized

SHRINKING = ("area", "bilinear", "bicubic")
"""Ways to halve an image."""
NUM_QUARTERS = 4


class Counting(Contrastive):
    """Counts in the quarters of an image what it counts in the whole."""

    picture_rows = ("four quarters, from the image with the smallest count to that with the largest", "shrunken")

    cuts_views = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The paper's thousand numbers and margin (section 4)."""

        about: ClassVar = About(
            family="transformation",
            task="as many things in four quarters together as in the shrunken whole",
            paper="Noroozi et al.",
            year=2017,
            link="arXiv:1708.06734",
            expected="AlexNet, PASCAL VOC 2007 classification: 67.7 %",
        )

        hidden_dim: Annotated[int, Ge(1)] = 4096
        """Width of the head's hidden layer."""
        num_counts: Annotated[int, Ge(1)] = 1000
        """How many kinds of things are counted."""
        margin: Annotated[float, Gt(0), "must be above 0, or all counts become 0"] = 10.0
        """Squared distance that the counts of different images should have, M."""
        view: RandomView = RandomView(scale=(0.3, 1.0), grayscale=0.67)  # noqa: RUF009 - frozen
        """How the view is made that is shrunk and quartered; its size follows from the encoder's."""

        def build(self, encoder: nn.Module, image_size: int) -> "Counting":
            """Counting with any encoder."""
            return Counting(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """Another image must be there."""
            if batch_size < 2:
                raise UserError(f"data.batch_size {batch_size}: counts of different images differ, so it needs 2")

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.head = mlp(feature_width(encoder), config.hidden_dim, config.num_counts)

    def views(self) -> ViewSpec:
        """One view, twice as large as what the encoder sees."""
        return one_sized(self.config.view, 2 * self.image_size)

    def embed(self, batch: Batch) -> Rows:
        """What is counted in the shrunken image, and in its quarters together."""
        (view,) = batch.views
        images = torch.cat([shrunken(view, batch.uniforms("shrinking", 1)[:, 0]), *quarters(view)])
        counts = self.head(self.encode(images))
        counts = counts.to(torch.promote_types(counts.dtype, torch.float32)).relu().unflatten(0, (1 + NUM_QUARTERS, -1))
        return {"whole": counts[0], "parts": counts[1:].sum(0)}

    def targets(self, batch: Batch) -> Rows:
        """Each sample's place in an order of the batch."""
        return {"place": batch.uniforms("other image", 1)}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: the margin where nothing is counted at all.

        Returns:
            "same", "other": squared distance between the quarters' counts and those of their own image, and of another.
        """
        places, order = gather_rows(rows["place"])[:, 0].sort()
        following = torch.searchsorted(places, rows["place"][:, 0].contiguous(), right=True) % len(places)
        others = gather_with_gradient(rows["whole"])[order[following]]
        same = (rows["whole"] - rows["parts"]).square().sum(1)
        other = (others - rows["parts"]).square().sum(1)
        loss = same + (self.config.margin - other).clamp_min(0)
        return {"loss": loss.mean(), "same": same.mean(), "other": other.mean()}

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"]:
        """A few images by what is counted in them: their quarters, set apart, and what they are when shrunk."""
        totals = self.embed(batch)["whole"][:NUM_PICTURED].sum(1)
        views = batch.views[0][:NUM_PICTURED].float()[totals.argsort()]
        draws = batch.uniforms("shrinking", 1)[:NUM_PICTURED, 0][totals.argsort()]
        apart, middle = views.clone(), self.image_size
        apart[..., middle - 1 : middle + 1, :] = apart[..., middle - 1 : middle + 1] = views.amax()
        enlarged = F.interpolate(shrunken(views, draws), scale_factor=2, mode="nearest")
        return torch.stack([apart, enlarged])


def quarters(views: Float[Tensor, "b 3 s s"]) -> list[Float[Tensor, "b 3 h h"]]:
    """Upper left, upper right, lower left, lower right."""
    return [quarter for half in views.chunk(2, dim=2) for quarter in half.chunk(2, dim=3)]


def shrunken(views: Float[Tensor, "b 3 s s"], draws: Float[Tensor, " b"]) -> Float[Tensor, "b 3 h h"]:
    """Each view at half its size, in the way that its draw names."""
    ways = [F.interpolate(views, scale_factor=0.5, mode=way, antialias=way != "area") for way in SHRINKING]
    return torch.stack(ways)[(draws * len(SHRINKING)).long(), torch.arange(len(views), device=views.device)]
