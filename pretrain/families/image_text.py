"""ImageText: two towers of which one is a text transformer (Radford et al. 2021, arXiv:2103.00020)."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor, nn

from eyespot.data_pipeline.augment.views import TextView, ViewSpec, sized_views
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer
from eyespot.pretrain.families.two_towers import TwoTowers
from eyespot.pretrain.networks.text.text_transformer import check_text_heads
from eyespot.pretrain.networks.towers.tower import TextTower, Tower
from eyespot.pretrain.objective import require_still, still


class ImageText(TwoTowers):
    """Images and captions as rows of one space: "image", "text", and "scale", the same number in every row.

    Args:
        config: the method's numbers.
        encoder: the image tower, any encoder.
        image_size: height and width of what it sees, pixels.
        log_scale: logarithm of what cosines are multiplied by at the start.

    Raises:
        UserError: there is no such tokenizer.
    """

    joint = ("image", "text")

    @dataclass(kw_only=True, slots=True)
    class Config(TwoTowers.Config):
        """CLIP's text tower for ViT-B (table 20)."""

        text_width: Annotated[int, Ge(1)] = 512
        """Channels of the text tower's tokens."""
        text_layers: Annotated[int, Ge(1), Le(1000)] = 12
        """Blocks of the text tower."""
        text_heads: Annotated[int, Ge(1)] = 8
        """Attention heads of the text tower."""
        text: TextView = TextView()  # noqa: RUF009 - frozen
        """How captions are read."""

        def __post_init__(self) -> None:
            TwoTowers.Config.__post_init__(self)
            check_text_heads(self.text_width, self.text_heads)
            require_still(self.view)

    config: Config

    def __init__(self, config: Config, encoder: nn.Module, image_size: int, log_scale: float) -> None:
        super().__init__(config, encoder, image_size, log_scale)
        tokenizer = load_tokenizer(config.text.tokenizer, config.text.context)
        self.text_tower = TextTower(
            num_tokens=tokenizer.num_tokens,
            end=tokenizer.end,
            context=config.text.context,
            width=config.text_width,
            layers=config.text_layers,
            heads=config.text_heads,
            out_dim=config.out_dim,
        )
        self.text = self.text_tower.build()

    def towers(self) -> dict[str, Tower]:
        """The text transformer."""
        return {"text": self.text_tower}

    def views(self) -> ViewSpec:
        """An image and one of its captions."""
        return ViewSpec(views=(*sized_views(self.image_size, self.config.view).views, self.config.text))

    def project(self, kind: str, view: Tensor) -> Tensor:
        """Of images the projected features; the text tower ends in the space."""
        return self.image_projection(self.encode(still(view))) if kind == "image" else self.text(view)
