"""Whether views fit images of bands: as many channels, and no step that only red, green and blue can take."""

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.nvjpeg import Decode
from eyespot.data_pipeline.shards.manifest import Manifest
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

RGB = 3
ONLY_RGB = ("grayscale", "solarize", "rand_augment", "sobel")
"""Steps of a view, beside the last two of its jitter, that only red, green and blue can take."""


def only_of_rgb(view: RandomView) -> str:
    """What a view asks for that only red, green and blue can take, and what to ask for instead; empty = nothing."""
    wrong = [f"{name} {getattr(view, name)}" for name in ONLY_RGB if getattr(view, name)]
    brightness, contrast, saturation, hue = view.jitter
    if saturation or hue:
        wrong.insert(0, f"jitter {view.jitter}, whose last two are saturation and hue")
    jitter = f"jitter {brightness:g} {contrast:g} 0 0" if saturation or hue else ""
    instead = [jitter, *(f"{name.replace('_', '-')} 0" for name in ONLY_RGB if getattr(view, name))]
    return f"{', '.join(wrong)}; set {', '.join(filter(None, instead))}" if wrong else ""


def channels_of(manifest: Manifest) -> int:
    """Of the images of shards."""
    return RGB if manifest.bands is None else manifest.bands.count


def check_channels(views: ViewSpec, shards: ShardFolder, decode: Decode) -> None:
    """Whether these views can be made of the shards' images.

    Raises:
        UserError: they have other channels, or a view takes a step that only colours can.
    """
    bands = shards.manifest.bands
    if views.channels != len(views.std) or views.channels != channels_of(shards.manifest):
        raise UserError(
            f"shards {shards.path}: hold images of {bands or '8-bit RGB'}, and mean and std are of {views.channels} and"
            f" {len(views.std)} channels: who looks at them sees others; take shards and an encoder of the same"
        )
    if bands is not None and decode == "gpu":
        raise UserError(f"data.decode gpu: nvJPEG decodes no images of {bands}; set it to auto")
    for number, view in enumerate(views.views if views.channels != RGB else ()):
        if isinstance(view, RandomView) and (wrong := only_of_rgb(view)):
            raise UserError(f"views[{number}] of {bands}: only red, green and blue have {wrong}")
