"""MoCo v1 and v2: momentum contrast (He et al. 2019, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297).

Loss (equation 1 of the first paper): q is the student's output for one view, k its key, the teacher's for the other
view, and the negatives are the queue's K keys of earlier steps; vectors normalised, averaged over the batch,

    L = -log  exp(q . k / T) / (exp(q . k / T) + sum over the queue of exp(q . k_i / T)).

The teacher's weights follow the student's after each step (equation 2); then the step's keys of all ranks replace the
oldest in the queue. ``Config()`` is v2: an MLP as head, stronger views, T = 0.2. v1 is ``head="linear"`` and its own
views: see the recipes.

What differs from the authors' code:
- Batch norm. Theirs sees one GPU's samples, and the keys' samples are shuffled among the GPUs first, or the statistics
  that a query shares with its key would give the key away (section 3.3). Ours sees the samples of all ranks, so which
  rank computed a key leaves no trace. What is left is that query and key come from the same step, the queue's keys from
  earlier ones. It fades as the samples grow in number: in a trained ``moco_tiny`` the same key was nearer to its query
  by a cosine of 0.040 when both were normalised among the same 32 samples, by 0.004 among the same 256. So prefer
  ranks to micro-batches: statistics are those of a micro-batch, of all ranks.
- An older key of the same image is no negative of it. On ImageNet hardly any is in the queue; on a data set that is not
  much larger than the queue there are many.
- The learning rate of v2 falls with each step, theirs with each epoch.

To expect: ResNet-50 on ImageNet-1k, 200 epochs, linear probe: v1 60.6 % (table 1 of the first paper), v2 67.5 %; v2
after 800 epochs 71.1 % (tables 1 and 2 of the second). ResNet-18 on CIFAR-10, 200 epochs, the authors' demo: kNN
82.6 %.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.losses.contrastive import moco_loss
from eyespot.pretrain.losses.feature_statistics import similarities
from eyespot.pretrain.networks.ema_teacher import follow, make_teacher
from eyespot.pretrain.networks.encoders import feature_width, features
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.networks.key_queue import KeyQueue, check_size
from eyespot.pretrain.objective import About, Objective
from eyespot.pretrain.skipped_step import Taken


class MoCo(Objective):
    """A query finds its own key, made by a slow copy of the encoder, among a queue of older ones."""

    only_encodes = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """v2's defaults (section 3 of the second paper); what it does not name is as in the first (section 3.3)."""

        about: ClassVar = About(
            family="contrast",
            task="which key belongs to a view, among a queue of older ones",
            paper="He et al.",
            year=2019,
            link="arXiv:1911.05722",
            expected="v2, ResNet-50, ImageNet-1k, 200 epochs, linear: 67.5 %",
        )

        head: Literal["mlp", "linear"] = "mlp"
        """mlp = a hidden layer as wide as the encoder's features (v2), linear = none (v1)."""
        out_dim: Annotated[int, Ge(1)] = 128
        """Width of the head's output."""
        queue_size: Annotated[int, Ge(1)] = 65536
        """Keys that are kept as negatives, over all ranks; a multiple of data.batch_size."""
        momentum: Annotated[float, Ge(0), Le(1)] = 0.999
        """Share of its own weights that the teacher keeps at each step, 0..1."""
        temperature: Annotated[float, Gt(0)] = 0.2
        """What similarities are divided by."""
        view: RandomView = RandomView(  # noqa: RUF009 - frozen
            scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), jitter_probability=0.8, grayscale=0.2, blur=0.5
        )
        """How both views are made."""

        def __post_init__(self) -> None:
            Objective.Config.__post_init__(self)
            if self.head not in ("mlp", "linear"):
                raise UserError(f"objective.head {self.head!r}: not one of mlp, linear")

        def build(self, encoder: nn.Module, image_size: int) -> "MoCo":
            """MoCo around any encoder."""
            return MoCo(self, encoder, image_size)

        def check_batch(self, batch_size: int) -> None:
            """A step's keys replace whole batches of older ones."""
            check_size(self.queue_size, batch_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        width: int = feature_width(encoder)
        self.head = mlp(width, *([width] if config.head == "mlp" else []), config.out_dim)
        self.teacher_encoder, self.teacher_head = make_teacher(encoder), make_teacher(self.head)
        self.queue = KeyQueue(config.queue_size, config.out_dim)

    def views(self) -> ViewSpec:
        """Two views of the same kind: the query's, the key's."""
        return sized_views(self.image_size, self.config.view, self.config.view)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log(1 + queue_size) where nothing was learned, 0 where every query finds its key."""
        queries = self.head(self.encode(batch.views[0]))
        keys = self.keys(batch.views[1])
        ids = batch.ids_on_device()
        if self.in_step:
            self.queue.wait(keys, ids)
        loss = moco_loss(queries, keys, self.queue.keys, self.config.temperature, ids=ids, queue_ids=self.queue.ids)
        return {"loss": loss, **similarities(queries, keys)}

    @torch.no_grad()
    def keys(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The teacher's output, not normalised."""
        return self.teacher_head(features(self.teacher_encoder, images))

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The teacher follows, and the step's keys enter the queue."""
        follow(self.teacher_encoder, self.encoder, self.config.momentum, taken)
        follow(self.teacher_head, self.head, self.config.momentum, taken)
        self.queue.push(taken)

    def after_skip(self) -> None:
        """Keys of a step that was not taken never become negatives."""
        self.queue.forget()
