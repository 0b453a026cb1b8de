"""What a recipe asks of the data pipeline: plain values, no code."""

from dataclasses import dataclass

Color = tuple[float, float, float]

IMAGENET_MEAN: Color = (0.485, 0.456, 0.406)
IMAGENET_STD: Color = (0.229, 0.224, 0.225)


@dataclass(kw_only=True, slots=True, frozen=True)
class RandomView:
    """A random resized crop, flipped or not (torchvision's RandomResizedCrop and RandomHorizontalFlip)."""

    size: int = 224
    """Height and width of the view, pixels."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest area of the crop, as a share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of the crop."""
    flip: float = 0.5
    """Probability of a horizontal flip."""


@dataclass(kw_only=True, slots=True, frozen=True)
class CenterView:
    """The deterministic view for evaluation: resize the short side, cut out the centre."""

    resize: int = 256
    """Length of the image's short side after the resize, pixels."""
    size: int = 224
    """Height and width of the centre crop, pixels."""


View = RandomView | CenterView


@dataclass(kw_only=True, slots=True, frozen=True)
class ViewSpec:
    """The views of one sample, all cut from one decode (bicubic, antialiased), then normalised per channel."""

    views: tuple[View, ...]
    mean: Color = IMAGENET_MEAN
    """Per-channel mean that is subtracted, pixel values in 0..1, RGB."""
    std: Color = IMAGENET_STD
    """Per-channel standard deviation that is divided by, pixel values in 0..1, RGB."""
