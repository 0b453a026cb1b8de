"""ImageText: an objective of two towers, one for images and one for their captions, that meet in one space.

What CLIP (Radford et al. 2021, arXiv:2103.00020) and its kin share: with f the encoder, g a text transformer and W_x,
W_y matrices, x = W_x f(image) and y = W_y g(caption) are compared as unit vectors, at a scale that is learned.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import RandomView, TextView, ViewSpec, sized_views
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.pretrain.families.contrastive_objective import Contrastive, Rows
from eyespot.pretrain.networks.encoders import feature_width
from eyespot.pretrain.networks.text.text_transformer import TextTransformer


class ImageText(Contrastive):
    """Images and captions as rows of one space: "image", "text", and "scale", the same number in every row.

    Args:
        config: the method's numbers.
        encoder: the image tower, any encoder.
        image_size: height and width of what it sees, pixels.
        log_scale: logarithm of what cosines are multiplied by at the start.

    Raises:
        UserError: there is no such tokenizer.
    """

    only_encodes = True
    joint = ("image", "text")

    @dataclass(kw_only=True, slots=True)
    class Config(Contrastive.Config):
        """CLIP's text tower for ViT-B (table 20) and its views (section 2.4)."""

        out_dim: Annotated[int, Ge(2)] = 512
        """Channels of the space that both towers end in."""
        text_width: Annotated[int, Ge(1)] = 512
        """Channels of the text tower's tokens."""
        text_layers: Annotated[int, Ge(1), Le(1000)] = 12
        """Blocks of the text tower."""
        text_heads: Annotated[int, Ge(1)] = 8
        """Attention heads of the text tower."""
        view: RandomView = RandomView(scale=(0.9, 1.0), flip=0.0)  # noqa: RUF009 - frozen
        """How images are seen."""
        text: TextView = TextView()  # noqa: RUF009 - frozen
        """How captions are read."""

        def __post_init__(self) -> None:
            Contrastive.Config.__post_init__(self)
            if self.text_width % self.text_heads:
                raise UserError(
                    f"objective.text_width {self.text_width}: must be a multiple of"
                    f" objective.text_heads {self.text_heads}"
                )

        def check_batch(self, batch_size: int) -> None:
            """One image alone has no caption of another."""
            if batch_size < 2:
                raise UserError(
                    f"data.batch_size {batch_size}: this method compares images with the captions of others, so it"
                    " needs 2 or more"
                )

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, image_size: int, log_scale: float) -> None:
        super().__init__()
        self.config, self.image_size, self.encoder = config, image_size, encoder
        tokenizer = load_tokenizer(config.text.tokenizer, config.text.context)
        self.image_projection = nn.Linear(feature_width(encoder), config.out_dim, bias=False)
        nn.init.normal_(self.image_projection.weight, std=feature_width(encoder) ** -0.5)
        self.text = TextTransformer(
            num_tokens=tokenizer.num_tokens,
            end=tokenizer.end,
            context=config.text.context,
            width=config.text_width,
            layers=config.text_layers,
            heads=config.text_heads,
            out_dim=config.out_dim,
        )
        self.log_scale = nn.Parameter(torch.full((1,), log_scale))

    def views(self) -> ViewSpec:
        """An image and one of its captions."""
        return ViewSpec(views=(*sized_views(self.image_size, self.config.view).views, self.config.text))

    def scale(self) -> Tensor:
        """What cosines are multiplied by, (1,)."""
        return self.log_scale.exp()

    def embed_joint(self, kind: str, view: Tensor) -> Tensor:
        """As ``compare`` compares them."""
        return nn.functional.normalize(self._project(kind, view), dim=-1)

    def _project(self, kind: str, view: Tensor) -> Tensor:
        return self.image_projection(self.encode(view)) if kind == "image" else self.text(view)

    def embed(self, batch: Batch) -> Rows:
        """What both towers end in, and the scale."""
        images, texts = batch.views
        return {
            "image": self._project("image", images),
            "text": self._project("text", texts),
            "scale": self.scale().expand(len(batch)),
        }

    def targets(self, batch: Batch) -> Rows:
        """Sample ids: a sample that a batch holds twice is no other one."""
        return {"ids": batch.ids_on_device()}
