"""SwAV: unsupervised learning by contrasting cluster assignments (Caron et al. 2020, arXiv:2006.09882).

Each view of an image is compared with K prototypes. From one large view comes an assignment q to them, balanced so that
each prototype gets an equal share of the batch (equations 3 to 5, ``prototypes.balanced``); every other view, large or
small, has to predict it (equations 1, 2 and 6):

    L = - mean over large views s, over views v other than s, of sum_k q_sk log softmax(cos(z_v, c) / T)_k,

averaged over the batch. The balance is over the samples of all ranks, which keeps all images from landing on one
prototype. Where a batch has fewer samples than there are prototypes, the features of earlier batches, kept in a queue,
are balanced together with it (section 3.1 and appendix A): they shape the assignments, and take part in nothing else.

What differs from the authors' code: prototypes are brought to unit length in the forward pass, theirs after each step,
so that ours get no gradient along themselves; the queue fills from the first step on and is used from ``queue_from`` on
once it is full, theirs starts filling then; it is one queue for all ranks, theirs one per rank; the learning rate warms
up from 0.

To expect: ResNet-50 on ImageNet-1k, 800 epochs, 2x224 + 6x96: 75.3 % linear probe (table 1); 400 epochs at batch 256
with the queue: 74.3 % (authors' model zoo, from memory).
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, cast

import torch
import torch.distributed as dist
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.networks.key_queue import KeyQueue
from eyespot.pretrain.networks.multi_crop import CROP_ROWS, NUM_LARGE, accept_crops, encode_crops, pictured_crops
from eyespot.pretrain.networks.prototypes import Prototypes, balanced
from eyespot.pretrain.objective import About
from eyespot.pretrain.skipped_step import Taken, if_taken

ShareOfRun = Annotated[float, Ge(0), Le(1), "is a share of the run, so it must lie in 0..1"]

_VIEW = RandomView(scale=(0.14, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), grayscale=0.2, blur=0.5)


class SwAV(Contrastive):
    """Predicts, from any view of an image, to which prototypes a large view of it was assigned."""

    picture_rows = CROP_ROWS
    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The paper's defaults for large batches (appendix A): no queue."""

        about: ClassVar = About(
            family="joint embedding",
            task="to which prototypes another view of the image was assigned",
            paper="Caron et al.",
            year=2020,
            link="arXiv:2006.09882",
            expected="ResNet-50, ImageNet-1k, 800 epochs, linear: 75.3 %",
        )

        num_small: Annotated[int, Ge(0)] = 6
        """Small views of each image, beside the two large ones."""
        hidden_dim: Annotated[int, Ge(1)] = 2048
        """Width of the head's hidden layer."""
        out_dim: Annotated[int, Ge(1)] = 128
        """Width of what is compared with the prototypes."""
        num_prototypes: Annotated[int, Ge(1)] = 3000
        """How many there are."""
        temperature: Annotated[float, Gt(0)] = 0.1
        """What cosines are divided by where assignments are predicted."""
        epsilon: Annotated[float, Ge(0.025), "must be 0.025 or more, or assignments underflow"] = 0.05
        """What cosines are divided by before they are balanced: the smaller, the harder the assignments."""
        num_rounds: Annotated[int, Ge(1)] = 3
        """Rounds of balancing."""
        frozen: ShareOfRun = 1 / 800
        """Share of the run for which the prototypes stay as they were drawn."""
        queue_size: Annotated[int, Ge(0)] = 0
        """Images of earlier batches, over all ranks, that are balanced together with the batch; 0 = no queue."""
        queue_from: ShareOfRun = 0.0
        """Share of the run after which the queue is used: features are of no use to it before."""
        large: RandomView = _VIEW
        """How the two large views are made."""
        small: RandomView = replace(_VIEW, size=96, scale=(0.05, 0.14))  # noqa: RUF009 - frozen
        """How the small views are made."""

        def build(self, encoder: nn.Module, image_size: int) -> "SwAV":
            """SwAV around any encoder that can see views of two sizes."""
            return SwAV(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """A batch must find room in the queue."""
            if 0 < self.queue_size < batch_size:
                raise UserError(
                    f"objective.queue_size {self.queue_size}: must be 0, or data.batch_size {batch_size} or more"
                )

    progress: Float[Tensor, ""]
    """Share of the run that is done."""

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        accept_crops(encoder, config.num_small, config.small)
        self.config, self.image_size, self.encoder = config, image_size, encoder
        self.head = mlp(feature_width(encoder), config.hidden_dim, config.out_dim, batch_norm=True)
        self.prototypes = Prototypes(config.out_dim, config.num_prototypes)
        num_queues = NUM_LARGE if config.queue_size else 0
        self.queues = nn.ModuleList(KeyQueue(config.queue_size, config.out_dim) for _ in range(num_queues))
        self.register_buffer("progress", torch.zeros(()))
        self._earlier: list[Tensor] = []
        self._counts: Tensor | None = None

    def views(self) -> ViewSpec:
        """Two large views, then the small ones."""
        return sized_views(
            self.image_size, *[self.config.large] * NUM_LARGE, *[self.config.small] * self.config.num_small
        )

    def embed(self, batch: Batch) -> Rows:
        """The cosines of each view with the prototypes: (B, V, K)."""
        rows = self.head(encode_crops(self.encoder, batch.views).flatten(0, 1)).unflatten(0, (len(batch.views), -1))
        if self.in_step:
            ids = batch.ids_on_device()
            for queue, view in zip(self._queues(), rows, strict=False):
                queue.wait(view, ids)
        self._earlier, self._counts = self._earlier_cosines()
        return {"cosines": self.prototypes(rows, self.progress >= self.config.frozen).transpose(0, 1)}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: log(num_prototypes) where nothing was learned; and how well views agree.

        Returns:
            "agreement": the share of images whose large views are nearest to the same prototype; "hardness": the mean
            largest weight of an assignment, 1 / num_prototypes to 1.
        """
        cosines = rows["cosines"]
        predicted = (cosines / self.config.temperature).log_softmax(2)
        losses, assignments = [], []
        for view in range(NUM_LARGE):
            together = torch.cat([cosines[:, view].detach(), *self._earlier[view : view + 1]])
            counted = None if self._counts is None else self._counted(len(cosines), len(together))
            assigned = balanced(together, self.config.epsilon, self.config.num_rounds, counted)[: len(cosines)]
            others = predicted.sum(1) - predicted[:, view]
            losses.append(-(assigned * others).sum(1).mean() / (cosines.shape[1] - 1))
            assignments.append(assigned)
        nearest = cosines[:, :NUM_LARGE].argmax(2)
        hardness = torch.stack(assignments).amax(2).mean()
        agreement = (nearest[:, 0] == nearest[:, 1]).float().mean()
        return {"loss": torch.stack(losses).mean(), "agreement": agreement, "hardness": hardness}

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The step's features enter the queue."""
        self.progress.copy_(if_taken(taken, torch.full_like(self.progress, progress), self.progress))
        for queue in self._queues():
            queue.push(taken)

    def after_skip(self) -> None:
        """Features of a step that was not taken are forgotten."""
        for queue in self._queues():
            queue.forget()

    def picture(self, batch: Batch) -> Float[Tensor, "rows columns c h w"]:
        """The views, large and small, of a few images."""
        return pictured_crops(batch.views)

    def _queues(self) -> list[KeyQueue]:
        return [cast(KeyQueue, queue) for queue in self.queues]

    @torch.no_grad()
    def _earlier_cosines(self) -> tuple[list[Tensor], Bool[Tensor, ""] | None]:
        """Of this rank's share of each queue with the prototypes as they are now; and whether they count.

        Made in the forward pass, where an engine has the prototypes whole, for ``compare``. On the CPU there are none
        while a queue is not in use; of another device nobody asks that, and there they are always made.
        """
        if not self._queues():
            return [], None
        counts = self.progress >= self.config.queue_from
        for queue in self._queues():
            counts = counts & (queue.ids.min() >= 0)
        if counts.is_cpu and not counts:
            return [], None
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        earlier = [self.prototypes(queue.keys[rank::size]) for queue in self._queues()]
        return earlier, None if counts.is_cpu else counts

    def _counted(self, num_new: int, num_rows: int) -> Bool[Tensor, " b"]:
        """The batch's own rows, and those of the queue behind them if they count."""
        assert self._counts is not None
        return (torch.arange(num_rows, device=self._counts.device) < num_new) | self._counts
