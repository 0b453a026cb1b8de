"""Audio-visual correspondence: which sound belongs to an image? (Arandjelovic & Zisserman 2017, arXiv:1705.08168).

Two towers, f of a still frame and g of a second of sound as a log-mel spectrogram. With s_i the sound of sample i and
s'_i that of another one, drawn anew each epoch, they learn in one of three ways (``form``):

    correspondence   L = -1/2 log p(yes | f(x_i), g(s_i)) - 1/2 log p(no | f(x_i), g(s'_i)),  averaged over the batch;
                     p = softmax of W2 relu(W1 [f, g]): both features side by side (L3-Net, section 2)
    distance         the same question, p = softmax of w |u_i - v_i| + b: with u and v unit vectors, nothing but how far
                     they are from each other may answer it (AVE-Net, 2018, arXiv:1712.06651, section 3)
    contrastive      L = -1/2N sum_i [log exp(t u_i . v_i) / sum_j exp(t u_i . v_j) + the same with u and v exchanged]:
                     each sound finds its image among the batch of all ranks (as CLIP; Morgado et al. 2021,
                     arXiv:2004.12943)

u and v are what two layers make of f and g. Distance and contrastive thus end in one space, in which images find
sounds; correspondence has none: to retrieve with it, every pair must go through its head.

What differs from the papers: any encoders stand in for their networks of eight convolutions (for both, of ImageNet's
kind); mel bands in place of 257 frequencies; the volume is not altered; both questions are asked of each sample in
every step, where they draw one; the layer over the distance begins with "the farther, the less". t begins at 1 / 0.07,
is learned, and is cut at 100, as CLIP's.

Of a video, one frame (``view.clip`` of 1) and the sound that begins with it (``sound.of`` 0).

To expect (from memory): L3-Net on Flickr-SoundNet answers 78 % right; ESC-50, linear on the sound tower 79.3 %;
ImageNet-1k, linear on the image tower 32.3 %.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import AudioView, RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Rows
from eyespot.pretrain.families.two_towers import TwoEncoders, TwoTowers, make_tower
from eyespot.pretrain.losses.contrastive import clip_loss
from eyespot.pretrain.losses.feature_statistics import similarities_of_towers
from eyespot.pretrain.networks.encoders import feature_width, features
from eyespot.pretrain.objective import About, Objective, require_own_sound, still

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0


class AudioVisual(TwoEncoders):
    """Images and sounds find each other among a batch: the contrastive form."""

    joint = ("image", "sound")
    largest_scale = LARGEST_SCALE

    @dataclass(kw_only=True, slots=True)
    class Config(TwoTowers.Config):
        """The papers' numbers (L3-Net, sections 2 and 3)."""

        about: ClassVar = About(
            family="sound",
            task="which sound belongs to an image: a pair's own or another's, or which one among a batch",
            paper="Arandjelovic & Zisserman",
            year=2017,
            link="arXiv:1705.08168",
            needs="images or videos with sound",
            expected="Flickr-SoundNet, correspondence: 78 %",
        )

        form: Literal["contrastive", "correspondence", "distance"] = "contrastive"
        """How pairs are compared: as vectors among a batch, through a head on both features, or by their distance."""
        out_dim: Annotated[int, Ge(2)] = 128
        """Channels of the space; of correspondence those of the layer on both features."""
        sound_encoder: str = "resnet18"
        """timm's name of the sound tower's architecture, which sees one channel."""
        view: RandomView = RandomView(scale=(0.76, 1.0), jitter=(0.4, 0.0, 0.4, 0.0))  # noqa: RUF009 - frozen
        """How images are seen; of a video one frame."""
        sound: AudioView = AudioView(rate=48_000, window=480, hop=240, mels=40)  # noqa: RUF009 - frozen
        """How sound is heard."""

        def __post_init__(self) -> None:
            TwoTowers.Config.__post_init__(self)
            require_own_sound(self.view, self.sound)

        def check_batch(self, batch_size: int) -> None:
            """Among a batch of one there is nothing to find; the other forms ask about each sample by itself."""
            if self.form == "contrastive":
                TwoTowers.Config.check_batch(self, batch_size)

        def build(self, encoder: nn.Module, image_size: int) -> Objective:
            """The form's objective around any encoder."""
            forms = {"contrastive": AudioVisual, "correspondence": Correspondence, "distance": Distance}
            return forms[self.form](self, encoder, image_size)

        def make_sound_tower(self) -> nn.Module:
            """Drawn freshly.

            Raises:
                UserError: timm has no such encoder, or it cannot see these spectrograms.
            """
            return make_tower(self.sound_encoder, self.sound.shape(()), "objective.sound_encoder")

        def make_projection(self, tower: nn.Module) -> nn.Module:
            """Two layers into the space (AVE-Net, figure 3)."""
            first = nn.Linear(feature_width(tower), self.out_dim)
            return nn.Sequential(first, nn.ReLU(inplace=True), nn.Linear(self.out_dim, self.out_dim))

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__(config, encoder, image_size, config.make_sound_tower(), math.log(FIRST_SCALE))

    def make_projection(self, tower: nn.Module) -> nn.Module:
        """The config's two layers."""
        return self.config.make_projection(tower)

    def views(self) -> ViewSpec:
        """An image and its sound."""
        return ViewSpec(views=(*sized_views(self.image_size, self.config.view).views, self.config.sound))

    def project(self, kind: str, view: Tensor) -> Tensor:
        """Before the vectors are made unit ones."""
        return super().project(kind, still(view) if kind == "image" else view)

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: symmetric InfoNCE; the scale, and how alike images are to their sounds and to others'."""
        image, sound, scale = rows["image"], rows["sound"], rows["scale"][0]
        loss = clip_loss(image, sound, scale, ids=rows["ids"])
        return {"loss": loss, "scale": scale.detach().clone(), **similarities_of_towers(image, sound)}


