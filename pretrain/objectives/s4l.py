"""S4L: self-supervised semi-supervised learning (Zhai et al. 2019, arXiv:1905.03670).

A classifier learns from the images that have a label, and the encoder from a pretext task on all of them (equation 1):

    L = mean over labelled images of -log softmax(classifier(encoder(x)))_y + weight * L_task.

The task (section 4), whose copies of an image the classifier sees too:

    rotation   all four quarter turns of an image; a linear layer names the turn, by cross-entropy
    exemplar   copies of an image under different augmentations; with D the distance of their unit embeddings,
               log(1 + exp(max over its other copies of D(a, p) - min over other images' copies of D(a, n)))

The mean over labelled images is that of the whole batch, over all ranks and micro-batches, however they are spread.

What differs from the authors' code: their batches have a labelled and an unlabelled half of equal size, these are what
the stream brings, so with few labels the classifier learns from few images a step; and there is a linear layer between
features and exemplar embeddings. Which labels there are to see: those in the shards, or --data.labeled-ids.

To expect: ResNet-50v2 on ImageNet-1k with 10 % of its labels, top-5: 83.8 % with rotation, 83.7 % with exemplar, 80.4 %
with the labels alone; with 1 %: 53.4, 47.0 and 48.4 % (table 1, from memory).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.collectives import mean_where
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.rotations import PICTURE_ROWS, TURNS, picture_of_turns, rotated
from eyespot.pretrain.losses.metric_learning import Pairs, batch_hard_loss
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.objective import About, Labels


class S4L(Contrastive):
    """Names what is in the labelled images, and solves a pretext task on all of them."""

    picture_rows = PICTURE_ROWS
    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The paper's settings."""

        about: ClassVar = About(
            family="some labels",
            task="what is in some images, and by how many quarter turns all were rotated",
            paper="Zhai et al.",
            year=2019,
            link="arXiv:1905.03670",
            needs="labels of some images",
            expected="ResNet-50v2, ImageNet-1k, 10 % of its labels, top-5: 83.8 %",
        )

        num_classes: Annotated[int, Ge(2)] = 1000
        """Classes of the data."""
        task: Literal["rotation", "exemplar"] = "rotation"
        """rotation = by how many quarter turns an image was rotated; exemplar = which copies are of the same image."""
        weight: Annotated[float, Ge(0)] = 1.0
        """Of the task's loss."""
        num_copies: Annotated[int, Ge(2)] = 8
        """Of exemplar: copies of each image."""
        out_dim: Annotated[int, Ge(1)] = 128
        """Of exemplar: dimensions of an embedding."""
        view: RandomView = RandomView(scale=(0.2, 1.0))  # noqa: RUF009 - frozen
        """How each copy is made, and what is rotated."""

        def needs_labels(self) -> Labels:
            """The task is solved on the others too."""
            return "some"

        def build(self, encoder: nn.Module, image_size: int) -> "S4L":
            """A classifier and a task around any encoder."""
            return S4L(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """One image alone has no negatives."""
            if self.task == "exemplar" and batch_size < 2:
                raise UserError(f"data.batch_size {batch_size}: exemplars are compared, so it needs 2 or more")

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.num_classes = config.num_classes
        dim = feature_width(encoder)
        self.classifier = nn.Linear(dim, config.num_classes)
        self.head = nn.Linear(dim, TURNS if config.task == "rotation" else config.out_dim)

    def views(self) -> ViewSpec:
        """One view to rotate, or the copies."""
        num_views = 1 if self.config.task == "rotation" else self.config.num_copies
        return sized_views(self.image_size, *[self.config.view] * num_views)

    def embed(self, batch: Batch) -> Rows:
        """Of each copy of each image, what the classifier and the task's layer make of it."""
        turns = self.config.task == "rotation"
        copies = rotated(batch.views[0])[0] if turns else torch.cat(batch.views)
        features = self.encode(copies)
        of_copies = {"classes": self.classifier(features), "task": self.head(features)}
        return {name: rows.unflatten(0, (-1, len(batch))).transpose(0, 1) for name, rows in of_copies.items()}

    def targets(self, batch: Batch) -> Rows:
        """Labels, and sample ids: the same image twice in a batch is no negative."""
        return {"labels": batch.labels, "ids": batch.ids_on_device()}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}; its two parts; and the shares of labels that are there, and that are named right."""
        classes, labels = _wide(rows["classes"]), rows["labels"]
        known, num_copies = labels >= 0, classes.shape[1]
        targets = labels.clamp_min(0).repeat_interleave(num_copies)
        losses = F.cross_entropy(classes.flatten(0, 1), targets, reduction="none").unflatten(0, (-1, num_copies))
        right = (classes.mean(1).argmax(1) == labels).to(classes.dtype)
        supervised, task = mean_where(losses.mean(1), known), self._task_loss(_wide(rows["task"]), rows["ids"])
        return {
            "loss": supervised + self.config.weight * task,
            "supervised": supervised,
            "task": task,
            "labeled": known.float().mean(),
            "accuracy": mean_where(right, known),
        }

    def _task_loss(self, rows: Float[Tensor, "b copies d"], ids: Tensor) -> Float[Tensor, ""]:
        if self.config.task == "rotation":
            turns = torch.arange(TURNS, device=rows.device).repeat(len(rows))
            return F.cross_entropy(rows.flatten(0, 1), turns)
        ids = ids.repeat_interleave(rows.shape[1])
        with torch.autocast(rows.device.type, enabled=False):
            return batch_hard_loss(
                Pairs.of(F.normalize(rows.flatten(0, 1), dim=1), ids, torch.full_like(ids, -1))
            ).mean()

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"] | None:
        """A few images: turned, turned back by what the layer says, and upright; nothing of exemplars."""
        if self.config.task != "rotation":
            return None
        images = batch.views[0][:NUM_PICTURED]
        return picture_of_turns(images, lambda turned: self.head(self.encode(turned)).argmax(1))


def _wide(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
