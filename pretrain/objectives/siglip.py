"""SigLIP: sigmoid loss for language-image pre-training (Zhai et al. 2023, arXiv:2303.15343).

Loss (section 3.2): with x_i and y_j the unit vectors of image i and of caption j, t and b a learned scale and a learned
bias, over the N pairs of the batch on all ranks,

    L = -1 / N sum_i sum_j log sigmoid(z_ij (t x_i . y_j + b)),   z_ij = 1 where i = j, else -1.

Each pair of an image and a caption is a question of its own: no softmax over the batch. t begins at 10 and b at -10, so
the many wrong pairs weigh little at first.

What differs from the authors' code: two copies of one sample in a batch make no pair. The captions of all ranks are
gathered where they take up to 256 MB, and handed from rank to rank beyond, as theirs always are (section 3.3); the loss
is the same. The text tower is CLIP's, causal, with CLIP's tokens; theirs sees all tokens and reads a vocabulary of
32,000 pieces. The image tower pools as its encoder does. They squash the whole image into a square; here a crop of 0.9
to 1 of its area may be stretched by a third.

To expect: ViT-B/16 on WebLI, 32 chips and 5 days: 73.4 % zero-shot on ImageNet-1k (table 1; from memory). ``eyespot
eval zero-shot``, ``joint-retrieval`` and ``correspondence`` judge a run with both towers.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.families.contrastive_objective import Rows
from eyespot.pretrain.families.image_text import ImageText
from eyespot.pretrain.losses.feature_statistics import similarities_of_towers
from eyespot.pretrain.losses.sigmoid import sigmoid_loss
from eyespot.pretrain.objective import About

FIRST_SCALE, FIRST_BIAS = 10.0, -10.0


class SigLIP(ImageText):
    """Of each image and each caption of a batch: do they belong together?"""

    @dataclass(kw_only=True, slots=True)
    class Config(ImageText.Config):
        """CLIP's text tower for ViT-B."""

        about: ClassVar = About(
            family="text",
            task="whether a caption belongs to an image, for all pairs of a batch",
            paper="Zhai et al.",
            year=2023,
            link="arXiv:2303.15343",
            needs="captions",
            expected="ViT-B/16, WebLI, ImageNet-1k, zero-shot: 73.4 %",
        )

        def build(self, encoder: nn.Module, image_size: int) -> "SigLIP":
            """SigLIP with any encoder as its image tower."""
            return SigLIP(self, encoder, image_size)

    def __init__(self, config: Config, encoder: nn.Module, image_size: int) -> None:
        super().__init__(config, encoder, image_size, math.log(FIRST_SCALE))
        self.bias = nn.Parameter(torch.full((1,), FIRST_BIAS))

    def embed(self, batch: Batch) -> Rows:
        """What both towers end in, the scale and the bias."""
        return {**ImageText.embed(self, batch), "bias": self.bias.expand(len(batch))}

    def compare(self, rows: Rows) -> dict[str, Tensor]:
        """{"loss"}: of all pairs; scale and bias, and how alike images are to their captions and to others'."""
        image, text, scale, bias = rows["image"], rows["text"], rows["scale"][0], rows["bias"][0]
        loss = sigmoid_loss(image, text, scale, bias, ids=rows["ids"])
        told = {"scale": scale.detach().clone(), "bias": bias.detach().clone()}
        return {"loss": loss, **told, **similarities_of_towers(image, text)}
