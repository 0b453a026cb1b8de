"""Tracked patches: unsupervised learning of visual representations using videos (Wang & Gupta 2015, arXiv:1505.00687).

The first and the last patch of a track show the same thing, and come to lie closer together than patches of other
tracks. With D(a, b) = 1 - cos(a, b) of the head's outputs, x and x+ of one track, x- of another,

    L = mean over tracks and negatives of  max(0, D(x, x+) - D(x, x-) + 0.5)

(equation 2). Each patch has four negatives from the batch: at first random ones, later the four nearest (section 4.2).
A sample is a track, its frames the two patches (``eyespot shards tracks``).

What differs from the authors' code:
- Each of a track's patches has the other as its positive, and negatives of its own; with them it is the first.
- Negatives are patches of any other track, of all ranks; theirs are of other videos.
- Random negatives follow from the seed and the samples' ids, so that they are the same on any number of ranks.
- Their published configuration has a margin of 1 and both kinds of negatives, two and two; here are the paper's.

To expect (from memory): AlexNet, 100,000 videos, VOC 2012 detection, three networks together: 52 % mAP.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import Clip, RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.collectives import gather_rows
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.losses.feature_statistics import similarities
from eyespot.pretrain.losses.metric_learning import Pairs, few_negatives_loss
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.objective import About, require_clip
from eyespot.pretrain.skipped_step import Taken, if_taken


class TrackedPatches(Contrastive):
    """The two ends of a track lie closer together than patches of different tracks."""

    only_encodes = True
    hard: Bool[Tensor, ""]
    """Whether the nearest negatives are taken by now."""

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The paper's method."""

        about: ClassVar = About(
            family="metric",
            task="which patches are the two ends of a track",
            paper="Wang & Gupta",
            year=2015,
            link="arXiv:1505.00687",
            needs="tracks of patches from videos",
            expected="3 x AlexNet, 100,000 videos, VOC 2012 detection: 52 % mAP",
        )
        margin: Annotated[float, Gt(0)] = 0.5
        """Between cosine distances."""
        num_negatives: Annotated[int, Ge(1)] = 4
        """Of each patch, or as many as a batch has."""
        hard_after: Annotated[float, Ge(0), Le(1)] = 0.5
        """Share of the run after which the nearest negatives are taken, in place of random ones; 1 = never."""
        hidden_dim: Annotated[int, Ge(1)] = 4096
        """Width of the head's hidden layer."""
        out_dim: Annotated[int, Ge(1)] = 1024
        """Width of the head's output."""
        view: RandomView = RandomView(scale=(0.6, 1.0), clip=Clip(2))  # noqa: RUF009 - frozen
        """How both patches are seen: cut and flipped alike."""

        def __post_init__(self) -> None:
            Contrastive.Config.__post_init__(self)
            if (frames := require_clip(self.view).frames) != 2:
                raise UserError(f"objective.view.clip.frames {frames}: a track has two patches; set it to 2")

        def build(self, encoder: nn.Module, image_size: int) -> "TrackedPatches":
            """Around any encoder."""
            return TrackedPatches(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """One track alone has no negatives."""
            if batch_size < 2:
                raise UserError(f"data.batch_size {batch_size}: tracks are compared with others; set it to 2 or more")

    picture_rows: ClassVar[tuple[str, ...]] = ("a patch", "the same later")

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.head = mlp(feature_width(encoder), config.hidden_dim, config.out_dim)
        self.register_buffer("hard", torch.tensor(config.hard_after == 0))

    def views(self) -> ViewSpec:
        """The two patches as one clip."""
        return sized_views(self.image_size, self.config.view)

    def embed(self, batch: Batch) -> Rows:
        """The head's output for both patches, from one pass."""
        patches = batch.views[0]
        first, second = self.head(self.encode(patches.flatten(0, 1))).unflatten(0, patches.shape[:2]).unbind(1)
        return {"first": first, "second": second}

    def targets(self, batch: Batch) -> Rows:
        """Sample ids; and for each patch two places on a circle: others that follow there are its negatives."""
        return {"ids": batch.ids_on_device(), "places": batch.uniforms("negatives", 4)}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}; and how alike patches of one track and of different ones are."""
        both, ids = torch.cat([rows["first"], rows["second"]]), rows["ids"].repeat(2)
        asking, asked = rows["places"].unflatten(1, (2, 2)).permute(1, 2, 0).flatten(1)
        with torch.autocast(both.device.type, enabled=False):
            both = F.normalize(both.to(torch.promote_types(both.dtype, torch.float32)), dim=1)
            pairs = Pairs.of(both, ids, torch.full_like(ids, -1))
            ahead = torch.remainder(gather_rows(asked) - asking[:, None], 1)
            order = torch.where(self.hard, -pairs.products().detach(), ahead.to(both.dtype))
            loss = few_negatives_loss(pairs, order, self.config.margin, self.config.num_negatives).mean()
        return {"loss": loss, **similarities(rows["first"], rows["second"])}

    @torch.no_grad()
    def after_step(self, progress: float, taken: Taken = True) -> None:
        """From some share of the run on the nearest negatives are taken."""
        now = torch.full_like(self.hard, progress >= self.config.hard_after)
        self.hard.copy_(if_taken(taken, now, self.hard))

    def picture(self, batch: Batch) -> Float[Tensor, "2 n 3 h w"]:
        """Both patches of some tracks."""
        return batch.views[0][:NUM_PICTURED].float().transpose(0, 1)
