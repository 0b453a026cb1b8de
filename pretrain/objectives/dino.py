"""DINO: emerging properties in self-supervised vision transformers (Caron et al. 2021, arXiv:2104.14294).

A student sees all views of an image, two large and several small ones; its teacher, which follows it slowly, sees the
large ones. Both end in scores for K outputs, cosines with learned directions. The student's distribution for any view
has to be the teacher's for any other (equations 1 and 3, algorithm 1):

    L = - mean over large views t, over views v other than t, of
        sum_k softmax((g_t - c) / T_teacher)_k log softmax(f_v / T_student)_k,

f the student's scores, g the teacher's; averaged over the batch. No gradient goes through g. Two things keep the
teacher from saying the same of all images: c, the moving average of g over the batches of all ranks (equation 4), takes
away what one output has in favour with all of them, and a low T_teacher keeps them from all being alike.

What differs from the authors' code: each score's direction is brought to unit length in the forward pass in place of
torch's weight norm with its length held at 1, the same function; while the last layer is held its gradient is 0, theirs
is left out.

To expect: ViT-S/16 on ImageNet-1k, 800 epochs, 2x224 + 10x96: 77.0 % linear probe, 74.5 % kNN (table 2).
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.collectives import in_batch_order
from eyespot.pretrain.losses.self_distillation import entropies, from_other_views, warmed_up
from eyespot.pretrain.networks.ema_teacher import cosine_momentum, follow, make_steady_teacher, make_teacher
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.multi_crop import CROP_ROWS, NUM_LARGE, accept_crops, encode_crops, pictured_crops
from eyespot.pretrain.networks.prototypes import PrototypeHead
from eyespot.pretrain.objective import About, Objective
from eyespot.pretrain.skipped_step import Taken, if_taken

Temperature = Annotated[float, Gt(0)]

_VIEW = RandomView(scale=(0.4, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2)


class DINO(Objective):
    """Says of any view of an image what its slow teacher says of another, large one."""

    picture_rows = CROP_ROWS
    only_encodes = any_bands = True

    @dataclass(kw_only=True, slots=True)
    class Config(Objective.Config):
        """The paper's defaults for ViT-S/16 at 800 epochs (appendix C and D)."""

        about: ClassVar = About(
            family="joint embedding",
            task="what a slow teacher says of another view of the image",
            paper="Caron et al.",
            year=2021,
            link="arXiv:2104.14294",
            expected="ViT-S/16, ImageNet-1k, 800 epochs, linear: 77.0 %",
        )

        num_small: Annotated[int, Ge(0)] = 10
        """Small views of each image, beside the two large ones."""
        hidden_dim: Annotated[int, Ge(1)] = 2048
        """Width of the head's two hidden layers."""
        bottleneck_dim: Annotated[int, Ge(1)] = 256
        """Width of what is compared with the outputs' directions."""
        out_dim: Annotated[int, Ge(1)] = 65536
        """How many outputs."""
        momentum: Annotated[float, Ge(0), Le(1)] = 0.996
        """The teacher's momentum at the first step, 0..1; it rises to 1."""
        centre_momentum: Annotated[float, Ge(0), Le(1)] = 0.9
        """Share of itself that the centre keeps at each step, 0..1."""
        student_temperature: Temperature = 0.1
        """What the student's scores are divided by."""
        teacher_temperature: Annotated[tuple[Temperature, Temperature], "both must be above 0"] = (0.04, 0.07)
        """What the teacher's scores are divided by, at the first step and after ``warmup``."""
        warmup: Annotated[float, Ge(0), Le(1)] = 30 / 800
        """Share of the run in which the teacher's temperature changes, linearly."""
        frozen: Annotated[float, Ge(0), Le(1)] = 1 / 800
        """Share of the run for which the outputs' directions stay as they were drawn."""
        first: RandomView = replace(_VIEW, blur=1.0)  # noqa: RUF009 - frozen
        """How one large view is made."""
        second: RandomView = replace(_VIEW, blur=0.1, solarize=0.2)  # noqa: RUF009 - frozen
        """How the other large view is made."""
        small: RandomView = replace(_VIEW, size=96, scale=(0.05, 0.4), blur=0.5)  # noqa: RUF009 - frozen
        """How the small views are made."""

        def build(self, encoder: nn.Module, image_size: int) -> "DINO":
            """DINO around any encoder that can see views of two sizes."""
            return DINO(self, encoder, image_size)

    centre: Float[Tensor, " k"]
    """What is taken off the teacher's scores."""
    progress: Float[Tensor, ""]
    """Share of the run that is done."""

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        accept_crops(encoder, config.num_small, config.small)
        self.config, self.image_size = config, image_size
        head = PrototypeHead(feature_width(encoder), config.hidden_dim, config.bottleneck_dim, config.out_dim)
        self.student, self.student_head = encoder, head
        self.encoder, self.head = make_steady_teacher(encoder), make_teacher(head)  # the better one of both
        self.register_buffer("centre", torch.zeros(config.out_dim))
        self.register_buffer("progress", torch.zeros(()))
        self._means: list[Tensor] = []

    def views(self) -> ViewSpec:
        """Two large views, then the small ones."""
        config = self.config
        return sized_views(self.image_size, config.first, config.second, *[config.small] * config.num_small)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: log(out_dim) where nothing was learned; and how the teacher is doing.

        Returns:
            "teacher_entropy": mean entropy of what the teacher says of a view: at log(out_dim) it says nothing;
            "mean_entropy": entropy of what it says on average: at 0 it says the same of all.
        """
        with torch.no_grad():
            scores = self.head(encode_crops(self.encoder, batch.views[:NUM_LARGE]))
            temperature = warmed_up(self.config.teacher_temperature, self.config.warmup, self.progress)
            goals = ((scores - self.centre) / temperature).softmax(2)
        moving = self.progress >= self.config.frozen
        answers = self.student_head(encode_crops(self.student, batch.views), moving)
        if self.in_step:
            self._means.append(scores.mean((0, 1))[None])
        answers = (answers / self.config.student_temperature).log_softmax(2)
        return {"loss": from_other_views(goals, answers), **entropies(goals)}

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The teacher follows, and the centre moves."""
        momentum = cosine_momentum(self.config.momentum, progress)
        follow(self.encoder, self.student, momentum, taken)
        follow(self.head, self.student_head, momentum, taken)
        if self._means:
            mean = in_batch_order(torch.stack(self._means)).mean(0)
            moved = self.centre.lerp(mean, 1 - self.config.centre_momentum)
            self.centre.copy_(if_taken(taken, moved, self.centre))
        self._means.clear()
        self.progress.copy_(if_taken(taken, torch.full_like(self.progress, progress), self.progress))

    def after_skip(self) -> None:
        """Scores of a step that was not taken do not move the centre."""
        self._means.clear()

    def picture(self, batch: Batch) -> Float[Tensor, "rows columns c h w"]:
        """The views, large and small, of a few images."""
        return pictured_crops(batch.views)
