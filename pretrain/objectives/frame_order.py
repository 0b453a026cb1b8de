"""Shuffle and learn: unsupervised learning using temporal order verification (Misra et al. 2016, arXiv:1603.08561).

Of five frames of a video in the order of time, a < b < c < d < e, all go through the same encoder, and a classifier on
what it makes of three of them says whether the middle one lies between the others (section 3):

    true: (b, c, d), (d, c, b);    false: (b, a, d), (d, a, b), (b, e, d), (d, e, b).

Both ends are the same, so that they give nothing away. With z the classifier's logit of "true" and r the share of true
ones (``true_share``, the paper's best: a quarter),

    L = r mean over the true of log(1 + exp(-z)) + (1 - r) mean over the false of log(1 + exp(z)).

Windows in which much moves are drawn more often (section 3.1), by differences of frames in place of optical flow.

What differs from the authors' code: theirs draws one of the orders, ours takes them all, of the same five encoded
frames, weighted as often as theirs would be drawn; a window's b, c and d lie evenly; a window whose a or e looks like c
is not left out; a convolution and a linear layer on the last feature map, then a hidden layer, take the place of
AlexNet's fc6 to fc8: an encoder's pooled features say little of where things are, and order is little else.

To expect: AlexNet from scratch on UCF101, fine-tuned: 50.2 % of UCF101, 18.1 % of HMDB51 (the authors' README); random
weights: 38.6 % (from memory).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from jaxtyping import Bool, Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import Clip, RandomView, ViewSpec
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.networks.heads import GridHead, mlp
from eyespot.pretrain.networks.image_decoder import grid_of
from eyespot.pretrain.objective import About, Objective, one_sized, require_clip

A, B, C, D, E = range(5)
TRUE = ((B, C, D), (D, C, B))
FALSE = ((B, A, D), (D, A, B), (B, E, D), (D, E, B))


class FrameOrder(Objective):
    """Says whether three frames of a video follow each other."""

    only_encodes = True
    chance = 0.5
    picture_rows = ("b", "c, between them", "d", "a, before them", "e, after them")

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's shares and windows."""

        about: ClassVar = About(
            family="transformation",
            task="whether a frame of a video lies between two others",
            paper="Misra et al.",
            year=2016,
            link="arXiv:1603.08561",
            needs="videos",
            expected="AlexNet, UCF101, fine-tuned: 50.2 %",
        )

        true_share: Annotated[float, Gt(0), Lt(1)] = 0.25
        """How often the order is the true one."""
        channels: Annotated[int, Ge(1)] = 64
        """Of each place of the feature map that the head sees."""
        frame_dim: Annotated[int, Ge(1)] = 1024
        """Width of a frame's vector, three of which are laid side by side."""
        hidden_dim: Annotated[int, Ge(1)] = 1024
        """Width of the classifier's hidden layer."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.5, 1.0), clip=Clip(5, stride=15, pick="ordered", by_motion=True)
        )
        """How the five frames are chosen and cut, all alike."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            require_clip(self.view, pick="ordered", least=5)

        def build(self, encoder: nn.Module, image_size: int) -> "FrameOrder":
            """Order verification around any encoder with a feature map."""
            return FrameOrder(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        width: int = encoder.num_features  # pyright: ignore[reportAssignmentType]
        self.frame_head = GridHead(width, grid_of(encoder, image_size), config.channels, config.frame_dim)
        self.head = mlp(3 * config.frame_dim, config.hidden_dim, 1)

    def views(self) -> ViewSpec:
        """One clip of five frames."""
        return one_sized(self.config.view, self.image_size)

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d _ _"]:
        """The last map."""
        return last_tokens(encoder, images)[-1].patches

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}; and how often true orders and false ones are told right, on the average: a half by chance."""
        logits = self.logits(batch.views[0])
        true, false = logits.to(torch.promote_types(logits.dtype, torch.float32)).split((len(TRUE), len(FALSE)), dim=1)
        share = self.config.true_share
        loss = share * F.softplus(-true).mean() + (1 - share) * F.softplus(false).mean()
        of_true, of_false = self.decisions(logits).float().split((len(TRUE), len(FALSE)), dim=1)
        return {"loss": loss, "accuracy": (of_true.mean() + of_false.mean()) / 2}

    def logits(self, clips: Float[Tensor, "b 5 3 h w"]) -> Float[Tensor, "b orders"]:
        """Of "true", for the true orders and then the false ones."""
        maps = self.read(self.encoder, clips.flatten(0, 1))
        frames = self.frame_head(maps).unflatten(0, clips.shape[:2]).unbind(1)
        orders = [torch.cat([frames[place] for place in order], dim=1) for order in TRUE + FALSE]
        return self.head(torch.stack(orders, dim=1))[..., 0]

    def decisions(self, logits: Float[Tensor, "b orders"]) -> Bool[Tensor, "b orders"]:
        """Which of the orders are told right."""
        return torch.cat([logits[:, : len(TRUE)] > 0, logits[:, len(TRUE) :] <= 0], dim=1)

    @torch.no_grad()
    def told(self, batch: Batch) -> Float[Tensor, " b"]:
        """True orders and false ones count alike."""
        true, false = self.decisions(self.logits(batch.views[0])).float().split((len(TRUE), len(FALSE)), dim=1)
        return (true.mean(1) + false.mean(1)) / 2

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "5 n 3 h w"]:
        """The frames b, c, d, and the two that might take the place of c."""
        frames = batch.views[0][:NUM_PICTURED].float().transpose(0, 1)
        return torch.stack([frames[place] for place in (B, C, D, A, E)])
