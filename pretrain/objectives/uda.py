"""UDA: unsupervised data augmentation for consistency training (Xie et al. 2020, arXiv:1904.12848).

A classifier p learns from the images that have a label; and what it says of an image must not change when the image is
strongly augmented (equation 1 with section 2.4). With x a weakly and x' a strongly augmented view (RandAugment):

    L = mean over labelled images of -log p(y | x) + weight * mean over all images of m(x) KL(q(x) || p(x')),
    q = softmax(logits(x) / T) without gradient,  m(x) = 1 where the largest of p(x) is above ``threshold``, else 0.

Training signal annealing (section 3.1), for when there are very few labels: labelled images that the classifier is
surer of than eta do not count; eta rises from 1 / classes to 1 over the run. With t the share of it that is done,

    eta = alpha (1 - 1 / classes) + 1 / classes,  alpha = t (linear), 1 - exp(-5 t) (log) or exp(5 (t - 1)) (exp).

The mean over labelled images is that of the whole batch, over all ranks and micro-batches, however they are spread.

What differs from the authors' code: their batches have a fixed number of labelled images, these are what the stream
brings; and their RandAugment for CIFAR-10 cuts a square out of the image, which is left out. Which labels there are to
see: those in the shards, or --data.labeled-ids.

To expect: WRN-28-2 on CIFAR-10 with 4,000 labels: 95.7 %; ResNet-50 on ImageNet-1k with 10 % of its labels: 68.8 %
(tables 3 and 5, from memory).
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.collectives import mean_where
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.objective import About, Labels, in_one_pass
from eyespot.pretrain.skipped_step import Taken, if_taken


class UDA(Contrastive):
    """Names what is in the labelled images, and says the same of any image when it is augmented."""

    picture_rows = ("weakly augmented", "strongly augmented")
    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The paper's settings for CIFAR-10, but for the number of classes."""

        about: ClassVar = About(
            family="some labels",
            task="what is in some images, and the same answer for all when they are augmented",
            paper="Xie et al.",
            year=2020,
            link="arXiv:1904.12848",
            needs="labels of some images",
            expected="ResNet-50, ImageNet-1k, 10 % of its labels: 68.8 %",
        )

        num_classes: Annotated[int, Ge(2)] = 1000
        """Classes of the data."""
        weight: Annotated[float, Ge(0)] = 1.0
        """Of consistency."""
        temperature: Annotated[float, Gt(0)] = 0.4
        """Divides the logits of the weak view: below 1, the classifier is asked to be surer of the strong one."""
        threshold: Annotated[float, Ge(0), Lt(1)] = 0.8
        """Images of whose weak view no class is surer than this ask nothing of the strong one."""
        annealing: Literal["none", "linear", "log", "exp"] = "none"
        """How the sureness rises up to which labelled images count; none = they all count always."""
        weak: RandomView = RandomView(scale=(0.8, 1.0))  # noqa: RUF009 - frozen
        """How the view is made that labels are for."""
        strong: RandomView = RandomView(scale=(0.8, 1.0), rand_augment=9.0)  # noqa: RUF009 - frozen
        """How the view is made that must be named alike."""

        def needs_labels(self) -> Labels:
            """Consistency needs none."""
            return "some"

        def build(self, encoder: nn.Module, image_size: int) -> "UDA":
            """A classifier around any encoder."""
            return UDA(self, encoder, image_size)

    ceiling: Float[Tensor, ""]
    """Labelled images that the classifier is surer of do not count."""

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.num_classes = config.num_classes
        self.classifier = nn.Linear(feature_width(encoder), config.num_classes)
        self.register_buffer("ceiling", torch.tensor(self._ceiling(0.0)))

    def views(self) -> ViewSpec:
        """The weak view and the strong one."""
        return in_one_pass(self.image_size, weak=self.config.weak, strong=self.config.strong)

    def embed(self, batch: Batch) -> Rows:
        """The logits of both views, from one pass."""
        weak, strong = self.classifier(self.encode(torch.cat(batch.views))).chunk(2)
        return {"weak": weak, "strong": strong}

    def targets(self, batch: Batch) -> Rows:
        """The labels."""
        return {"labels": batch.labels}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}; its two parts; the shares of images that are labelled, and sure; of labels named right."""
        weak, strong = (
            rows[name].to(torch.promote_types(rows[name].dtype, torch.float32)) for name in ("weak", "strong")
        )
        labels, fixed = rows["labels"], weak.detach()
        known, sure = labels >= 0, fixed.softmax(1).amax(1) > self.config.threshold
        losses = F.cross_entropy(weak, labels.clamp_min(0), reduction="none")
        supervised = mean_where(losses, known & ((-losses).exp() <= self.ceiling))
        wanted = F.log_softmax(fixed / self.config.temperature, 1)
        divergence = (wanted.exp() * (wanted - F.log_softmax(strong, 1))).sum(1)
        consistency = torch.where(sure, divergence, 0).mean()
        return {
            "loss": supervised + self.config.weight * consistency,
            "supervised": supervised,
            "consistency": consistency,
            "labeled": known.float().mean(),
            "sure": sure.float().mean(),
            "accuracy": mean_where((fixed.argmax(1) == labels).to(fixed.dtype), known),
        }

    @torch.no_grad()
    def after_step(self, progress: float, taken: Taken = True) -> None:
        """Lets in labelled images that the classifier is surer of."""
        ceiling = torch.full_like(self.ceiling, self._ceiling(progress))
        self.ceiling.copy_(if_taken(taken, ceiling, self.ceiling))

    def _ceiling(self, progress: float) -> float:
        match self.config.annealing:
            case "none":
                return 1.0
            case "linear":
                alpha = progress
            case "log":
                alpha = 1 - math.exp(-5 * progress)
            case "exp":
                alpha = math.exp(5 * (progress - 1))
        return alpha + (1 - alpha) / self.config.num_classes
