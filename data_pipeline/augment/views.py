"""What a recipe asks of the data pipeline: plain values, no code."""

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from math import prod
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from annotated_types import Ge, Gt, Le

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.ranges import check_ranges

Color = tuple[float, ...]  # of each channel: three of RGB, or one for each band
Probability = Annotated[float, Ge(0), Le(1), "is a probability, so it must lie in 0..1"]
Change = Annotated[float, Ge(0)]
Deviation = Annotated[float, Gt(0)]
Mode = Literal["center", "squash", "border"]
Interpolation = Literal["bicubic", "bilinear"]
Pick = Literal["even", "ordered", "near_far", "spread"]

FRAMES_OF: Mapping[Pick, int] = {"ordered": 5, "near_far": 3}
"""How many frames those ways to pick them give; the others give as many as are asked for."""
SAID_IF_SET: Mapping[str, bool] = {"said_if_set": True}
"""Of a field that came later: where it has its default, texts and run.json leave it out, and stay what they were."""
NO_FLAG: Mapping[str, bool] = {"no_flag": True}
"""Of a field that the method sets, and nobody on the command line."""

MOST_FRAMES = 99_999
"""Of a clip, and from one of its frames to the next; no stream of a sample has more."""
CLIP_TOKENIZER = "clip"
DType = Literal["float", "float32", "uint8", "int64"]
"""Of the numbers of a view: what is normalised (a GPU's may be bfloat16), what was measured, class numbers, tokens."""
T = TypeVar("T")

IMAGENET_MEAN: Color = (0.485, 0.456, 0.406)
IMAGENET_STD: Color = (0.229, 0.224, 0.225)
MIN_BLURRED = 20
"""Smallest view that can be blurred, pixels: the kernel's radius is a twentieth of the size."""
MAX_NOISE = 10.0
"""Largest standard deviation of noise, pixel values in 0..1: of the view next to nothing is left."""


def is_said(one: Field[Any], config: Any) -> bool:
    """Whether the field of a config is written down: unless it came later and has its default."""
    return not one.metadata.get("said_if_set") or getattr(config, one.name) != one.default


def _said(self: Any) -> str:
    """As ``repr`` of a dataclass, without what is not to be said."""
    values = [f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if is_said(one, self)]
    return f"{type(self).__name__}({', '.join(values)})"


