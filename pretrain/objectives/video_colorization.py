"""Video colorization: tracking emerges by colorizing videos (Vondrick et al. 2018, arXiv:1806.09594).

The colours of a clip's last frame are copied from those of the frames before it, by features of gray images alone. With
f the features of places, c the colours of the reference frames, one-hot over 16 clusters of the ab plane,

    y_j = sum over i of softmax_i(f_i . f_j) c_i,    L = -mean over places j of  log y_j at the true colour of j

(equations 1 and 2): what has its colours from somewhere is found again there, so that the features follow things, and
carry masks along with them (``eyespot eval propagate``).

The frames are gray, lightness alone, as three equal channels; the encoder begins blind to colour (``make_colorblind``).
Its maps of stride 8 and more are added up at the finest of these; with them come the place, two numbers in -1..1, and
convolutions alternately over rows and columns and over frames, five in all.

What differs from the authors' code:
- The encoder stays a plain timm one, of which evaluation and release read what it is; theirs is a ResNet-18 whose later
  strides are taken away so that its last map is that fine.
- The 16 clusters are fixed, those of CIFAR-10's images (``color_clusters``); theirs are of their videos.
- Colours that no reference frame has cannot be copied, and do not count; group norm takes the place of batch norm.

To expect (from memory): ResNet-18, Kinetics, masks carried through DAVIS 2017: J 34.6, F 32.7; unmoved 22.1, 23.6.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import Clip, RandomView, ViewSpec
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.color_clusters import CLUSTERS
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.lab_color import make_colorblind, normalized, pixels, thinned, to_gray, to_lab, to_rgb
from eyespot.pretrain.networks.dense_maps import DenseFeatures
from eyespot.pretrain.networks.image_decoder import group_norm
from eyespot.pretrain.objective import About, Objective, one_sized, require_clip

LEAST = 1e-8
"""A share of the attention below it is taken for it."""


class VideoColorization(Objective):
    """Copies the colours of earlier frames."""

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's method."""

        about: ClassVar[About] = About(
            family="reconstruction",
            task="from where in earlier frames a gray one has its colours",
            paper="Vondrick et al.",
            year=2018,
            link="arXiv:1806.09594",
            needs="videos in colour",
            expected="ResNet-18, Kinetics, DAVIS 2017 propagation: J 34.6, F 32.7",
        )
        hidden_dim: Annotated[int, Ge(1)] = 256
        """Channels of the head."""
        layers: Annotated[int, Ge(0)] = 5
        """Convolutions of the head, over rows and columns and over frames in turn; 0 = frames do not see each other."""
        out_dim: Annotated[int, Ge(1)] = 64
        """Width of the features that are compared."""
        temperature: Annotated[float, Gt(0)] = 1.0
        """Divides inner products."""
        view: RandomView = RandomView(scale=(0.5, 1.0), clip=Clip(4))  # noqa: RUF009 - frozen
        """How the clip is made: the last frame gets its colours from the others. It should not change colours."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            require_clip(self.view)

        def build(self, encoder: nn.Module, image_size: int) -> "VideoColorization":
            """Around any encoder with a feature map."""
            return VideoColorization(self, encoder, image_size)

    clusters: Float[Tensor, "clusters 2"]

    picture_rows: ClassVar[tuple[str, ...]] = ("the frame before", "what the encoder sees", "copied colours", "truth")

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        make_colorblind(encoder)
        self.dense = DenseFeatures(encoder, image_size, config.hidden_dim)
        self.head = _Head(config.hidden_dim, config.layers, config.out_dim)
        self.register_buffer("clusters", torch.tensor(CLUSTERS), persistent=False)

    def views(self) -> ViewSpec:
        """One clip, in colours that can be told from its numbers."""
        return replace(one_sized(self.config.view, self.image_size), fixed=True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}; the share of places whose colour is named right; and of those that have the last frame's there."""
        lab = to_lab(pixels(batch.views[0].flatten(0, 1)))
        colors = self.colors(lab).unflatten(0, batch.views[0].shape[:2])
        copied = self.copied(lab[:, :1].unflatten(0, batch.views[0].shape[:2]), colors[:, :-1])
        with torch.autocast(copied.device.type, enabled=False):
            true = colors[:, -1]
            there = F.one_hot(colors[:, :-1].flatten(1), len(self.clusters)).amax(1).gather(1, true) > 0
            share = copied.gather(2, true[..., None])[..., 0].clamp_min(LEAST)
            loss = torch.where(there, -share.log(), 0).mean()
        right, unmoved = copied.argmax(2) == true, colors[:, -2] == true
        return {"loss": loss, "accuracy": right.float().mean(), "accuracy_unmoved": unmoved.float().mean()}

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b _"]:
        """The maps that are added up."""
        return torch.cat([each.flatten(1) for each in self.dense.read(encoder, images)], dim=1)

    def colors(self, lab: Float[Tensor, "n 3 h w"]) -> Int[Tensor, "n p"]:
        """The nearest cluster of each place: of its middle pixel, as a mean would be grayer."""
        side = self.dense.grid[0]
        ab = thinned(lab[:, 1:], side)
        distances = (ab[:, None] - self.clusters.to(ab.dtype)).square().sum(2)
        return distances.argmin(1).unflatten(0, (len(lab), side**2))

    def features(self, lightness: Float[Tensor, "b t 1 h w"]) -> Float[Tensor, "b t p d"]:
        """Of every place of every frame, as gray ones."""
        gray = normalized(to_gray(lightness.flatten(0, 1)))
        maps = self.dense(self.dense.read(self.encoder, gray)).unflatten(0, lightness.shape[:2])
        return self.head(maps.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)

    def copied(
        self, lightness: Float[Tensor, "b t 1 h w"], references: Int[Tensor, "b r p"]
    ) -> Float[Tensor, "b p clusters"]:
        """The last frame's distribution over clusters at each place, from the frames before it and their clusters."""
        features = self.features(lightness)
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(torch.promote_types(features.dtype, torch.float32))
            similar = features[:, -1] @ features[:, :-1].flatten(1, 2).transpose(1, 2) / self.config.temperature
            known = F.one_hot(references.flatten(1), len(self.clusters)).to(similar.dtype)
            return similar.softmax(2) @ known

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "4 n 3 h w"]:
        """The frame before the last; the last one in gray; the same with copied colours; and as it was."""
        clips = batch.views[0][:NUM_PICTURED].float()
        lab = to_lab(pixels(clips.flatten(0, 1))).unflatten(0, clips.shape[:2])
        colors = self.colors(lab.flatten(0, 1)).unflatten(0, clips.shape[:2])
        side, lightness = self.dense.grid[0], lab[:, -1, :1]
        ab = (self.copied(lab[:, :, :1], colors[:, :-1]).float() @ self.clusters).transpose(1, 2)
        ab = F.interpolate(ab.unflatten(2, (side, side)), lightness.shape[2:], mode="bilinear")
        given = normalized(to_rgb(torch.cat([lightness, ab], dim=1)))
        return torch.stack([clips[:, -2], normalized(to_gray(lightness)), given, clips[:, -1]])


class _Head(nn.Module):
    """Tells the features where they are, mixes them over places and frames, and brings them to their width."""

    def __init__(self, dim: int, layers: int, out_dim: int) -> None:
        super().__init__()
        self.layers, width = nn.Sequential(), dim + 2
        for number in range(layers):
            kernel, padding = (((1, 3, 3), (0, 1, 1)), ((3, 1, 1), (1, 0, 0)))[number % 2]
            convolution = nn.Conv3d(width, dim, kernel, padding=padding, bias=False)
            self.layers.append(nn.Sequential(convolution, group_norm(dim), nn.ReLU()))
            width = dim
        self.last = nn.Conv3d(width, out_dim, 1)

    def forward(self, maps: Float[Tensor, "b d t h w"]) -> Float[Tensor, "b e t h w"]:
        batch, _, frames, height, width = maps.shape
        rows = torch.linspace(-1, 1, height, device=maps.device, dtype=maps.dtype)[:, None].expand(height, width)
        columns = torch.linspace(-1, 1, width, device=maps.device, dtype=maps.dtype).expand(height, width)
        places = torch.stack([rows, columns])[None, :, None].expand(batch, -1, frames, -1, -1)
        return self.last(self.layers(torch.cat([maps, places], dim=1)))
