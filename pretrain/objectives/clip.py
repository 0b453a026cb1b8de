"""CLIP: learning transferable visual models from natural language (Radford et al. 2021, arXiv:2103.00020).

Loss (figure 3): with x_i and y_i the unit vectors of image i and of its caption, and s the learned scale, over the N
pairs of the batch on all ranks,

    L = -1 / 2N sum_i [ log exp(s x_i . y_i) / sum_j exp(s x_i . y_j) + log exp(s x_i . y_i) / sum_j exp(s x_j . y_i) ].

s begins at 1 / 0.07 and is never above 100 (section 2.5).

What differs from the authors' code: two copies of one sample in a batch are no negatives of each other. The image tower
is any encoder (theirs are timm's vit_*_clip_* and resnet*_clip); activations are GELU, not its quick form. They resize
an image's short side and cut out a square of full height or width; here the crop has 0.9 to 1 of the area and may be
stretched by a third, as open_clip's. Colours are normalised as in all methods here, not by CLIP's own mean and standard
deviation.

To expect: ViT-B/32 on 400 million pairs: 63.2 % zero-shot on ImageNet-1k (table 11; from memory). ``eyespot eval
zero-shot``, ``joint-retrieval`` and ``correspondence`` judge a run with both towers.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from eyespot.pretrain.families.contrastive_objective import Rows
from eyespot.pretrain.families.image_text import ImageText
from eyespot.pretrain.losses.contrastive import clip_loss
from eyespot.pretrain.losses.feature_statistics import similarities_of_towers
from eyespot.pretrain.objective import About

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0


class CLIP(ImageText):
    """An image and its caption find each other among all of a batch."""

    largest_scale = LARGEST_SCALE

    @dataclass(kw_only=True, slots=True)
    class Config(ImageText.Config):
        """The paper's text tower for ViT-B (table 20)."""

        about: ClassVar = About(
            family="text",
            task="which caption belongs to an image, among a batch, and which image to a caption",
            paper="Radford et al.",
            year=2021,
            link="arXiv:2103.00020",
            needs="captions, large batches",
            expected="ViT-B/32, 400 million pairs, ImageNet-1k, zero-shot: 63.2 %",
        )

        def build(self, encoder: nn.Module, image_size: int) -> "CLIP":
            """CLIP with any encoder as its image tower."""
            return CLIP(self, encoder, image_size, math.log(FIRST_SCALE))

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: symmetric InfoNCE; the scale, and how alike images are to their captions and to others'."""
        image, text, scale = rows["image"], rows["text"], rows["scale"][0]
        loss = clip_loss(image, text, scale, ids=rows["ids"])
        return {"loss": loss, "scale": scale.detach().clone(), **similarities_of_towers(image, text)}
