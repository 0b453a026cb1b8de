"""DINOv2: learning robust visual features without supervision (Oquab et al. 2023, arXiv:2304.07193).

iBOT with more outputs, two heads that share nothing, goals that are balanced, and class tokens that keep their distance
(section 4). A student sees two large views of an image, of which blocks of patches may be hidden, and several small
ones; its teacher, which follows it slowly, sees the large views whole. With p the teacher's distributions over K
outputs, and q the student's,

    L = - mean over large views t, over views v other than t, of sum_k p_tk log q_vk
        - mean over large views t of mean over hidden patches i of sum_k p_tik log q_tik
        + w * sum over large views t of KoLeo(the student's class tokens of t).

p are the teacher's scores, divided by a temperature that rises and balanced by three rounds of Sinkhorn-Knopp
(``prototypes.balanced``), so that each output gets an equal share: once over the class tokens of both large views of
all samples, once over all hidden patches. Both, and KoLeo's nearest neighbours (``losses/koleo``), are over all ranks
and micro-batches: the loss of a step does not depend on how many there are.

What differs from the authors' code: they hide patches in exactly half of the views of each GPU, with shares that are
spread evenly; here each view is drawn on its own. Theirs are blocks of 4 patches or more, ours BEiT's
(``patch_masks``), at least a twelfth of the image. KoLeo's neighbours are sought among all rows, theirs among those of
one GPU. The learning rate of patch embeddings is no fifth of the others'. Both heads have the same bottleneck. Drop
path rises from the first block to the last, theirs is the same in all. While the last layer is held its gradient is 0,
theirs is left out.

To expect: ViT-L/14, distilled from a ViT-g/14 that was trained so on 142 million images: 86.3 % linear probe, 83.5 %
kNN on ImageNet-1k (table 4).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Le
from torch import nn

from eyespot.pretrain.families.balanced_self_distillation import BalancedSelfDistillation
from eyespot.pretrain.families.masked_self_distillation import ShareOfRun
from eyespot.pretrain.objective import About


class DINOv2(BalancedSelfDistillation):
    """Says what its slow teacher says, whose answers are balanced over the batch; class tokens keep their distance."""

    @dataclass(kw_only=True, slots=True)
    class Config(BalancedSelfDistillation.Config):
        """The authors' settings for ViT-L/14 (vitl14.yaml of their repository)."""

        about: ClassVar = About(
            family="joint embedding",
            task="what a slow teacher says of another view and of hidden patches, every answer as often as others",
            paper="Oquab et al.",
            year=2023,
            link="arXiv:2304.07193",
            needs="a vision transformer, large batches",
            expected="ViT-L/14, distilled from ViT-g/14 on 142 million images, ImageNet-1k, linear: 86.3 %",
        )

        warmup: ShareOfRun = 30 / 500
        """Share of the run in which the teacher's temperature changes, linearly."""
        frozen: ShareOfRun = 1 / 500
        """Share of the run for which the outputs' directions stay as they were drawn."""
        momentum: Annotated[float, Ge(0), Le(1)] = 0.994
        """The teacher's momentum at the first step, 0..1; it rises to 1."""

        def build(self, encoder: nn.Module, image_size: int) -> "DINOv2":
            """DINOv2 around ``encoder``, which must be a timm vision transformer with a class token."""
            return DINOv2(self, encoder, image_size)

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__(config, encoder, image_size)
        self.config = config
