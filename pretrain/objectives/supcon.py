"""SupCon: supervised contrastive learning (Khosla et al. 2020, arXiv:2004.11362).

Loss (L_out, equation 2): with z the normalised head outputs of all views of a batch, P(i) the other views with the
label of view i and A(i) all views but i, averaged over all views,

    l(i) = -1 / |P(i)| sum over p in P(i) of  log  exp(z_i . z_p / T) / sum over a in A(i) of exp(z_i . z_a / T).

What differs from the authors' code: the loss is not multiplied by T / 0.07 (their PyTorch code) or T (their TensorFlow
code), which only rescales the learning rate of an optimiser that is not scale-free. An image without label has its own
other view as its only positive, so shards may be labelled in part. As in the paper, the encoder's features are
normalised before the head, which has no batch norm. Both views go through the encoder in one pass, so batch norm sees
them together.

To expect: ResNet-50 on ImageNet-1k: 78.7 % with AutoAugment (table 2), which the views here do not have; ResNet-50 on
CIFAR-10: 96.0 % (table 2).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.losses.contrastive import supcon_loss
from eyespot.pretrain.losses.feature_statistics import similarities
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.objective import About, Labels


class SupCon(Contrastive):
    """Views of images with the same label agree, among all other views of the batch."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The paper's defaults for ImageNet (section 4), with SimCLR's views."""

        about: ClassVar = About(
            family="labels",
            task="which views share a label, among a batch",
            paper="Khosla et al.",
            year=2020,
            link="arXiv:2004.11362",
            needs="labels, large batches",
            expected="ResNet-50, CIFAR-10, linear: 96.0 %",
        )

        temperature: Annotated[float, Gt(0)] = 0.1
        """What similarities are divided by."""
        hidden_dim: Annotated[int, Ge(1)] = 2048
        """Width of the head's hidden layer."""
        out_dim: Annotated[int, Ge(1)] = 128
        """Width of the head's output."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2, blur=0.5
        )
        """How both views are made."""

        def needs_labels(self) -> Labels:
            """An image without one has its other view as its only positive."""
            return "some"

        def build(self, encoder: nn.Module, image_size: int) -> "SupCon":
            """SupCon around any encoder."""
            return SupCon(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """One image alone has no negatives."""
            if batch_size < 2:
                raise UserError(f"data.batch_size {batch_size}: SupCon compares images, so it needs 2 or more")

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.head = mlp(feature_width(encoder), config.hidden_dim, config.out_dim)

    def views(self) -> ViewSpec:
        """Two views of the same kind."""
        return sized_views(self.image_size, self.config.view, self.config.view)

    def embed(self, batch: Batch) -> Rows:
        """The head's output for both views, from one pass."""
        features = F.normalize(self.encode(torch.cat(batch.views)), dim=1)
        first, second = self.head(features).chunk(2)
        return {"first": first, "second": second}

    def targets(self, batch: Batch) -> Rows:
        """The labels."""
        return {"labels": batch.labels}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: L_out; and how alike views of one image and of different ones are."""
        first, second = rows["first"], rows["second"]
        loss = supcon_loss([first, second], rows["labels"], self.config.temperature)
        return {"loss": loss, **similarities(first, second)}
