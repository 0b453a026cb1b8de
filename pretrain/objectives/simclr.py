"""SimCLR: a simple framework for contrastive learning of visual representations (Chen et al. 2020, arXiv:2002.05709).

Loss (NT-Xent, equation 1): with z the normalised head outputs of the 2N views of a batch and i, j two views of one
image, averaged over all 2N views,

    l(i, j) = -log  exp(z_i . z_j / T) / sum over k != i of exp(z_i . z_k / T).

Three settings replace the denominator: ``decoupled`` leaves the positive out of it (DCL, Yeh et al. 2021,
arXiv:2110.06848), ``tau_plus`` corrects it for negatives of the same class (Chuang et al. 2020, arXiv:2007.00224) and
``beta`` weights hard negatives up (Robinson et al. 2020, arXiv:2010.04592).

What differs from the authors' code: the last layer of the head has a batch norm without scale and shift, theirs has a
scale; and two views of one image that a batch holds twice are no negatives of each other. As theirs, the head has a
batch norm where the paper's equation has none, and both views go through the encoder in one pass, so batch norm sees
them together.

To expect: ResNet-50, 1000 epochs: 69.3 % linear probe on ImageNet-1k (table 6), 94.0 % on CIFAR-10 (appendix B.9).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.losses.contrastive import nt_xent_loss
from eyespot.pretrain.losses.feature_statistics import similarities
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.objective import About


class SimCLR(Contrastive):
    """Two views of an image agree, among all other views of the batch."""

    only_encodes = any_bands = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The paper's defaults for ImageNet (section 2 and appendix A)."""

        about: ClassVar = About(
            family="contrast",
            task="which two views are of one image, among a batch",
            paper="Chen et al.",
            year=2020,
            link="arXiv:2002.05709",
            needs="large batches",
            expected="ResNet-50, ImageNet-1k, 1000 epochs, linear: 69.3 %",
        )

        temperature: Annotated[float, Gt(0)] = 0.1
        """What similarities are divided by."""
        hidden_dim: Annotated[int, Ge(1)] = 2048
        """Width of the head's hidden layer."""
        out_dim: Annotated[int, Ge(1)] = 128
        """Width of the head's output."""
        decoupled: bool = False
        """Leave the positive out of the denominator."""
        tau_plus: Annotated[float, Ge(0), Lt(1)] = 0.0
        """Assumed probability that a negative is of the same class, 0..1; above 0 the loss is corrected for it."""
        beta: Annotated[float, Ge(0)] = 0.0
        """How much harder negatives weigh more; 0 = all alike."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, blur=0.5
        )
        """How both views are made."""

        def build(self, encoder: nn.Module, image_size: int) -> "SimCLR":
            """SimCLR around any encoder."""
            return SimCLR(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """One image alone has no negatives."""
            if batch_size < 2:
                raise UserError(f"data.batch_size {batch_size}: SimCLR compares images, so it needs 2 or more")

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.head = mlp(feature_width(encoder), config.hidden_dim, config.out_dim, batch_norm=True, last_norm=True)

    def views(self) -> ViewSpec:
        """Two views of the same kind."""
        return sized_views(self.image_size, self.config.view, self.config.view)

    def embed(self, batch: Batch) -> Rows:
        """The head's output for both views, from one pass."""
        first, second = self.head(self.encode(torch.cat(batch.views))).chunk(2)
        return {"first": first, "second": second}

    def targets(self, batch: Batch) -> Rows:
        """Sample ids: the same image twice in a batch is no negative."""
        return {"ids": batch.ids_on_device()}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: NT-Xent; and how alike views of one image and of different ones are."""
        config = self.config
        loss = nt_xent_loss(
            [rows["first"], rows["second"]],
            config.temperature,
            ids=rows["ids"],
            decoupled=config.decoupled,
            tau_plus=config.tau_plus,
            beta=config.beta,
        )
        return {"loss": loss, **similarities(rows["first"], rows["second"])}
