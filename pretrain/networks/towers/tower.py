"""What builds a tower that reads captions, sounds or depth maps, as plain numbers and names.

A release holds them beside the weights: whoever has both has the network, and no code comes with it.
"""

from dataclasses import asdict, dataclass, replace
from typing import Annotated, ClassVar

from msgspec import Meta
from torch import Tensor, nn

from eyespot.pretrain.images.standard_depth import standard_depth
from eyespot.pretrain.networks.encoders import (
    EncoderConfig,
    check_patches,
    feature_width,
    features,
    make_encoder,
    vary_sizes,
)
from eyespot.pretrain.networks.text.text_transformer import TextTransformer

Size = Annotated[int, Meta(ge=1, le=1 << 24)]
Channels = Annotated[int, Meta(ge=1, le=64)]
Side = Annotated[int, Meta(ge=1, le=1 << 16)]


@dataclass(kw_only=True, slots=True, frozen=True)
class TextTower:
    """The sizes of a ``TextTransformer``."""

    num_tokens: Size
    end: Annotated[int, Meta(ge=0, le=1 << 24)] | None
    context: Size
    width: Size
    layers: Size
    heads: Size
    out_dim: Size
    kind: ClassVar[str] = "text_transformer"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")

    def build(self) -> TextTransformer:
        """The tower, freshly drawn."""
        return TextTransformer(**asdict(self))

    def read(self, tower: nn.Module, view: Tensor) -> Tensor:
        """Its vector of each text, (B, out_dim)."""
        return tower(view)

    def out_width(self, tower: nn.Module) -> int:
        """Channels of that."""
        return self.out_dim


@dataclass(kw_only=True, slots=True, frozen=True)
class TimmTower:
    """An encoder of timm's that sees depth maps or spectrograms."""

    name: str
    """timm's name of the architecture."""
    shape: tuple[Channels, Side, Side]
    """Of what it sees: channels, rows, columns."""
    standardized: bool = False
    """Whether it sees depth, each map standardised by itself (``standard_depth``)."""
    kind: ClassVar[str] = "timm"

    def build(self) -> nn.Module:
        """The tower, freshly drawn.

        Raises:
            UserError: timm has no such architecture, or it cannot see such a thing, or not all of it.
        """
        channels, height, width = self.shape
        config = EncoderConfig(name=self.name, image_size=height)
        tower = make_encoder(config, channels)
        if height != width:
            vary_sizes(tower)
        for side in (height, width):
            check_patches(tower, replace(config, image_size=side))
        return tower

    def read(self, tower: nn.Module, view: Tensor) -> Tensor:
        """Its features of each picture, (B, D)."""
        return features(tower, standard_depth(view)[0] if self.standardized else view)

    def out_width(self, tower: nn.Module) -> int:
        """Channels of that."""
        return feature_width(tower)


Tower = TextTower | TimmTower
