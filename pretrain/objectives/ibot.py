"""iBOT: image BERT pre-training with online tokenizer (Zhou et al. 2021, arXiv:2111.07832).

A student sees two large views of an image, of which blocks of patches may be hidden, and several small ones; its
teacher, which follows it slowly, sees the large views whole. Both end in scores for K outputs, cosines with learned
directions, of the class token and of each patch. As in DINO the student's distribution for any view has to be the
teacher's for any other, large one; and its distribution for a hidden patch the teacher's for that patch of the same
view (equations 2 and 3):

    L = - mean over large views t, over views v other than t, of
        sum_k softmax((g_t - c) / T_teacher)_k log softmax(f_v / T_student)_k
        - mean over large views t of mean over hidden patches p of
        sum_k softmax((g_tp - c') / T'_teacher)_k log softmax(f_tp / T_student)_k,

f the student's scores, g the teacher's; averaged over the batch. No gradient goes through g. The teacher is the
tokenizer: what a patch is called is learned with it. c and c' are moving averages of what it says of class tokens and
of all patches, over all ranks, and keep it from saying the same of all.

What differs from the authors' code: they draw the share of hidden patches of each view and hide it in blocks as far as
ten tries for each block allow; here the share is exact, and at least one patch where any is hidden; each score's
direction is brought to unit length in the forward pass (their ViT-S lets the lengths be learned); while the last layer
is held its gradient is 0, theirs is left out; two heads share nothing, theirs all but the last layer.

To expect: ViT-S/16 on ImageNet-1k, 800 epochs, 2x224 + 10x96: 77.9 % linear probe, 75.2 % kNN (table 1).
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.collectives import in_batch_order
from eyespot.pretrain.families.masked_self_distillation import MaskedSelfDistillation, Temperature, chosen
from eyespot.pretrain.losses.self_distillation import entropies, from_other_views, of_masked_patches, warmed_up
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.prototypes import PrototypeHead
from eyespot.pretrain.objective import About
from eyespot.pretrain.skipped_step import Taken, if_taken

_VIEW = RandomView(scale=(0.25, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), grayscale=0.2)


class IBOT(MaskedSelfDistillation):
    """Says of any view, and of any hidden patch, what its slow teacher says who sees the large views whole."""

    @dataclass(kw_only=True, slots=True)
    class Config(MaskedSelfDistillation.Config):
        """The paper's defaults for ViT-S/16 at 800 epochs (appendix B, and the authors' repository)."""

        about: ClassVar = About(
            family="joint embedding",
            task="what a slow teacher says of another view and of hidden patches",
            paper="Zhou et al.",
            year=2021,
            link="arXiv:2111.07832",
            needs="a vision transformer",
            expected="ViT-S/16, ImageNet-1k, 800 epochs, linear: 77.9 %",
        )

        num_small: Annotated[int, Ge(0)] = 10
        """Small views of each image, beside the two large ones."""
        bottleneck_dim: Annotated[int, Ge(1)] = 256
        """Width of what is compared with the outputs' directions."""
        out_dim: Annotated[int, Ge(1)] = 8192
        """How many outputs."""
        shared_head: bool = True
        """One head for class tokens and patches; else two, which share nothing."""
        centre_momentum: Annotated[float, Ge(0), Le(1)] = 0.9
        """Share of itself that each centre keeps at each step, 0..1."""
        teacher_temperature: Annotated[tuple[Temperature, Temperature], "both must be above 0"] = (0.04, 0.07)
        """What the teacher's scores of class tokens are divided by, at the first step and after ``warmup``."""
        patch_temperature: Annotated[tuple[Temperature, Temperature], "both must be above 0"] = (0.04, 0.07)
        """The same of patches."""
        first: RandomView = replace(_VIEW, blur=1.0)  # noqa: RUF009 - frozen
        """How one large view is made."""
        second: RandomView = replace(_VIEW, blur=0.1, solarize=0.2)  # noqa: RUF009 - frozen
        """How the other large view is made."""
        small: RandomView = replace(_VIEW, size=96, scale=(0.05, 0.25), blur=0.5)  # noqa: RUF009 - frozen
        """How the small views are made."""

        def build(self, encoder: nn.Module, image_size: int) -> "IBOT":
            """iBOT around ``encoder``, which must be a timm vision transformer with a class token."""
            return IBOT(self, encoder, image_size)

        def make_head(self, encoder: nn.Module) -> PrototypeHead:
            """From tokens to scores."""
            return PrototypeHead(feature_width(encoder), self.hidden_dim, self.bottleneck_dim, self.out_dim)

    config: Config
    centre: Float[Tensor, " k"]
    """What is taken off the teacher's scores of class tokens."""
    patch_centre: Float[Tensor, " k"]
    """And of patches."""

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        head = config.make_head(encoder)
        super().__init__(config, encoder, image_size, head, head if config.shared_head else config.make_head(encoder))
        self.config = config
        self.register_buffer("centre", torch.zeros(config.out_dim))
        self.register_buffer("patch_centre", torch.zeros(config.out_dim))
        self._means: list[Tensor] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss"}: 2 log(out_dim) where nothing was learned, or less where no patch is hidden; and its two parts.

        Returns:
            "class_loss", "patch_loss"; "teacher_entropy", "mean_entropy": see ``self_distillation.entropies``.
        """
        config, masks = self.config, self.masks(batch)
        seen = self.seen_by_teacher(batch)
        with torch.no_grad():
            scores, of_patches = self.head(seen.classes), (self.patch_head or self.head)(seen.patches)
            temperature = warmed_up(config.teacher_temperature, config.warmup, self.progress)
            goals = ((scores - self.centre) / temperature).softmax(2)
            temperature = warmed_up(config.patch_temperature, config.warmup, self.progress)
            patch_goals = ((chosen(of_patches, masks.places) - self.patch_centre) / temperature).softmax(3)
        if self.in_step:
            self._means.append(torch.stack([scores.mean((0, 1)), of_patches.mean((0, 1, 2))])[None])
        seen, moving = self.seen_by_student(batch, masks), self.progress >= config.frozen
        answers = self.student_head(seen.classes, moving)
        patch_answers = (self.student_patch_head or self.student_head)(chosen(seen.patches, masks.places), moving)
        class_loss = from_other_views(goals, (answers / config.student_temperature).log_softmax(2))
        patch_answers = (patch_answers / config.student_temperature).log_softmax(3)
        patch_loss = of_masked_patches(patch_goals, patch_answers, masks.hidden)
        parts = {"class_loss": class_loss.detach(), "patch_loss": patch_loss.detach()}
        return {"loss": class_loss + patch_loss, **parts, **entropies(goals)}

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The teacher follows, and the centres move."""
        super().after_step(progress, taken)
        if self._means:
            means = in_batch_order(torch.stack(self._means)).mean(0)
            for centre, mean in zip((self.centre, self.patch_centre), means, strict=True):
                moved = centre.lerp(mean, 1 - self.config.centre_momentum)
                centre.copy_(if_taken(taken, moved, centre))
        self._means.clear()

    def after_skip(self) -> None:
        """Scores of a step that was not taken do not move the centres."""
        self._means.clear()
