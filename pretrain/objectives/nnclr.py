"""NNCLR: nearest-neighbor contrastive learning of visual representations (Dwibedi et al. 2021, arXiv:2104.14548).

Loss (section 3.2, equations 3 and 4): z is the head's output for a view, p what a predictor makes of z, and nn(z) the
output of an earlier step, in a queue of those of all ranks, that is nearest to z; vectors normalised. The neighbour of
one view is found by p of the other among the batch of all ranks, and p by the neighbour,

    L = -1 / 2N sum_i [ log exp(nn_i . p_i / T) / sum_j exp(nn_i . p_j / T)
                        + log exp(nn_i . p_i / T) / sum_j exp(nn_j . p_i / T) ],

the mean of neighbours of the first view with p of the second, and of those of the second with p of the first. The first
view's z replace the oldest in the queue after each step. No gradient goes through nn.

What differs from the paper: an image's own earlier outputs are no neighbours of it (on ImageNet hardly any is in the
queue), and two of a batch are no negatives of each other where they are of one sample.

To expect: ResNet-50 on ImageNet-1k, 1000 epochs: 75.4 % linear probe (from memory).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.losses.contrastive import clip_loss
from eyespot.pretrain.losses.feature_statistics import similarities
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.networks.key_queue import KeyQueue, check_size
from eyespot.pretrain.objective import About
from eyespot.pretrain.skipped_step import Taken


class NNCLR(Contrastive):
    """Predicts, from one view, which image of earlier steps lies nearest to the other."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The paper's defaults (section 4.1); views as SimCLR's."""

        about: ClassVar = About(
            family="contrast",
            task="which earlier image lies nearest to another view, among a batch's nearest",
            paper="Dwibedi et al.",
            year=2021,
            link="arXiv:2104.14548",
            needs="large batches",
            expected="ResNet-50, ImageNet-1k, 1000 epochs, linear: 75.4 %",
        )

        temperature: Annotated[float, Gt(0)] = 0.1
        """What similarities are divided by."""
        hidden_dim: Annotated[int, Ge(1)] = 2048
        """Width of the head's two hidden layers."""
        out_dim: Annotated[int, Ge(1)] = 256
        """Width of its output, and of the predictor's."""
        predictor_dim: Annotated[int, Ge(1)] = 4096
        """Width of the predictor's hidden layer."""
        queue_size: Annotated[int, Ge(1)] = 98304
        """Earlier outputs among which neighbours are looked for, over all ranks; a multiple of data.batch_size."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, blur=0.5
        )
        """How both views are made."""

        def build(self, encoder: nn.Module, image_size: int) -> "NNCLR":
            """NNCLR around any encoder."""
            return NNCLR(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """One image alone has no negatives; a step's outputs replace whole batches of older ones."""
            if batch_size < 2:
                raise UserError(f"data.batch_size {batch_size}: NNCLR compares images, so it needs 2 or more")
            check_size(self.queue_size, batch_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        hidden, out = config.hidden_dim, config.out_dim
        self.head = mlp(feature_width(encoder), hidden, hidden, out, batch_norm=True, last_norm=True)
        self.predictor = mlp(out, config.predictor_dim, out, batch_norm=True)
        self.queue = KeyQueue(config.queue_size, out)

    def views(self) -> ViewSpec:
        """Two views of the same kind."""
        return sized_views(self.image_size, self.config.view, self.config.view)

    def embed(self, batch: Batch) -> Rows:
        """The predictor's output for both views, from one pass, and the neighbour of each view."""
        outputs = self.head(self.encode(torch.cat(batch.views)))
        first, second = self.predictor(outputs).chunk(2)
        ids = batch.ids_on_device()
        near_first, near_second = (self.queue.nearest(rows, ids) for rows in outputs.chunk(2))
        if self.in_step:  # of the two passes that micro-batches make, the second
            self.queue.wait(outputs.chunk(2)[0], ids)
        return {"first": first, "second": second, "near_first": near_first, "near_second": near_second}

    def targets(self, batch: Batch) -> Rows:
        """Sample ids: the same image twice in a batch is no negative."""
        return {"ids": batch.ids_on_device()}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}; and how alike predictions and neighbours of one image and of different ones are."""
        scale = 1 / self.config.temperature
        one = clip_loss(rows["near_first"], rows["second"], scale, ids=rows["ids"])
        other = clip_loss(rows["near_second"], rows["first"], scale, ids=rows["ids"])
        return {"loss": (one + other) / 2, **similarities(rows["near_first"], rows["second"])}

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The step's outputs enter the queue."""
        self.queue.push(taken)

    def after_skip(self) -> None:
        """Outputs of a step that was not taken are nobody's neighbours."""
        self.queue.forget()
