"""What a recipe asks of the data pipeline: plain values, no code."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges

Color = tuple[float, float, float]
Probability = Annotated[float, Ge(0), Le(1), "is a probability, so it must lie in 0..1"]
Change = Annotated[float, Ge(0)]
Deviation = Annotated[float, Gt(0)]

Mode = Literal["center", "squash", "border"]
Interpolation = Literal["bicubic", "bilinear"]

IMAGENET_MEAN: Color = (0.485, 0.456, 0.406)
IMAGENET_STD: Color = (0.229, 0.224, 0.225)

MIN_BLURRED = 20
"""Smallest view that can be blurred, pixels: the kernel's radius is a twentieth of the size."""


@dataclass(kw_only=True, slots=True, frozen=True)
class RandomView:
    """A random resized crop, flipped or not (torchvision's RandomResizedCrop and RandomHorizontalFlip), altered.

    Its steps follow each other as in SimCLR, BYOL and MoCo v3: crop, jitter, grayscale, blur, solarize. For training on
    labels there are RandAugment, right after the crop, and Random Erasing, at the very end.
    """

    size: int = 0
    """Height and width of the view, pixels; 0 in a recipe = what its encoder sees."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest area of the crop, as a share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of the crop."""
    flip: Probability = 0.5
    """Probability of a horizontal flip."""
    jitter: Annotated[
        tuple[Change, Change, Change, Annotated[float, Ge(0), Le(0.5)]],
        "must be 0 or more each, and the last (hue) at most 0.5 turns",
    ] = (0.0, 0.0, 0.0, 0.0)
    """Largest changes of brightness, contrast, saturation and hue, as torchvision's ColorJitter takes them.

    The first three are multiplied by a number from [max(0, 1 - change), 1 + change]; the hue of HSV is turned by up to
    so many turns in either direction. Each sample has its own order; a change of 0 leaves that step out.
    """
    jitter_probability: Probability = 0.8
    """Probability that colours are jittered at all."""
    grayscale: Probability = 0.0
    """Probability that the view loses its colour."""
    blur: Probability = 0.0
    """Probability of a Gaussian blur; its kernel is as wide as a tenth of the view."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest standard deviation of the blur, pixels."""
    solarize: Probability = 0.0
    """Probability that levels of 128 and above are inverted."""
    rand_augment: Annotated[float, Ge(0), Le(10), "is a magnitude, so it must lie in 0..10"] = 0.0
    """Magnitude of RandAugment's two operations, up to 10; 0 = no RandAugment."""
    rand_augment_std: Annotated[float, Ge(0)] = 0.5
    """Standard deviation of that magnitude, which is drawn anew for each operation."""
    erase: Probability = 0.0
    """Probability that a rectangle, a fiftieth to a third of the view, is overwritten with noise (Random Erasing)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise UserError(f"blur_sigma {self.blur_sigma}: must be above 0, the smaller one first")
        if self.blur and 0 < self.size < MIN_BLURRED:
            raise UserError(
                f"blur {self.blur}: a view of {self.size} pixels is too small to blur; set it to 0,"
                f" or size to {MIN_BLURRED} or more"
            )


@dataclass(kw_only=True, slots=True, frozen=True)
class CenterView:
    """The deterministic view for evaluation: resize, cut out the centre; or what timm has in its place."""

    resize: int = 256
    """Length of the image's short side after the resize, pixels; of its long side with "border"."""
    size: int = 224
    """Height and width of the centre crop, pixels."""
    mode: Mode = "center"
    """squash = both sides become ``resize`` long: nothing is cut away, and shapes change; border = the whole image lies
    on a ground of the mean colour."""
    interpolation: Interpolation = "bicubic"
    """Antialiased either way."""

    def __repr__(self) -> str:
        """Says of mode and interpolation only what is not the default: digests of older versions stay what they are."""
        odd = [f", {name}={getattr(self, name)!r}" for name in ("mode", "interpolation")]
        known = (", mode='center'", ", interpolation='bicubic'")
        return f"CenterView(resize={self.resize}, size={self.size}{''.join(o for o in odd if o not in known)})"


View = RandomView | CenterView


@dataclass(kw_only=True, slots=True, frozen=True)
class ViewSpec:
    """The views of one sample, all cut from one decode (bicubic, antialiased), then normalised per channel."""

    views: tuple[View, ...]
    mean: Color = IMAGENET_MEAN
    """Per-channel mean that is subtracted, pixel values in 0..1, RGB."""
    std: Color = IMAGENET_STD
    """Per-channel standard deviation that is divided by, pixel values in 0..1, RGB."""
    fixed: bool = field(default=False, repr=False)
    """Who reads the views counts on exactly this mean and standard deviation: it computes with colours."""


def sized_views(image_size: int, *views: RandomView) -> ViewSpec:
    """These views, those without a size of their own as large as what the encoder sees."""
    return ViewSpec(views=tuple(replace(view, size=view.size or image_size) for view in views))


def center_view(size: int, crop_share: float = 0.875) -> CenterView:
    """The evaluation view: small images whole, larger ones cut to their central ``crop_share``."""
    return CenterView(resize=size if size <= 64 else int(size / crop_share), size=size)
