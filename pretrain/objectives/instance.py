"""NPID: unsupervised feature learning via non-parametric instance discrimination (Wu et al. 2018, arXiv:1805.01978).

Every image is a class of its own, and its classifier's weight is what the encoder made of it when it was last seen: a
bank of N unit vectors v_j. With f_i the normalised output for image i and T the temperature (equation 2),

    P(i | f) = exp(v_i . f / T) / sum_j exp(v_j . f / T).

``num_negatives=0`` takes -log P(i | f_i) as it is. Else it is noise-contrastive estimation (equations 4 to 7) with m
rows j_k drawn anew for each image: P with the sum replaced by a constant Z, h = P / (P + m / N), and

    L = -log h(i, f_i) - sum_k log(1 - h(j_k, f_i)) + proximal * |f_i - v_i|^2     (the last term: equation 10),

averaged over the batch. After the step v_i <- normalise(momentum * v_i + (1 - momentum) * f_i).

What differs from the authors' code: Z is the expectation of what theirs measures in the first batch, when the bank is
random: N times the mean of exp(v . f / T) over the unit sphere. So it needs no data, and is the same on any number of
ranks and micro-batches. The bank begins with exactly normalised vectors. As in their code ``proximal`` is 0 unless it
is asked for.

To expect: ResNet-50 on ImageNet-1k, 200 epochs: 54.0 % linear probe, 46.5 % kNN; ResNet-18 on CIFAR-10: 80.8 % kNN with
all rows, 80.4 % with 4096 (tables 1 and 2; from memory).
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from jaxtyping import Float, Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.losses.contrastive import moco_loss
from eyespot.pretrain.losses.feature_statistics import similarities_of_towers
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.memory_bank import SampleBank, SampleIds, rows_of
from eyespot.pretrain.objective import About, Objective
from eyespot.pretrain.skipped_step import Taken


class Instance(Objective):
    """Tells every image from all others, by what it made of them when it last saw them."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's numbers (sections 3 and 4)."""

        about: ClassVar = About(
            family="contrast",
            task="which of all images it is, against a bank of what the encoder made of each",
            paper="Wu et al.",
            year=2018,
            link="arXiv:1805.01978",
            expected="ResNet-50, ImageNet-1k, 200 epochs, linear: 54.0 %",
        )

        out_dim: Annotated[int, Ge(1)] = 128
        """Width of the bank's vectors."""
        temperature: Annotated[float, Ge(0.005)] = 0.07
        """Divides the cosines."""
        num_negatives: Annotated[int, Ge(0)] = 4096
        """Rows of the bank that an image is compared with at a step; 0 = all, for some ten thousand samples."""
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.5
        """Share of a row that stays when its image is seen again, 0..1."""
        proximal: Annotated[float, Ge(0)] = 0.0
        """Weight of the squared distance between an image's output and its row."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.4), jitter_probability=1.0, grayscale=0.2
        )
        """How the view is made."""

        def build(self, encoder: nn.Module, image_size: int) -> "Instance":
            """Instance discrimination around any encoder."""
            return Instance(self, encoder, image_size)

    bank: SampleBank

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.head = nn.Linear(feature_width(encoder), config.out_dim)

    def prepare(self, ids: SampleIds) -> None:
        """A row for each sample."""
        self.bank = SampleBank(ids, self.config.out_dim)

    def views(self) -> ViewSpec:
        """One view."""
        return sized_views(self.image_size, self.config.view)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}; and the mean cosines of an image with its own row and with those of others."""
        outputs = self.head(self.encode(batch.views[0]))
        with torch.autocast(outputs.device.type, enabled=False):
            outputs = F.normalize(outputs.to(torch.promote_types(outputs.dtype, torch.float32)), dim=1)
            rows = rows_of(self.bank.ids, batch.ids_on_device())
            own = self.bank.vectors[rows].to(outputs.dtype)
            loss = self._nce(batch, outputs, own) if self.config.num_negatives else self._softmax(outputs, own, rows)
            if self.config.proximal:
                loss = loss + self.config.proximal * (outputs - own).square().sum(1).mean()
        if self.in_step:
            self.bank.wait(rows, outputs)
        return {"loss": loss, **similarities_of_towers(outputs, own)}

    def _softmax(
        self, outputs: Float[Tensor, "b d"], own: Float[Tensor, "b d"], rows: Int[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        """Against the whole bank, of which an image's own row is the positive; no matrix of cosines is kept."""
        ids = self.bank.ids
        return moco_loss(outputs, own, self.bank.vectors, self.config.temperature, ids=ids[rows], queue_ids=ids)

    def _nce(self, batch: Batch, outputs: Float[Tensor, "b d"], own: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
        """P N / m = exp(logit) / (m E), where E is Z / N: so log h and log(1 - h) are logsigmoids of a difference."""
        count, temperature = self.config.num_negatives, self.config.temperature
        drawn = (batch.uniforms("instance", count).double() * len(self.bank.ids)).long()
        negatives = torch.einsum("bd,bmd->bm", outputs, self.bank.vectors[drawn].to(outputs.dtype)) / temperature
        positives = (outputs * own).sum(1) / temperature
        level = math.log(count) + log_mean_exp(self.config.out_dim, temperature)
        return -(F.logsigmoid(positives - level) + F.logsigmoid(level - negatives).sum(1)).mean()

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The rows of the step's images, on all ranks, follow."""
        self.bank.update(self.config.momentum, taken)

    def after_skip(self) -> None:
        """A step that was not taken leaves no trace in the bank."""
        self.bank.forget()


def log_mean_exp(dim: int, temperature: float) -> float:
    """log E exp(v . f / T) for unit vectors v that point anywhere: log 0F1(; dim / 2; 1 / (4 T^2))."""
    from scipy.special import hyp0f1  # takes a while to import, and most runs do not need it

    return math.log(hyp0f1(dim / 2, 1 / (4 * temperature**2)))
