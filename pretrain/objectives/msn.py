"""MSN: masked siamese networks for label-efficient learning (Assran et al. 2022, arXiv:2204.07141).

A slow teacher sees one view of an image whole; a student sees another with patches left out, and several small ones.
Each view is compared with K prototypes, p = softmax(cos(z, c) / T) for the student, p+ for the teacher with a lower
temperature. Each of the student's M views has to give the teacher's answer, and over the batch all prototypes are to be
used (equation 1):

    L = mean over images and views m of  H(p+, p_m)  -  weight * H(mean over images and views of p_m),

H(a, b) = - sum_k a_k log b_k, and H(a) = H(a, a). The mean inside is over all images of a step, of all ranks and
micro-batches. No gradient goes through p+. What is left out costs the student nothing. Where answers are ``balanced``
(the authors' configurations do, section 3 leaves it open), that begins with the teacher's softmax, as in their code.

What differs from that code: their schedules are made for 1.25 times the run, so that rate, weight decay and momentum
end a little before their last values (the momentum at 0.9992).

To expect: ViT-L/7 on ImageNet-1k, 1 % of its labels: 75.7 % (abstract).
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float, Int
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec, sized_views
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.distributed.collectives import num_rows, rank_sum
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.images.image_grid import NUM_PICTURED
from eyespot.pretrain.images.patch_masks import random_order
from eyespot.pretrain.images.patchify import patchify, unpatchify
from eyespot.pretrain.networks.ema_teacher import follow, make_steady_teacher, make_teacher
from eyespot.pretrain.networks.encoders import encode_visible, features, pooled, require_vit
from eyespot.pretrain.networks.heads import mlp
from eyespot.pretrain.networks.multi_crop import accept_crops, encode_crops, pictured_crops
from eyespot.pretrain.networks.prototypes import Prototypes, balanced_scores
from eyespot.pretrain.objective import About
from eyespot.pretrain.skipped_step import Taken

_VIEW = RandomView(jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2, blur=0.5)
NUM_ROUNDS = 3
"""Of balancing."""


class MSN(Contrastive):
    """Gives, of a view with holes and of small ones, the answer that a slow teacher gives of another view."""

    picture_rows = ("view of the teacher", "view of the student", "what the student sees of it", "last view, enlarged")
    only_encodes = True
    undecayed = ("prototypes.weight",)

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """The authors' numbers for ViT-S/16 (msn_vits16.yaml)."""

        about: ClassVar = About(
            family="joint embedding",
            task="a slow teacher's answer of another view, from a view with holes",
            paper="Assran et al.",
            year=2022,
            link="arXiv:2204.07141",
            needs="a vision transformer",
            expected="ViT-L/7, ImageNet-1k, 1 % of the labels: 75.7 %",
        )

        num_small: Annotated[int, Ge(0), Le(64)] = 10
        """Small views of each image that the student sees, whole."""
        mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.15
        """Share of the patches of its large view that it does not see."""
        hidden_dim: Annotated[int, Ge(1)] = 2048
        """Width of the head's two hidden layers."""
        out_dim: Annotated[int, Ge(1)] = 256
        """Width of what is compared with the prototypes."""
        num_prototypes: Annotated[int, Ge(2)] = 1024
        """How many there are."""
        temperature: Annotated[float, Gt(0)] = 0.1
        """What the student's cosines are divided by."""
        teacher_temperature: Annotated[float, Gt(0)] = 0.025
        """What the teacher's are divided by."""
        weight: Annotated[float, Ge(0)] = 1.0
        """Of the entropy of the mean answer, the paper's lambda."""
        balanced: bool = True
        """The teacher's answers give each prototype an equal share of the batch (SwAV's way)."""
        momentum: Annotated[float, Ge(0), Le(1)] = 0.996
        """The teacher's momentum at the first step, 0..1; it rises to 1."""
        large: RandomView = replace(_VIEW, scale=(0.3, 1.0))  # noqa: RUF009 - frozen
        """How the two large views are made."""
        small: RandomView = replace(_VIEW, size=96, scale=(0.05, 0.3))  # noqa: RUF009 - frozen
        """How the small views are made."""

        def build(self, encoder: nn.Module, image_size: int) -> "MSN":
            """MSN around ``encoder``, which must be a timm vision transformer."""
            return MSN(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size = config, image_size
        self.student: VisionTransformer = require_vit(encoder, "MSN")
        patches = self.student.patch_embed
        self.patch_size: int = patches.patch_size[0]
        self.grid: tuple[int, int] = patches.grid_size
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_visible = max(1, int(self.num_patches * (1 - config.mask_ratio)))
        accept_crops(self.student, config.num_small, config.small)
        self.encoder = make_steady_teacher(self.student)  # the teacher is the better one of both
        hidden = config.hidden_dim
        self.student_head = mlp(self.student.embed_dim, hidden, hidden, config.out_dim, batch_norm=True, gelu=True)
        self.head = make_teacher(self.student_head)
        self.prototypes = Prototypes(config.out_dim, config.num_prototypes)

    def views(self) -> ViewSpec:
        """The teacher's large view, the student's, then the small ones."""
        config = self.config
        return sized_views(self.image_size, config.large, config.large, *[config.small] * config.num_small)

    def visible(self, batch: Batch) -> Int[Tensor, "b v"]:
        """Numbers of the patches that the student sees of its large view, in random order."""
        return random_order(batch.uniforms("msn/mask", self.num_patches))[:, : self.num_visible]

    def embed(self, batch: Batch) -> Rows:
        """The cosines of the student's views with the prototypes: (B, M, K)."""
        seen = [self._seen(batch.views[1], self.visible(batch))[None]]
        if self.config.num_small:
            seen.append(encode_crops(self.student, batch.views[2:]))
        found = torch.cat(seen)
        rows = self.student_head(found.flatten(0, 1)).unflatten(0, found.shape[:2])
        return {"cosines": self.prototypes(rows).transpose(0, 1)}

    def _seen(self, view: Float[Tensor, "b 3 h w"], visible: Int[Tensor, "b v"]) -> Float[Tensor, "b d"]:
        """What ``features`` would be if the image consisted of these patches."""
        tokens = encode_visible(self.student, view, visible)
        return tokens[:, 0] if self.student.cls_token is not None else pooled(self.student, tokens)

    @torch.no_grad()
    def targets(self, batch: Batch) -> Rows:
        """The cosines of the teacher's view."""
        return {"goals": self.prototypes(self.head(features(self.encoder, batch.views[0])))}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: log(num_prototypes) * (1 - weight) where nothing was learned; its parts.

        Returns:
            "cross_entropy"; "mean_entropy": of the mean answer, log(num_prototypes) where all prototypes are used
            alike, 0 where one is.
        """
        config, goals = self.config, rows["goals"]
        goals = (goals / config.teacher_temperature).log_softmax(1)
        goals = balanced_scores(goals, NUM_ROUNDS) if config.balanced else goals.exp()
        answers = (rows["cosines"] / config.temperature).log_softmax(2)
        cross_entropy = -(goals[:, None] * answers).sum(2).mean()
        total = rank_sum(answers.exp().sum((0, 1)))
        mean_entropy = torch.special.entr(total / (num_rows(answers) * answers.shape[1])).sum()
        loss = cross_entropy - config.weight * mean_entropy
        return {"loss": loss, "cross_entropy": cross_entropy, "mean_entropy": mean_entropy}

    def after_step(self, progress: float, taken: Taken = True) -> None:
        """The teacher follows."""
        momentum = self.config.momentum + (1 - self.config.momentum) * progress
        follow(self.encoder, self.student, momentum, taken)
        follow(self.head, self.student_head, momentum, taken)

    @torch.no_grad()
    def picture(self, batch: Batch) -> Float[Tensor, "rows columns 3 h w"]:
        """The views of a few images, and what the student sees of its large one."""
        rows = pictured_crops(batch.views)
        patches = patchify(rows[1], self.patch_size)
        visible = self.visible(batch)[:NUM_PICTURED]
        shown = torch.zeros_like(patches[..., :1]).scatter(1, visible[..., None], 1.0)
        return torch.cat([rows[:2], unpatchify(patches * shown, self.patch_size, self.grid)[None], rows[2:]])