@dataclass(slots=True, frozen=True)
class Clip:
    """Some frames of a video, in place of its first: which ones is a pure function of (seed, epoch, sample id).

    Views whose clips differ in nothing but ``stream`` show the same moments. ``clip_frames.py`` has the exact rules.
    """

    frames: Annotated[int, Ge(1), Le(MOST_FRAMES)]
    """How many."""
    stride: Annotated[int, Ge(1), Le(MOST_FRAMES)] = 1
    """From one frame to the next, in frames of the video."""
    place: Literal["random", "center"] = "random"
    """Where in the video the clip lies."""
    pick: Pick = "even"
    """even = every ``stride``-th frame; ordered = the five of "shuffle and learn"; near_far = anchor, positive and
    negative of a time-contrastive network; spread = as many from all over the video, however long it is."""
    stream: Annotated[int, Ge(0)] = 0
    """Of several cameras that saw the same: which, counted from 0 in the order of their names."""
    by_motion: bool = False
    """Whether windows in which much moves are drawn more often."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.frames != (count := FRAMES_OF.get(self.pick, self.frames)):
            raise UserError(f"frames {self.frames}: pick {self.pick!r} gives {count} frames; set it to {count}")
        if self.by_motion and self.place != "random":
            raise UserError(f"by_motion True: place {self.place!r} draws nothing; set place to 'random'")


@dataclass(kw_only=True, slots=True, frozen=True)
class RandomView:
    """A random resized crop, flipped or not (torchvision's RandomResizedCrop and RandomHorizontalFlip), altered.

    Its steps follow each other as in SimCLR, BYOL and MoCo v3: crop, jitter, grayscale, blur, solarize. For labels
    there are RandAugment, after the crop, and Random Erasing, at the very end. What SimCLR only tried comes between:
    after solarize the Sobel filter, a quarter turn and noise; on the normalised view cutout.
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
    sobel: Probability = field(default=0.0, metadata=SAID_IF_SET)
    """Probability that edges take the view's place: the length of each channel's gradient."""
    turn: Probability = field(default=0.0, metadata=SAID_IF_SET)
    """Probability that the view is turned by 90, 180 or 270 degrees, each as likely."""
    noise: Probability = field(default=0.0, metadata=SAID_IF_SET)
    """Probability that Gaussian noise is added, of each pixel and channel its own."""
    noise_sigma: tuple[float, float] = field(default=(0.02, 0.1), metadata=SAID_IF_SET)
    """Smallest and largest standard deviation of the noise, pixel values in 0..1."""
    cutout: Probability = field(default=0.0, metadata=SAID_IF_SET)
    """Probability that a square gets the data's mean colour; its middle is any pixel of the view."""
    cutout_side: Annotated[float, Gt(0), Le(2)] = field(default=0.5, metadata=SAID_IF_SET)
    """Side of that square, as a share of the view's."""
    clip: Clip | None = field(default=None, metadata=SAID_IF_SET)
    """Which frames of a video, all cut, flipped and altered alike; None = its first, as of an image."""
    partner: bool = field(default=False, metadata={**SAID_IF_SET, **NO_FLAG})
    """Whether the view is of another sample, which follows from (seed, epoch, sample id) alone."""
    dtype: ClassVar[DType] = "float"

    def __post_init__(self) -> None:
        check_ranges(self)
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise UserError(f"blur_sigma {self.blur_sigma}: must be above 0, the smaller one first")
        if not 0 < self.noise_sigma[0] <= self.noise_sigma[1] <= MAX_NOISE:
            raise UserError(
                f"noise_sigma {self.noise_sigma}: must be above 0 and at most {MAX_NOISE}, the smaller one first"
            )
        if self.blur and 0 < self.size < MIN_BLURRED:
            raise UserError(
                f"blur {self.blur}: a view of {self.size} pixels is too small to blur; set it to 0,"
                f" or size to {MIN_BLURRED} or more"
            )

    def shape(self, views: "Sequence[View]") -> tuple[int, ...]:
        """Of one sample: (3, size, size), of a clip (frames, 3, size, size)."""
        return (*((self.clip.frames,) if self.clip else ()), 3, self.size, self.size)

    __repr__ = _said


@dataclass(kw_only=True, slots=True, frozen=True)
class CenterView:
    """The deterministic view for evaluation: resize, cut out the centre; or what timm has in its place."""

    resize: int = 256
    """Length of the image's short side after the resize, pixels; of its long side with "border"."""
    size: int = 224
    """Height and width of the centre crop, pixels."""
    mode: Mode = field(default="center", metadata=SAID_IF_SET)
    """squash = both sides become ``resize`` long: nothing is cut away, and shapes change; border = the whole image lies
    on a ground of the mean colour."""
    interpolation: Interpolation = field(default="bicubic", metadata=SAID_IF_SET)
    """Antialiased either way."""
    clip: Clip | None = field(default=None, metadata=SAID_IF_SET)
    """Which frames of a video, all cut, flipped and altered alike; None = its first, as of an image."""
    partner: bool = field(default=False, metadata={**SAID_IF_SET, **NO_FLAG})
    """Whether the view is of another sample, which follows from (seed, epoch, sample id) alone."""
    dtype: ClassVar[DType] = "float"

    def shape(self, views: "Sequence[View]") -> tuple[int, ...]:
        """Of one sample: (3, size, size), of a clip (frames, 3, size, size)."""
        return (*((self.clip.frames,) if self.clip else ()), 3, self.size, self.size)

    __repr__ = _said


@dataclass(kw_only=True, slots=True, frozen=True)
class MaskView:
    """The segmentation masks of what another view shows, cut and flipped as that is: class numbers, not normalised.

    Each pixel has the class of the mask's pixel under its centre (nearest neighbour); ``Masks.ignored`` where the view
    shows no image, and all over where a sample or a frame has no mask.
    """

    of: Annotated[int, Ge(0)]
    """Which view of the view spec; it must move no pixels after they were cut (``rand_augment`` 0, ``turn`` 0)."""
    ignored: int | None = field(default=None, repr=False)
    """What ``Masks.ignored`` must be, where who reads the masks counts on that number; None = any."""

    dtype: ClassVar[DType] = "uint8"

    def __post_init__(self) -> None:
        check_ranges(self)

    def shape(self, views: "Sequence[View]") -> tuple[int, ...]:
        """Of one sample: (1, size, size), of a clip (frames, 1, size, size)."""
        *frames, _, height, width = views[self.of].shape(views)
        return (*frames, 1, height, width)


@dataclass(kw_only=True, slots=True, frozen=True)
class TextView:
    """A caption of the sample, as token ids: int64, always as many, from the token that begins a text to padding."""

    tokenizer: str = CLIP_TOKENIZER
    """clip, or the path of a tokenizer.json (loading/members/tokenizer.py)."""
    context: Annotated[int, Ge(3), Le(65_536)] = 77
    """Tokens; a longer caption is cut before the one that ends it."""
    line: Literal["random", "first"] = "random"
    """Which of the sample's captions; random follows from (seed, epoch, sample id) and the view's number."""
    partner: bool = field(default=False, metadata={**SAID_IF_SET, **NO_FLAG})
    """Whether it is of another sample, the one that image views with ``partner`` show."""
    extension: ClassVar[str] = "txt"
    dtype: ClassVar[DType] = "int64"

    def __post_init__(self) -> None:
        check_ranges(self)

    def shape(self, views: "Sequence[View]") -> tuple[int, ...]:
        """Of one sample: (context,)."""
        return (self.context,)

    __repr__ = _said


@dataclass(kw_only=True, slots=True, frozen=True)
class DepthView:
    """The depth map of what another view shows, cut and flipped as that is, and altered in no other way: float32.

    Each pixel has the value of the map's pixel under its centre (nearest neighbour); 0 where the view shows no image.
    """

    of: Annotated[int, Ge(0)]
    """Which view of the view spec; it shows no clip, and moves no pixels after they were cut (``rand_augment`` 0)."""
    scale: Annotated[float, Gt(0)] = 1.0
    """What the stored 16-bit values are multiplied by: 0.001 makes metres of millimetres."""
    extension: ClassVar[str] = "depth.png"
    dtype: ClassVar[DType] = "float32"

    def __post_init__(self) -> None:
        check_ranges(self)

    def shape(self, views: "Sequence[View]") -> tuple[int, ...]:
        """Of one sample: (1, size, size)."""
        _, height, width = views[self.of].shape(views)
        return (1, height, width)


@dataclass(kw_only=True, slots=True, frozen=True)
class AudioView:
    """Some seconds of the sample's sound as a log-mel spectrogram: float32 (loading/members/sound_views.py)."""

    seconds: Annotated[float, Gt(0), Le(3600)] = 1.0
    """How many; silence follows where the whole sound is shorter."""
    rate: Annotated[int, Ge(1000), Le(384_000)] = 16_000
    """Samples a second that it is resampled to, whatever the file has."""
    mels: Annotated[int, Ge(1)] = 80
    """Rows; no more than the window has frequencies."""
    window: Annotated[int, Ge(2), Le(65_536)] = 400
    """Samples of a Fourier transform, an even number."""
    hop: Annotated[int, Ge(1), Le(16_777_216)] = 160
    """Samples from one column to the next."""
    place: Literal["random", "center"] = "random"
    """Where in the sound they lie; random follows from (seed, epoch, sample id) and the view's number."""
    of: Annotated[int, Ge(0)] | None = field(default=None, metadata=SAID_IF_SET)
    """Which view's clip they begin with, a partner's with its own; near the sound's end the last seconds are heard."""
    partner: bool = field(default=False, metadata={**SAID_IF_SET, **NO_FLAG})
    """Whether it is of another sample, the one that image views with ``partner`` show."""
    extension: ClassVar[str] = "sound"
    dtype: ClassVar[DType] = "float32"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.num_samples < 1:
            raise UserError(f"seconds {self.seconds}: less than a sample at rate {self.rate}; raise it")
        if self.window % 2:
            raise UserError(f"window {self.window}: must be even; try {self.window + 1}")
        if self.mels > (count := self.window // 2 + 1):
            raise UserError(f"mels {self.mels}: a window of {self.window} has {count} frequencies; lower it")

    @property
    def num_samples(self) -> int:
        """At the view's rate."""
        return round(self.seconds * self.rate)

    def shape(self, views: "Sequence[View]") -> tuple[int, ...]:
        """Of one sample: (1, mels, columns)."""
        return (1, self.mels, 1 + self.num_samples // self.hop)

    __repr__ = _said


ImageView = RandomView | CenterView
MemberView = TextView | AudioView | DepthView
"""What shows a member of the sample that lies beside its image, by extension."""
View = ImageView | MaskView | MemberView


@dataclass(kw_only=True, slots=True, frozen=True)
class ViewSpec:
    """The views of one sample, all cut from one decode (bicubic, antialiased), then normalised per channel."""

    views: tuple[View, ...]
    mean: Color = IMAGENET_MEAN
    """Per-channel mean that is subtracted, pixel values in 0..1: RGB, or as many as there are bands."""
    std: Color = IMAGENET_STD
    """Per-channel standard deviation that is divided by, pixel values in 0..1."""
    fixed: bool = field(default=False, repr=False)
    """Who reads the views counts on exactly this mean and standard deviation: it computes with colours."""

    def __post_init__(self) -> None:
        for number, view in enumerate(self.views):
            if isinstance(view, MaskView | DepthView):
                _check_mask_view(number, view, self.views)
            if isinstance(view, AudioView) and view.of is not None:
                shown = self.views[view.of] if view.of < len(self.views) else None
                if not isinstance(shown, ImageView) or shown.clip is None:
                    raise UserError(f"views[{number}].of {view.of}: is no view of a clip; leave it out, or name one")

    @property
    def num_frames(self) -> int:
        """Of the longest clip that a view asks for; 1 = images."""
        return max((view.clip.frames if view.clip else 1 for view in self.images), default=1)

    @property
    def counted_as(self) -> str:
        """What a line of figures calls the samples: clips of several frames, pairs of an image and a member, images."""
        still = "pairs" if any(isinstance(view, MemberView) for view in self.views) else "images"
        return "clips" if self.num_frames > 1 else still

    @property
    def images(self) -> "list[ImageView]":
        """Those that show the images themselves."""
        return [view for view in self.views if isinstance(view, ImageView)]

    def images_among(self, made: "Sequence[T]") -> "list[T]":
        """Of what was made of each view, that of the views that show the images themselves."""
        return [each for each, view in zip(made, self.views, strict=True) if isinstance(view, ImageView)]

    def clip(self, number: int) -> Clip | None:
        """Of the view of that number, or of that whose masks it shows; None = it shows no frames."""
        return None if isinstance(self.views[number], MemberView) else self.shown(number).clip

    def shown(self, number: int) -> "ImageView":
        """The view of that number, or that whose masks or depth it shows."""
        view = self.views[number]
        found = self.views[view.of] if isinstance(view, MaskView | DepthView) else view
        assert isinstance(found, ImageView)
        return found

    def shapes(self) -> list[tuple[int, ...]]:
        """Of each view of one sample: (channels, size, size), of a clip (frames, channels, size, size); (tokens,)."""
        shapes = [(view, view.shape(self.views)) for view in self.views]
        return [(*of[:-3], self.channels, *of[-2:]) if isinstance(view, ImageView) else of for view, of in shapes]

    @property
    def channels(self) -> int:
        """Of the images: 3 of RGB, or as many as there are bands."""
        return len(self.mean)

    def sample_bytes(self, float_bytes: int) -> int:
        """Of all views of one sample, where a number of an image takes so many bytes; of a mask it takes one."""
        sizes: dict[DType, int] = {"float": float_bytes, "float32": 4, "uint8": 1, "int64": 8}
        return sum(prod(shape) * sizes[view.dtype] for view, shape in zip(self.views, self.shapes(), strict=True))


def _check_mask_view(number: int, view: MaskView | DepthView, views: tuple[View, ...]) -> None:
    name = f"views[{number}].of {view.of}"
    shown = views[view.of] if view.of < len(views) else None
    if shown is None or not isinstance(shown, ImageView):
        images = [str(place) for place, each in enumerate(views) if isinstance(each, ImageView)]
        raise UserError(f"{name}: is no view of images; choose one of {', '.join(images) or 'them'}")
    for moves in ("rand_augment", "turn"):
        if moved := getattr(shown, moves, 0.0):
            raise UserError(f"{name}: {moves} {moved} of that view moves pixels, its masks do not; set it to 0")
    if isinstance(view, DepthView) and shown.clip is not None:
        raise UserError(f"{name}: shows a clip, and frames have no depth; name a view without one")


def sized_views(image_size: int, *views: RandomView) -> ViewSpec:
    """These views, those without a size of their own as large as what the encoder sees."""
    return ViewSpec(views=tuple(replace(view, size=view.size or image_size) for view in views))


def center_view(size: int, crop_share: float = 0.875) -> CenterView:
    """The evaluation view: small images whole, larger ones cut to their central ``crop_share``."""
    return CenterView(resize=size if size <= 64 else int(size / crop_share), size=size)
