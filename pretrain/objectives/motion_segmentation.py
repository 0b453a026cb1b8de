"""Motion segmentation: learning features by watching objects move (Pathak et al. 2017, arXiv:1612.06370).

From one frame alone the network says which pixels belong to what moves. The masks to learn from are made without labels
beforehand, of several frames of the video: by motion against that of the camera (``eyespot shards motion``). With m = 1
where something moves and 0 where nothing does, and s the decoder's logits for every fourth pixel,

    L = mean over images of the mean over known pixels of  -(m log sigmoid(s) + (1 - m) log(1 - sigmoid(s))).

What differs from the authors' code:
- The masks: theirs are of uNLC, which looks at superpixels of the whole video and takes minutes a video.
- Each image counts alike, however much of it is known, so that the loss does not depend on how a batch is cut up.
- Any encoder, and a decoder with group norm; theirs is an AlexNet with a fully connected layer of 56 x 56 outputs.

To expect (from memory): AlexNet, 205,000 videos of YFCC, Fast R-CNN on VOC 2007: 52.2 % mAP.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import Clip, MaskView, RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.shards.manifest import IGNORED
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.networks.image_decoder import ImageDecoder, grid_of
from eyespot.pretrain.objective import About, Objective

PIXELS_PER_ANSWER = 4
"""What moves is said for a grid as many times coarser than the image."""
STILL, UNKNOWN = 0, IGNORED
"""In masks; every other number moves."""


class MotionSegmentation(Objective):
    """Finds what moves in a single frame."""

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's method."""

        about: ClassVar[About] = About(
            family="reconstruction",
            task="which pixels of a frame belong to what moves",
            paper="Pathak et al.",
            year=2017,
            link="arXiv:1612.06370",
            needs="videos with motion masks",
            expected="AlexNet, YFCC videos, VOC 2007 detection: 52.2 % mAP",
        )
        hidden_dim: Annotated[int, Ge(1)] = 256
        """Channels of the decoder at the feature map's resolution."""
        view: RandomView = RandomView(scale=(0.2, 1.0), clip=Clip(1))  # noqa: RUF009 - frozen
        """How frames are seen; of a clip of several each is a frame for itself."""

        def build(self, encoder: nn.Module, image_size: int) -> "MotionSegmentation":
            """Around any encoder with a feature map."""
            return MotionSegmentation(self, encoder, image_size)

    picture_rows: ClassVar[tuple[str, ...]] = ("a frame", "what moves, as far as known", "what is said to move")

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.out_size = max(1, image_size // PIXELS_PER_ANSWER)
        self.decoder = ImageDecoder(
            encoder.num_features,  # pyright: ignore[reportArgumentType]
            grid_of(encoder, image_size),
            image_size,
            1,
            config.hidden_dim,
            self.out_size,
        )

    def views(self) -> ViewSpec:
        """Frames, and their masks, of shards that were packed with that number for what is unknown."""
        spec = sized_views(self.image_size, self.config.view)
        return replace(spec, views=(*spec.views, MaskView(of=0, ignored=UNKNOWN)))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log 2 where nothing was learned; and intersection over union of what moves, over the batch."""
        frames, masks = (_single(view) for view in batch.views)
        logits, mask = self.logits(frames), self.thinned(masks)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        known, moves = mask != UNKNOWN, (mask != UNKNOWN) & (mask != STILL)
        losses = F.binary_cross_entropy_with_logits(logits, moves.to(logits.dtype), reduction="none")
        each = torch.where(known, losses, 0).sum((1, 2)) / known.sum((1, 2)).clamp_min(1)
        said = (logits > 0) & known
        overlap = (said & moves).sum() / (said | moves).sum().clamp_min(1)
        return {"loss": each.mean(), "iou": overlap}

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d _ _"]:
        """The last map."""
        return last_tokens(encoder, images)[-1].patches

    def logits(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b s s"]:
        """How much speaks for motion."""
        return self.decoder(self.read(self.encoder, images))[:, 0]

    def thinned(self, masks: Shaped[Tensor, "b 1 h w"]) -> Float[Tensor, "b s s"]:
        """The masks at the answers' resolution, each number as it was."""
        return F.interpolate(masks.float(), (self.out_size, self.out_size), mode="nearest-exact")[:, 0]

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "3 n 3 h w"]:
        """Frames, what is known of them (gray = nothing), and the answer's probability, each in shades of gray."""
        frames, masks = (_single(view)[:NUM_PICTURED].float() for view in batch.views)
        known = torch.where(masks == UNKNOWN, 0.5, (masks != STILL).float())
        said = self.logits(frames).float().sigmoid()[:, None]
        said = F.interpolate(said, frames.shape[2:], mode="bilinear", align_corners=False)
        return torch.stack([frames, *(((4 * shade - 2).expand_as(frames)) for shade in (known, said))])


def _single(view: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "n _ h w"]:
    """Every frame of clips for itself."""
    return view.flatten(0, 1) if view.ndim == 5 else view
