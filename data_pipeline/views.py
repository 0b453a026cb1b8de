"""What a recipe asks of the data pipeline: plain values, no code."""

from dataclasses import dataclass

from eyespot.data_pipeline.errors import UserError

Color = tuple[float, float, float]

IMAGENET_MEAN: Color = (0.485, 0.456, 0.406)
IMAGENET_STD: Color = (0.229, 0.224, 0.225)


MIN_BLURRED = 20
"""Smallest view that can be blurred, pixels: in a smaller one a tenth of the size is less than three pixels."""


@dataclass(kw_only=True, slots=True, frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue change, in an order of the sample's own (torchvision's ColorJitter).

    Factors are drawn from [max(0, 1 - strength), 1 + strength]; a strength of 0 leaves that step out.
    """

    probability: float = 0.8
    """That a sample is changed at all."""
    brightness: float
    """Strength; the factor multiplies every level."""
    contrast: float
    """Strength; the factor multiplies the distance from the view's mean gray."""
    saturation: float
    """Strength; the factor multiplies the distance from the pixel's own gray."""
    hue: float
    """Largest rotation of the hue (of HSV) in either direction, turns, at most 0.5."""

    def __post_init__(self) -> None:
        _check_probability("jitter.probability", self.probability)
        for name in ("brightness", "contrast", "saturation"):
            if not getattr(self, name) >= 0:
                raise UserError(f"jitter.{name} {getattr(self, name)}: must be 0 or more")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"jitter.hue {self.hue}: must lie in 0..0.5 turns")


@dataclass(kw_only=True, slots=True, frozen=True)
class RandomView:
    """A random resized crop, flipped or not (torchvision's RandomResizedCrop and RandomHorizontalFlip).

    What else is asked for follows in this order: jitter, grayscale, blur, solarize (as in SimCLR, BYOL and MoCo v3).
    """

    size: int = 0
    """Height and width of the view, pixels; 0 in a recipe = what its encoder sees."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest area of the crop, as a share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of the crop."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: ColorJitter | None = None
    """How colours change; None = they stay."""
    grayscale: float = 0.0
    """Probability that only the gray is left."""
    blur: float = 0.0
    """Probability of a Gaussian blur: sigma 0.1 to 2 pixels, cut off at a tenth of the size (SimCLR)."""
    solarize: float = 0.0
    """Probability that the upper half of the levels is inverted."""

    def __post_init__(self) -> None:
        for name in ("flip", "grayscale", "blur", "solarize"):
            _check_probability(name, getattr(self, name))
        if self.blur and self.size < MIN_BLURRED:
            raise UserError(
                f"blur {self.blur}: a view of {self.size} pixels is too small to blur; set it to 0,"
                f" or size to {MIN_BLURRED} or more"
            )
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Largest changes of brightness, contrast, saturation and hue, as torchvision's ColorJitter takes them."""
    jitter_probability: float = 0.8
    """Probability that colours are jittered at all."""
    grayscale: float = 0.0
    """Probability that the view loses its colour."""
    blur: float = 0.0
    """Probability of a Gaussian blur; its kernel is as wide as a tenth of the view."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest standard deviation of the blur, pixels."""
    solarize: float = 0.0
    """Probability that levels of 128 and above are inverted."""


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


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"{name} {value}: is a probability, so it must lie in 0..1")