class Correspondence(Objective):
    """Says of an image and a sound whether they belong together, by a head on the features of both."""

    only_encodes = True
    chance = 0.5

    def __init__(self, config: AudioVisual.Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.sound = config.make_sound_tower()
        self.make_head()

    def make_head(self) -> None:
        """Two layers on both features (L3-Net, figure 2)."""
        width = feature_width(self.encoder) + feature_width(self.sound)
        self.head = nn.Sequential(
            nn.Linear(width, self.config.out_dim), nn.ReLU(inplace=True), nn.Linear(self.config.out_dim, 2)
        )

    def views(self) -> ViewSpec:
        """An image, its sound, and that of another sample."""
        own = self.config.sound
        return ViewSpec(views=(*sized_views(self.image_size, self.config.view).views, own, replace(own, partner=True)))

    def describe(self, kind: str, view: Tensor) -> Float[Tensor, "b d"]:
        """What the head is given of an "image" or a "sound"."""
        return self.encode(still(view)) if kind == "image" else features(self.sound, view)

    def answer(self, images: Float[Tensor, "b d"], sounds: Float[Tensor, "b e"]) -> Float[Tensor, "b 2"]:
        """Logits of "no" and "yes", of pairs that are described."""
        return self.head(torch.cat([images, sounds], dim=1))

    def answers(self, batch: Batch) -> Float[Tensor, "2 b 2"]:
        """Of each image with its own sound, and with another's: in one pass, so that batch norm treats them alike."""
        images, own, others = batch.views
        seen, heard = self.describe("image", images), self.describe("sound", torch.cat([own, others]))
        logits = self.answer(torch.cat([seen, seen]), heard).unflatten(0, (2, len(images)))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log 2 where nothing was learned; and the share of pairs, true ones and false ones, told right."""
        own, others = self.answers(batch)
        loss = (F.softplus(own[:, 0] - own[:, 1]) + F.softplus(others[:, 1] - others[:, 0])).mean() / 2
        return {"loss": loss, "accuracy": right(own, others).mean()}

    @torch.no_grad()
    def told(self, batch: Batch) -> Float[Tensor, " b"]:
        """The true pair and the false one count alike."""
        return right(*self.answers(batch))


def right(own: Float[Tensor, "b 2"], others: Float[Tensor, "b 2"]) -> Float[Tensor, " b"]:
    """Of each sample the share of its two pairs that are told right."""
    return ((own[:, 1] > own[:, 0]).float() + (others[:, 1] <= others[:, 0]).float()) / 2


class Distance(Correspondence):
    """Says so by the distance of two unit vectors alone."""

    joint = ("image", "sound")

    def make_head(self) -> None:
        """A space, and a layer over one number."""
        self.image_projection = self.config.make_projection(self.encoder)
        self.sound_projection = self.config.make_projection(self.sound)
        self.head = nn.Linear(1, 2)
        with torch.no_grad():  # undecided at sqrt 2, the distance of vectors that have nothing in common
            self.head.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            self.head.bias.copy_(torch.tensor([-math.sqrt(2), math.sqrt(2)]))

    def describe(self, kind: str, view: Tensor) -> Float[Tensor, "b d"]:
        """Unit vectors."""
        projection = self.image_projection if kind == "image" else self.sound_projection
        return F.normalize(projection(super().describe(kind, view)), dim=-1)

    def embed_joint(self, kind: str, view: Tensor) -> Float[Tensor, "b d"]:
        """What the distance is taken of."""
        return self.describe(kind, view)

    def answer(self, images: Float[Tensor, "b d"], sounds: Float[Tensor, "b d"]) -> Float[Tensor, "b 2"]:
        """Logits of "no" and "yes", in single precision or better: of near vectors bfloat16 keeps no difference."""
        with torch.autocast(images.device.type, enabled=False):
            kept = torch.promote_types(images.dtype, torch.float32)
            return self.head((images.to(kept) - sounds.to(kept)).norm(dim=1, keepdim=True))
