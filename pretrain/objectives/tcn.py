"""TCN: time-contrastive networks (Sermanet et al. 2017, arXiv:1704.06888; of several frames: Dwibedi et al. 2018).

Frames of the same moment, seen by two cameras, come to lie close together, and frames of other moments apart, however
alike they look (``cameras`` 2, section 3.1). With one camera, frames of almost the same moment (section 3.2): of a clip
of three, a positive within ``view.clip.stride`` of the anchor and a negative beyond twice that. With D the Euclidean
distance and s the inner product of the head's outputs, p an anchor's positives and n its negatives,

    triplet   max(0, D(a, p)^2 - D(a, n)^2 + margin), n the nearest that is farther away than p
    n_pair    log(1 + sum over n of exp(s(a, n) - s(a, p))) + norm_weight |a|^2      (Sohn 2016, Dwibedi et al. 2018)

averaged over positives and anchors. Of moments whose frames are equal, pixel by pixel, none is another's negative: a
video shorter than the clip shows its last frame over and over. The head keeps places, as the authors': two convolutions
on the encoder's last map, of which the second takes in ``joined`` frames one after the other (Dwibedi et al.,
arXiv:1808.00928: then an embedding knows speeds), a softmax of each channel over places, whose means are its
coordinates, and a hidden layer.

What differs from the authors' code: negatives are also the frames of all other videos of a batch, on all ranks, among
which theirs are the hardest; theirs are all of one video. The encoder is trained from where it begins, where theirs is
an Inception trained on ImageNet, kept up to its fifth stage; begin with such weights by --start.weights. Rows are
unit vectors for triplets, as theirs, and as long as they are for n_pair.

To expect (from memory): multi-view triplets, pouring: alignment error 0.17 to 0.19, single-view 0.26, ImageNet 0.28; by
chance a third.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import Clip, Pick, RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch, send
from eyespot.pretrain.distributed.collectives import gather_rows, gather_with_gradient
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.losses.metric_learning import Pairs, n_pair_loss, triplet_loss
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.objective import About, require_clip

ONE_CAMERA = ((0, 1, -1), (1, 0, 0), (-1, 0, 0))
"""Of anchor, positive and negative of one video: 1 = belong together, -1 = apart, 0 = not said."""


class TCN(Contrastive):
    """Moments lie where they belong, whoever sees them."""

    embeds_frames = True
    only_encodes = True  # and asks which frames are equal: they are so in bf16, too

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The authors' head and margin."""

        about: ClassVar = About(
            family="metric",
            task="which frames of two cameras show the same moment",
            paper="Sermanet et al.",
            year=2017,
            link="arXiv:1704.06888",
            needs="videos; of two cameras, or --objective.cameras 1",
            expected="Inception v3, pouring, alignment error: 0.17 to 0.19",
        )

        cameras: Literal[1, 2] = 2
        """2 = clips of the first two cameras, at the same times; 1 = three frames of one (``view.clip.stream``), with
        ``view.clip.pick`` near_far."""
        loss: Literal["triplet", "n_pair"] = "triplet"
        """triplet = positives nearer than a semi-hard negative; n_pair = each positive against all negatives."""
        margin: Annotated[float, Gt(0)] = 0.2
        """Of triplets: between squared distances of unit vectors."""
        norm_weight: Annotated[float, Ge(0)] = 0.002
        """Of n_pair: weight of the rows' squared length."""
        joined: Annotated[int, Ge(1)] = 1
        """Frames, one after the other in a clip, that make one embedding."""
        channels: Annotated[int, Ge(1)] = 512
        """Of the head's convolutions, each of which gives two coordinates."""
        hidden_dim: Annotated[int, Ge(1)] = 2048
        """Width of the head's hidden layer."""
        out_dim: Annotated[int, Ge(1)] = 32
        """Width of an embedding."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.5, 1.0), flip=0.0, jitter=(0.4, 0.4, 0.4, 0.1), clip=Clip(8, stride=6)
        )
        """How a clip's frames are chosen and cut, all alike; anew for each camera."""

        def __post_init__(self) -> None:
            Contrastive.Config.__post_init__(self)
            if self.cameras == 1:
                require_clip(self.view, self.pick, least=len(ONE_CAMERA))
                if self.joined > 1:
                    raise UserError(f"objective.joined {self.joined}: frames of one camera lie apart; set it to 1")
                return
            clip = require_clip(self.view, self.pick)
            if clip.frames <= self.joined:
                raise UserError(
                    f"objective.joined {self.joined}: must be below objective.view.clip.frames {clip.frames}"
                )
            if clip.stream:
                raise UserError(
                    f"objective.view.clip.stream {clip.stream}: of two cameras the first two are read; set it to 0"
                )

        @property
        def pick(self) -> Pick:
            """How a clip's frames must be chosen."""
            return "near_far" if self.cameras == 1 else "even"

        def build(self, encoder: nn.Module, image_size: int) -> "TCN":
            """A time-contrastive network of any encoder with a feature map."""
            return TCN(self, encoder, image_size)

    relations: Int[Tensor, "n n"]
    """Of the embeddings of one video: 1 = belong together, -1 = apart, 0 = not said."""

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        width: int = encoder.num_features  # pyright: ignore[reportAssignmentType]
        self.head = _Head(width, config.channels, config.joined, config.hidden_dim, config.out_dim)
        self.moments = require_clip(config.view, config.pick).frames - config.joined + 1
        # On the CPU, for it is read here, also where only the sizes of an objective are wanted.
        whole: dict[str, Any] = dict(dtype=torch.int64, device="cpu")
        if config.cameras == 1:
            relations = torch.tensor(ONE_CAMERA, **whole)
        else:
            same = torch.eye(self.moments, **whole).repeat(2, 2)
            relations = 2 * same - 1 - torch.eye(2 * self.moments, **whole)
        self.anchors = int((relations.amax(1) > 0).sum())  # those without a positive come last
        self.register_buffer("relations", relations, persistent=False)

    def views(self) -> ViewSpec:
        """A clip of each camera, at the same times."""
        view, clip = self.config.view, require_clip(self.config.view, self.config.pick)
        streams = [clip.stream] if self.config.cameras == 1 else [0, 1]
        cameras = [replace(view, clip=replace(clip, stream=stream)) for stream in streams]
        return sized_views(self.image_size, *cameras)

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d _ _"]:
        """The last map."""
        return last_tokens(encoder, images)[-1].patches

    def embed(self, batch: Batch) -> Rows:
        """The head's output for every moment, those of the first camera first: (B, cameras x moments, out_dim)."""
        clips = torch.cat(batch.views)
        maps = self.read(self.encoder, clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return {"moments": torch.cat(self.head(maps).chunk(self.config.cameras), dim=1)}

    def embed_frames(self, clips: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t d"]:
        """The head's output for each frame; where it joins several, those before it, or the first one over and over."""
        maps = self.read(self.encoder, clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        before = maps[:, :1].repeat_interleave(self.config.joined - 1, dim=1)
        return self.head(torch.cat([before, maps], dim=1))

    def targets(self, batch: Batch) -> Rows:
        """Which video it is; how often it was seen, for at another time the moments are others; and which are equal."""
        epochs = send(batch.epochs, batch.labels.device)
        return {
            "ids": batch.ids_on_device(),
            "epochs": epochs,
            "numbers": moment_numbers(batch.views, self.config.joined),
        }

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}; and of two cameras how far off the nearest moment is, of one how often the positive is nearer."""
        moments = rows["moments"]
        with torch.autocast(moments.device.type, enabled=False):
            moments = moments.to(torch.promote_types(moments.dtype, torch.float32))
            if self.config.loss == "triplet":
                moments = F.normalize(moments, dim=2)
            numbers = rows["numbers"].repeat(1, self.config.cameras)
            pairs = self.pairs(moments, rows["ids"], rows["epochs"], numbers)
            if self.config.loss == "triplet":
                losses = triplet_loss(pairs, self.config.margin, "semi-hard")
            else:
                losses = n_pair_loss(pairs, self.config.norm_weight)
            losses = losses.unflatten(0, moments.shape[:2])[:, : self.anchors]
            return {"loss": losses.mean(), **self._found(moments.detach(), rows["numbers"])}

    def pairs(
        self,
        moments: Float[Tensor, "b n d"],
        ids: Int[Tensor, " b"],
        epochs: Int[Tensor, " b"],
        numbers: Int[Tensor, "b n"],
    ) -> Pairs:
        """All moments of this rank's videos with those of all ranks'.

        A video that a batch holds twice, at the end of an epoch and at the beginning of the next, is compared with
        itself at the same epoch only: nobody says how far the moments of the two lie apart.

        Args:
            moments: embeddings.
            ids: of the videos.
            epochs: how often each had been seen before.
            numbers: of one video's moments; equal ones are not apart.
        """
        count, rows = moments.shape[1], moments.flatten(0, 1)
        places = torch.arange(count, device=rows.device).repeat(len(moments))
        videos = (each.repeat_interleave(count) for each in (ids, epochs))
        own = torch.stack([*videos, places, numbers.flatten()], dim=1)
        every = gather_rows(own)
        same_video = own[:, None, 0] == every[:, 0]
        same_clip = same_video & (own[:, None, 1] == every[:, 1])
        relations = self.relations[places][:, every[:, 2]]
        apart = (relations < 0) & (own[:, None, 3] != every[:, 3])
        positives, negatives = same_clip & (relations > 0), ~same_video | (same_clip & apart)
        return Pairs(rows=rows, others=gather_with_gradient(rows), positives=positives, negatives=negatives)

    def _found(self, moments: Float[Tensor, "b n d"], numbers: Int[Tensor, "b m"]) -> dict[str, Tensor]:
        if self.config.cameras == 1:
            return {"accuracy": nearer(moments).float().mean()}
        one, other = moments.chunk(2, dim=1)
        return {"alignment_error": alignment_errors(one, other, numbers).mean()}


class _Head(nn.Module):
    """Embeddings of the moments of clips."""

    def __init__(self, width: int, channels: int, joined: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, channels, 3, padding=1)
        self.second = nn.Conv3d(channels, channels, (joined, 3, 3), padding=(0, 1, 1))
        self.last = mlp(2 * channels, hidden_dim, out_dim)

    def forward(self, maps: Float[Tensor, "b t d h w"]) -> Float[Tensor, "b n out"]:
        """One embedding for each frame that has enough before it."""
        frames = F.relu(self.first(maps.flatten(0, 1))).unflatten(0, maps.shape[:2])
        joined = F.relu(self.second(frames.transpose(1, 2))).transpose(1, 2)
        return self.last(spatial_softmax(joined))


def spatial_softmax(maps: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b coordinates"]:
    """Where each channel is strong: its mean row and its mean column, -1..1, weighted by its softmax over places.

    Levine et al. 2016 (arXiv:1504.00702), section 5.1: (..., C, H, W) to (..., 2 C), the rows first.
    """
    height, width = maps.shape[-2:]
    shares = maps.flatten(-2).softmax(-1).unflatten(-1, (height, width))
    rows, columns = (
        torch.linspace(-1, 1, count, dtype=shares.dtype, device=shares.device) for count in (height, width)
    )
    return torch.cat([(shares.sum(-1) * rows).sum(-1), (shares.sum(-2) * columns).sum(-1)], dim=-1)


def moment_numbers(clips: Sequence[Float[Tensor, "b t 3 h w"]], joined: int) -> Int[Tensor, "b n"]:
    """Counts the moments of each video from 0 on; one all of whose frames are those of the one before has its number.

    Args:
        clips: of each camera, at the same times.
        joined: frames of a moment.
    """
    changes = [(clip[:, 1:] != clip[:, :-1]).flatten(2).any(2) for clip in clips]
    changed = sum(changes[1:], changes[0]).unfold(1, joined, 1).any(2)
    return F.pad(changed.long().cumsum(1), (1, 0))


def alignment_errors(
    x: Float[Tensor, "b n d"], y: Float[Tensor, "b n d"], numbers: Int[Tensor, "b n"]
) -> Float[Tensor, "b n"]:
    """How far off in time the nearest of one camera's moments is for each of the other's, as a share of the clip.

    Sermanet et al. 2017, section 4.1: a third by chance, 0 where each moment is found, or one that is equal.
    """
    count = x.shape[1]
    squares = y.square().sum(2)[:, None] - 2 * x @ y.transpose(1, 2)
    return (numbers.gather(1, squares.argmin(2)) - numbers).abs() / count


def nearer(moments: Float[Tensor, "b 3 d"]) -> Bool[Tensor, " b"]:
    """Whether the positive is nearer to the anchor than the negative."""
    anchor, positive, negative = moments.unbind(1)
    return (anchor - positive).square().sum(1) < (anchor - negative).square().sum(1)
