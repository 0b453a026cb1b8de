"""Ambient sound: the sounds of a place tell what one sees there (Owens et al. 2016, arXiv:1608.07017).

Before the first step the sounds of all samples, or of many, are clustered by their statistics: what each band's
loudness is like over time, and what bands have to do with each other (``sound_statistics``; section 3.1). An encoder
that sees a still frame then says which cluster its sound belongs to (section 3.2), c(s) being the one whose middle is
nearest:

    L = -log softmax(head(encoder(x)))_c(s),

averaged over the batch. Each statistic is divided by its standard deviation over all samples, and by the root of how
many there are of its kind, so that all kinds weigh alike.

What differs from the authors' code: statistics of a mel spectrogram, where they filter the wave (32 bands,
correlations of all pairs, loudness); any encoder in place of CaffeNet; of the kinds of labels that they tried the
clusters alone, not the binary codes. Each time a sample is seen, the seconds that are then drawn of its sound give its
cluster.

Of a video, one frame (``view.clip`` of 1) and the sound that begins with it (``sound.of`` 0).

To expect: the paper judges CaffeNet after 180,000 videos of Flickr by linear SVMs on VOC 2007; its figures could not be
looked up here.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import AudioView, RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.terminal import plural
from eyespot.pretrain.distributed.collectives import take_from_first
from eyespot.pretrain.losses.kmeans import clustered
from eyespot.pretrain.losses.sound_statistics import LEAST_COLUMNS, kinds, sound_statistics
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.memory_bank import SampleIds
from eyespot.pretrain.objective import About, Objective, require_own_sound, still


class AmbientSound(Objective):
    """Names the cluster of a sound that it does not hear."""

    refresh_epochs = math.inf

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's numbers (section 3)."""

        about: ClassVar = About(
            family="sound",
            task="to which cluster of sounds that of an image belongs",
            paper="Owens et al.",
            year=2016,
            link="arXiv:1608.07017",
            needs="images or videos with sound",
        )

        num_clusters: Annotated[int, Ge(2)] = 30
        """K."""
        cluster_samples: Annotated[int, Ge(2)] = 100_000
        """Of how many samples, spread over all, the sounds are clustered; at most as many as there are."""
        view: RandomView = RandomView(scale=(0.5, 1.0))  # noqa: RUF009 - frozen
        """How images are seen; of a video one frame."""
        sound: AudioView = AudioView(seconds=3.75, mels=32)  # noqa: RUF009 - frozen
        """How sound is heard."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            require_own_sound(self.view, self.sound)
            if self.sound.shape(())[2] < LEAST_COLUMNS:
                raise UserError(
                    f"objective.sound.hop {self.sound.hop}: of {self.sound.seconds:g} seconds it leaves one column, and"
                    f" nothing that changes over time; set it to {self.sound.num_samples} or less"
                )
            if self.cluster_samples < self.num_clusters:
                raise UserError(
                    f"objective.cluster_samples {self.cluster_samples}: fewer than objective.num_clusters"
                    f" {self.num_clusters}; raise it, or lower that"
                )

        def build(self, encoder: nn.Module, image_size: int) -> "AmbientSound":
            """Around any encoder."""
            return AmbientSound(self, encoder, image_size)

    middle: Float[Tensor, " n"]
    """(N,) the mean of each statistic."""
    weight: Float[Tensor, " n"]
    """(N,) what its difference from that is multiplied by."""
    centres: Float[Tensor, "k n"]
    """(K, N) the middles of the clusters, of weighted statistics; 0 before they are found."""

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.refresh_samples = config.cluster_samples
        self.refresh_view = replace(config.sound, of=None, place="center")
        self.kinds = kinds(*config.sound.shape(())[1:])
        self.head = nn.Linear(feature_width(encoder), config.num_clusters)
        count = sum(self.kinds.values())
        for name, shape in (("middle", (count,)), ("weight", (count,)), ("centres", (config.num_clusters, count))):
            self.register_buffer(name, torch.zeros(shape))

    def prepare(self, ids: SampleIds) -> None:
        """Whether there are enough samples to cluster."""
        if (count := len(ids)) < self.config.num_clusters:
            raise UserError(
                f"objective.num_clusters {self.config.num_clusters}: more than the {plural(count, 'sound')}; lower it"
            )

    def views(self) -> ViewSpec:
        """An image, and the sound whose cluster is asked for."""
        return ViewSpec(views=(*sized_views(self.image_size, self.config.view).views, self.config.sound))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log(num_clusters) at most where nothing was learned; the share of clusters named right."""
        images, sounds = batch.views
        logits, answers = self.head(self.encode(still(images))), self.cluster(sounds)
        loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), answers)
        return {"loss": loss, "accuracy": (logits.argmax(1) == answers).float().mean()}

    @torch.no_grad()
    def cluster(self, sounds: Float[Tensor, "b 1 mels columns"]) -> Int[Tensor, " b"]:
        """The number of the cluster whose middle is nearest to each sound's statistics."""
        rows = (self.refresh_features(sounds) - self.middle) * self.weight
        return (rows[:, None] - self.centres).square().sum(2).argmin(1)

    def refresh_features(self, images: Float[Tensor, "b 1 mels columns"]) -> Float[Tensor, "b n"]:
        """The statistics, of the spectrograms that ``refresh_view`` shows."""
        with torch.autocast(images.device.type, enabled=False):
            return sound_statistics(images.to(torch.promote_types(images.dtype, torch.float32)))

    @torch.no_grad()
    def refresh(self, features: Float[Tensor, "n d"] | None) -> None:
        """Finds the clusters, on rank 0."""
        if features is not None:
            deviation, middle = torch.std_mean(features.double(), dim=0, correction=0)
            counts = torch.tensor([count for count in self.kinds.values() for _ in range(count)])
            weight = torch.where(deviation > 1e-5, 1 / (deviation.clamp_min(1e-5) * counts.sqrt()), 0.0)
            rows = ((features - middle) * weight).float()
            assigned = torch.from_numpy(clustered(rows, self.config.num_clusters))
            sums = torch.zeros(self.centres.shape, dtype=torch.float64).index_add_(0, assigned, rows.double())
            self.middle.copy_(middle)
            self.weight.copy_(weight)
            self.centres.copy_(sums / assigned.bincount(minlength=len(sums))[:, None])
        for buffer in (self.middle, self.weight, self.centres):
            take_from_first(buffer)
