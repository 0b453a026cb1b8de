"""Odd-one-out networks: which of six parts of a video has its frames in a wrong order (Fernando et al. 2017, O3N).

arXiv:1611.06646. Of a clip six sequences of frames are drawn; five are in the order of time, and one, at a place drawn
anew, is shuffled. With v_k what the network makes of sequence k, all by the same weights, they are put together as a
weighted sum of differences (section 3, from memory),

    o = sum over i < j of (j - i) (v_j - v_i),    L = -log softmax(head(o))_k,    k in 0..5 the place of the odd one,

averaged over the batch: o is as wide as one of them, and only by comparing can it be told which differs.

What differs from the authors' code: the encoder sees frames, one by one, and a sequence is their vectors side by side
after a layer; theirs sees the differences of a sequence's frames as the channels of one image, and no frame as it is.
So every frame of a clip is encoded once, and the sequences, which share frames, cost next to nothing. The vectors are
those of order verification (``GridHead``). A sequence played backwards counts as shuffled. o is divided by 15, the
weight of its ends.

To expect: AlexNet from scratch on UCF101, fine-tuned: 60.3 % of UCF101, 32.5 % of HMDB51 (the latter from memory).
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import Clip, RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.networks.heads import GridHead, mlp
from eyespot.pretrain.networks.image_decoder import grid_of
from eyespot.pretrain.objective import About, Objective, one_sized, require_clip


class OddOneOut(Objective):
    """Says which of several sequences of frames is shuffled."""

    only_encodes = True
    picture_rows = ("the odd sequence", "another one")

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's six sequences; their length from memory."""

        about: ClassVar = About(
            family="transformation",
            task="which of six parts of a video has its frames in a wrong order",
            paper="Fernando et al.",
            year=2017,
            link="arXiv:1611.06646",
            needs="videos",
            expected="AlexNet, UCF101, fine-tuned: 60.3 %",
        )

        sequences: Annotated[int, Ge(2), Le(64)] = 6
        """How many, the odd one among them; an even number, for a sequence in the middle would have no weight."""
        length: Annotated[int, Ge(2), Le(7)] = 6
        """Frames of a sequence."""
        channels: Annotated[int, Ge(1)] = 64
        """Of each place of the feature map that the head sees."""
        frame_dim: Annotated[int, Ge(1)] = 512
        """Width of a frame's vector."""
        hidden_dim: Annotated[int, Ge(1)] = 1024
        """Width of a sequence's vector, and of the classifier's hidden layer."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.5, 1.0), clip=Clip(16, stride=4, by_motion=True)
        )
        """How the frames are chosen, of which the sequences are drawn, and cut, all alike."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            require_clip(self.view, least=self.length)
            if self.sequences % 2:
                raise UserError(
                    f"objective.sequences {self.sequences}: of an odd number the one in the middle has no weight in the"
                    f" sum of differences, and is never seen; set it to {self.sequences + 1}"
                )

        def build(self, encoder: nn.Module, image_size: int) -> "OddOneOut":
            """Odd sequences around any encoder with a feature map."""
            return OddOneOut(self, encoder, image_size)

    wrong: Int[Tensor, "orders length"]
    """All orders but the true one."""
    weights: Float[Tensor, " sequences"]
    """Of each sequence's vector in the sum of differences."""

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.chance = 1 / config.sequences
        width: int = encoder.num_features  # pyright: ignore[reportAssignmentType]
        self.frame_head = GridHead(width, grid_of(encoder, image_size), config.channels, config.frame_dim)
        self.sequence_head = nn.Linear(config.length * config.frame_dim, config.hidden_dim)
        self.head = mlp(config.hidden_dim, config.hidden_dim, config.sequences)
        wrong = torch.tensor(list(permutations(range(config.length)))[1:])
        self.register_buffer("wrong", wrong, persistent=False)
        places = range(config.sequences)
        weights = [sum((k - i) for i in places) / sum(places) for k in places]
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    def views(self) -> ViewSpec:
        """One clip."""
        return one_sized(self.config.view, self.image_size)

    def read(self, encoder: nn.Module, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d _ _"]:
        """The last map."""
        return last_tokens(encoder, images)[-1].patches

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log 6 where nothing was learned; and the share of odd sequences that are found."""
        frames, odd = self.drawn(batch)
        logits = self.logits(batch.views[0], frames)
        loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), odd)
        return {"loss": loss, "accuracy": self.decisions(logits, odd).float().mean()}

    def drawn(self, batch: Batch) -> tuple[Int[Tensor, "b sequences length"], Int[Tensor, " b"]]:
        """Which frames of its clip each sequence of each sample has, in its order; and which of them is odd."""
        config, count = self.config, batch.views[0].shape[1]
        draws = batch.uniforms("odd_one_out", 2 + config.sequences * count)
        frames = draws[:, 2:].unflatten(1, (config.sequences, count)).argsort(dim=2, stable=True)
        frames = frames[..., : config.length].sort(dim=2).values
        odd = (draws[:, 0] * config.sequences).long()
        order = self.wrong[(draws[:, 1] * len(self.wrong)).long()]
        shuffled = frames.gather(2, order[:, None].expand_as(frames))
        is_odd = torch.arange(config.sequences, device=odd.device) == odd[:, None]
        return torch.where(is_odd[..., None], shuffled, frames), odd

    def logits(
        self, clips: Float[Tensor, "b t 3 h w"], frames: Int[Tensor, "b sequences length"]
    ) -> Float[Tensor, "b sequences"]:
        """Of each sequence being the odd one."""
        seen = self.frame_head(self.read(self.encoder, clips.flatten(0, 1))).unflatten(0, clips.shape[:2])
        index = frames.flatten(1)[..., None].expand(-1, -1, seen.shape[-1])
        sequences = seen.gather(1, index).unflatten(1, frames.shape[1:]).flatten(2)
        vectors = F.relu(self.sequence_head(sequences))
        return self.head((self.weights.to(vectors.dtype)[:, None] * vectors).sum(1))

    def decisions(self, logits: Float[Tensor, "b sequences"], odd: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """Of which samples the odd sequence is found."""
        return logits.argmax(1) == odd

    @torch.no_grad()
    def told(self, batch: Batch) -> Float[Tensor, " b"]:
        """1 where the odd sequence is found."""
        frames, odd = self.drawn(batch)
        return self.decisions(self.logits(batch.views[0], frames), odd).float()

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "2 n 3 h w"]:
        """Of one sample, the frames of the odd sequence as they lie in it, and of the next sequence."""
        frames, odd = self.drawn(batch)
        clip, place = batch.views[0][0].float(), odd[:1]
        shown = [frames[0].index_select(0, (place + step) % self.config.sequences)[0] for step in range(2)]
        return torch.stack([clip.index_select(0, row[:NUM_PICTURED]) for row in shown])
