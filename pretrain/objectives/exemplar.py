"""Exemplar-CNN: discriminative unsupervised feature learning with exemplar networks (Dosovitskiy et al. 2014).

arXiv:1406.6909. Every image is a surrogate class, and strongly altered views of it are the class's samples: a linear
layer with a row for each of the N images names the image. Loss (equations 1 and 2), for K views g_k(x_i) of a sample:

    L = -1/K sum_k log softmax(head(encoder(g_k(x_i))))_i,

averaged over the batch. It is a plain classifier over N classes, so N must stay moderate: the paper uses 8,000 to
32,000 images and finds that more do not help, because they come to look alike. ``data.ids`` chooses some; ``instance``
does the same task without a classifier, for any number.

What differs from the paper: views are drawn anew each time an image comes, where theirs are 150 fixed ones of each;
they are random resized crops, flipped, with jittered colours or none, where theirs are also turned by up to 20 degrees.
They cut exemplars of 32 pixels around strong gradients out of larger images; here an exemplar is an image.

To expect: a CNN of three convolutional layers, 16,000 exemplars, on STL-10: 74.2 % with an SVM on its features (table
1 of the journal version; from memory).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Int
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.memory_bank import SampleIds, ids_tensor, rows_of
from eyespot.pretrain.objective import About, Objective

MAX_EXEMPLARS = 100_000
"""As many rows has the classifier: with features of 2048 channels they are 200 M parameters."""


class Exemplar(Objective):
    """Says of which image a strongly altered view was made."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """Views about as strong as the paper's (section 2.1)."""

        about: ClassVar = About(
            family="transformation",
            task="of which image a strongly altered view was made",
            paper="Dosovitskiy et al.",
            year=2014,
            link="arXiv:1406.6909",
            needs=f"at most {MAX_EXEMPLARS:,} images",
            expected="three-layer CNN, STL-10, SVM: 74.2 %",
        )

        num_views: Annotated[int, Ge(1)] = 2
        """Views of each image at a step."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2
        )
        """How each view is made."""

        def build(self, encoder: nn.Module, image_size: int) -> "Exemplar":
            """Exemplars around any encoder."""
            return Exemplar(self, encoder, image_size)

    ids: Int[Tensor, " n"]
    """(N,) sample ids, ascending: which image each class is."""
    head: nn.Linear

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder

    def prepare(self, ids: SampleIds) -> None:
        """A class for each sample."""
        if len(ids) > MAX_EXEMPLARS:
            raise UserError(
                f"data.ids: {len(ids)} images are too many classes, up to {MAX_EXEMPLARS} fit a classifier; choose some"
                " with data.ids (a file of ids, one a line), or the method instance, which has no such limit"
            )
        self.register_buffer("ids", ids_tensor(ids))
        self.head = nn.Linear(feature_width(self.encoder), len(ids))

    def views(self) -> ViewSpec:
        """Views of the same kind."""
        return sized_views(self.image_size, *[self.config.view] * self.config.num_views)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log(number of images) where nothing was learned; and the share of views whose image is named."""
        logits = self.head(self.encode(torch.cat(batch.views)))
        answers = rows_of(self.ids, batch.ids_on_device()).repeat(len(batch.views))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, answers)
        self.note_losses(lambda: F.cross_entropy(logits, answers, reduction="none").view(-1, len(batch)).T)
        return {"loss": loss, "accuracy": (logits.argmax(1) == answers).float().mean()}
