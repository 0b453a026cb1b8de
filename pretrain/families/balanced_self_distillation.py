"""BalancedSelfDistillation: masked self-distillation whose goals are balanced over the batch, with KoLeo beside it.

What DINOv2 (Oquab et al. 2023, arXiv:2304.07193) and DINOv3 (Siméoni et al. 2025, arXiv:2508.10104) share. With p the
teacher's distributions over K outputs, and q the student's,

    L = - mean over large views t, over views v other than t, of sum_k p_tk log q_vk
        - mean over large views t of mean over hidden patches i of sum_k p_tik log q_tik
        + w * sum over large views t of KoLeo(the student's class tokens of t).

p are the teacher's scores, divided by a temperature that rises and balanced by three rounds of Sinkhorn-Knopp
(``prototypes.balanced``), so that each output gets an equal share: once over the class tokens of both large views of
all samples, once over all hidden patches. Both, and KoLeo's nearest neighbours (``losses/koleo``), are over all ranks
and micro-batches: the loss of a step does not depend on how many there are.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import nn

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.families.masked_self_distillation import MaskedSelfDistillation, Masks, Seen, chosen
from eyespot.pretrain.losses.koleo import koleo
from eyespot.pretrain.losses.self_distillation import entropies, from_other_views, of_masked_patches, warmed_up
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.multi_crop import NUM_LARGE
from eyespot.pretrain.networks.prototypes import PrototypeHead, balanced

NUM_ROUNDS = 3
"""Of balancing: the authors'."""
Balanced = Annotated[float, Ge(0.025), "must be 0.025 or more, or goals underflow"]


class BalancedSelfDistillation(MaskedSelfDistillation, Contrastive):
    """Two heads that share nothing, goals that use every answer as often as others, class tokens that keep away."""

    @dataclass(kw_only=True, slots=True)
    class Config(MaskedSelfDistillation.Config):
        """What both papers have, with DINOv2's numbers."""

        bottleneck_dim: Annotated[int, Ge(1)] = 384
        """Width of what is compared with the outputs' directions."""
        out_dim: Annotated[int, Ge(1)] = 131072
        """How many outputs each head has."""
        koleo_weight: Annotated[float, Ge(0)] = 0.1
        """What KoLeo counts, of each large view."""
        teacher_temperature: tuple[Balanced, Balanced] = (0.04, 0.07)
        """What the teacher's scores are divided by, at the first step and after ``warmup``."""

        def make_head(self, encoder: nn.Module) -> PrototypeHead:
            """From tokens to scores."""
            return PrototypeHead(feature_width(encoder), self.hidden_dim, self.bottleneck_dim, self.out_dim)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__(config, encoder, image_size, config.make_head(encoder), config.make_head(encoder))
        self._balanced = config

    def embed(self, batch: Batch) -> Rows:
        """The student's scores, "classes" (B, V, K), "patches" (B, 2, M, K); its class tokens, "tokens" (B, 2, D)."""
        masks = self.masks(batch)
        return self.rows_of(self.seen_by_student(batch, masks), masks)

    def rows_of(self, seen: Seen, masks: Masks) -> Rows:
        """The rows of ``embed``, of what the student has seen of a batch."""
        moving = self.progress >= self._balanced.frozen
        assert self.student_patch_head is not None
        patches = self.student_patch_head(chosen(seen.patches, masks.places), moving)
        classes = self.student_head(seen.classes, moving)
        rows = {"classes": classes, "patches": patches, "tokens": seen.classes[:NUM_LARGE]}
        return {name: views.transpose(0, 1) for name, views in rows.items()}

    @torch.no_grad()
    def targets(self, batch: Batch) -> Rows:
        """The teacher's scores, of the same patches; and which of them are hidden, (B, 2, M)."""
        masks, seen = self.masks(batch), self.seen_by_teacher(batch)
        assert self.patch_head is not None
        patches = self.patch_head(chosen(seen.patches, masks.places))
        rows = {"class_scores": self.head(seen.classes), "patch_scores": patches, "hidden": masks.hidden}
        return {name: views.transpose(0, 1) for name, views in rows.items()}

    def compare(self, rows: Rows) -> Rows:
        """{"loss"}: 2 log(out_dim) where nothing was learned, or less where no patch is hidden, beside KoLeo.

        Returns:
            "class_loss", "patch_loss", "koleo_loss": its parts, unweighted; "teacher_entropy", "mean_entropy": see
            ``self_distillation.entropies``.
        """
        config = self._balanced
        temperature = warmed_up(config.teacher_temperature, config.warmup, self.progress)
        by_view = {name: views.transpose(0, 1) for name, views in rows.items()}
        scores, patch_scores, hidden = (by_view[name] for name in ("class_scores", "patch_scores", "hidden"))
        goals = balanced(scores.flatten(0, 1), temperature, NUM_ROUNDS).view_as(scores)
        patch_goals = balanced(patch_scores.flatten(0, 2), temperature, NUM_ROUNDS, hidden.flatten())
        answers = (by_view["classes"] / config.student_temperature).log_softmax(2)
        patch_answers = (by_view["patches"] / config.student_temperature).log_softmax(3)
        parts = {
            "class_loss": from_other_views(goals, answers),
            "patch_loss": of_masked_patches(patch_goals.view_as(patch_scores), patch_answers, hidden),
            "koleo_loss": torch.stack([koleo(tokens) for tokens in by_view["tokens"]]).sum(),
        }
        loss = parts["class_loss"] + parts["patch_loss"] + config.koleo_weight * parts["koleo_loss"]
        return {"loss": loss, **{name: part.detach() for name, part in parts.items()}, **entropies(goals)}
