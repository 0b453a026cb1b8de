"""Learning and using the arrow of time: is a video played forwards or backwards? (Wei et al. 2018, CVPR, T-CAM).

Every frame goes through the same encoder; the last feature maps of all T frames, in the order in which they are shown,
are laid side by side as channels, and convolutions make one map of them, whose mean is the logit z of "forwards":

    z = mean over places of head([map(x_1), ..., map(x_T)]),
    L = 1/2 log(1 + exp(-z(x_1, ..., x_T))) + 1/2 log(1 + exp(z(x_T, ..., x_1))),

averaged over the batch. The frames are fused late, and a mean instead of a layer over places lets the map say where in
the image time is seen to run (class activation; the pictures).

What must not give the answer away (sections 4.2 and 4.3 of the paper): black bars, in which a codec leaves traces that
run one way, and the zooming and panning of cameras, which people do one way.
- ``border`` of the view is cut away on each side, bars or not. Of a crop that is a share of the crop, not of the image:
  bars of an eighth of the image are up to an eighth / sqrt(scale) of a crop that lies at its edge.
- Frames are blurred, all alike, as codecs make every few frames sharper than those between (``view``).
- Colours, crop and flip are the same for all frames of a clip: they change no more from frame to frame than it does.
- Cameras are not made to stand still, as the authors do with a homography: choose videos of cameras that do.

What differs from the authors' code: frames instead of groups of ten frames of optical flow; both directions of every
clip, from the same encoded frames, instead of one; no dropout, which would draw anew on other ranks.

To expect (from memory): VGG-16 on flow, Flickr videos: 81 % of directions; UCF101 fine-tuned from it: 86.3 %.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import Clip, RandomView, ViewSpec
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.objective import About, Objective, one_sized, require_clip

DIM = 0.2
"""How much of a frame is left, in the pictures, where its map says least."""


class ArrowOfTime(Objective):
    """Says whether a clip is played forwards."""

    only_encodes = True
    chance = 0.5
    picture_rows = ("the first frame", "the last frame", "where time is seen to run forwards")

    cuts_views = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's head, for ten frames."""

        about: ClassVar = About(
            family="transformation",
            task="whether a video is played forwards or backwards",
            paper="Wei et al.",
            year=2018,
            link="https://openaccess.thecvf.com/content_cvpr_2018/html/Wei_Learning_and_Using_CVPR_2018_paper.html",
            needs="videos",
            expected="VGG-16 on optical flow, UCF101, fine-tuned: 86.3 %",
        )

        border: Annotated[float, Ge(0), Le(0.4)] = 0.18
        """Share of the view that is cut away on each of its sides; 0.18 takes the bars of a film on a screen of 4:3, an
        eighth of the image, from crops of half of it. 0 where videos have none."""
        frame_dim: Annotated[int, Ge(1)] = 128
        """Channels that the map of each frame is brought to before they are laid side by side."""
        hidden_dim: Annotated[int, Ge(1)] = 512
        """Channels of the map that is made of them all."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.5, 1.0), blur=1.0, blur_sigma=(0.5, 2.0), clip=Clip(10, stride=4, by_motion=True)
        )
        """How the frames are chosen and cut, all alike; its size follows from ``border``."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            require_clip(self.view)

        def build(self, encoder: nn.Module, image_size: int) -> "ArrowOfTime":
            """The arrow of time around any encoder with a feature map."""
            return ArrowOfTime(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.rim = round(image_size * config.border / (1 - 2 * config.border))
        width: int = encoder.num_features  # pyright: ignore[reportAssignmentType]
        self.reduce = _Pointwise(width, config.frame_dim, 1)
        channels = require_clip(config.view).frames * config.frame_dim
        self.head = nn.Sequential(
            nn.Conv2d(channels, config.hidden_dim, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(config.hidden_dim, config.hidden_dim, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(config.hidden_dim, 1, 1),
        )

    def views(self) -> ViewSpec:
        """One clip, wider than what the encoder sees by what is cut away."""
        return one_sized(self.config.view, self.image_size + 2 * self.rim)

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d _ _"]:
        """The last map."""
        return last_tokens(encoder, images)[-1].patches

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log 2 where nothing was learned; and the share of directions, both of each clip, told right."""
        logits = self.maps(self.inside(batch.views[0])).mean((2, 3))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        forwards, backwards = logits.unbind(1)
        loss = (F.softplus(-forwards).mean() + F.softplus(backwards).mean()) / 2
        return {"loss": loss, "accuracy": self.decisions(logits).float().mean()}

    def inside(self, view: Float[Tensor, "b t 3 _ _"]) -> Float[Tensor, "b t 3 h w"]:
        """The clips without their borders."""
        within = slice(self.rim, self.rim + self.image_size)
        return view[..., within, within]

    def maps(self, clips: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b 2 y x"]:
        """Where time is seen to run forwards, in each clip as it is and played backwards."""
        frames = F.relu(self.reduce(self.read(self.encoder, clips.flatten(0, 1)))).unflatten(0, clips.shape[:2])
        both = torch.cat([frames.flatten(1, 2), frames.flip(1).flatten(1, 2)])
        return torch.stack(self.head(both)[:, 0].chunk(2), dim=1)

    def decisions(self, logits: Float[Tensor, "b 2"]) -> Bool[Tensor, "b 2"]:
        """Which directions are told right."""
        return torch.stack([logits[:, 0] > 0, logits[:, 1] <= 0], dim=1)

    @torch.no_grad()
    def told(self, batch: Batch) -> Float[Tensor, " b"]:
        """Both directions count alike."""
        return self.decisions(self.maps(self.inside(batch.views[0])).mean((2, 3))).float().mean(1)

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "3 n 3 h w"]:
        """First and last frames, and the middle ones, brighter the more their places speak for "forwards"."""
        clips = self.inside(batch.views[0][:NUM_PICTURED]).float()
        maps = self.maps(clips)[:, :1].float()
        least, most = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
        light = F.interpolate((maps - least) / (most - least).clamp_min(1e-6), clips.shape[3:], mode="bilinear")
        middle = clips[:, clips.shape[1] // 2]
        return torch.stack([clips[:, 0], clips[:, -1], middle * (DIM + (1 - DIM) * light)])


class _Pointwise(nn.Conv2d):
    """A 1x1 convolution whose weight's gradient lies in memory as the weight does, which DDP's buckets count on.

    Else it would lie as the maps do: of a vision transformer, whose channels are side by side, otherwise.
    """

    def forward(self, input: Float[Tensor, "b d h w"]) -> Float[Tensor, "b out h w"]:
        """Of each place alone."""
        weight = self.weight.as_strided(self.weight.size(), self.weight.stride())
        return self._conv_forward(input, weight, self.bias)
