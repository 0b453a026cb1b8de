"""What carries a video's first mask, or its key points, from frame to frame: features, colours, or nothing."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.encoders.subject import OneKind, Subject
from eyespot.eval.protocols.propagation.label_propagation import LAST_FRAMES, RADIUS, TEMPERATURE, TOP, propagated
from eyespot.pretrain.distributed.arithmetic import rounds_to_tf32
from eyespot.pretrain.images.lab_color import to_lab
from eyespot.pretrain.networks.dense_maps import maps_at_stride
from eyespot.pretrain.networks.encoders import last_tokens, vary_sizes

FRAMES_AT_ONCE = 8
DINO_SIZE, DINO_UNIT = 256, 64
"""From frames of so many pixels on, their longer side is a multiple of 64, as DINO's; below, of the stride."""
_KEY_FORMAT = "eyespot-propagate/1"

Maps = Callable[[Float[Tensor, "n 3 h w"]], Float[Tensor, "n d gh gw"]]
"""Features of every place, of sRGB images in 0..1."""


@dataclass(kw_only=True, slots=True)
class Carrier:
    """What carries the mask: a subject, its features at places, and how far apart these are."""

    subject: Subject
    maps: Maps | None
    """None = the mask stays where it is."""
    stride: int
    size: int
    """Of the frames' shorter side, pixels."""

    def key(self, digest: str) -> str:
        """Digest of all that determines the result; ``digest`` is that of videos and of what they show."""
        parts = [_KEY_FORMAT, f"{LAST_FRAMES} {RADIUS} {TOP} {TEMPERATURE}", str(self.stride), str(self.size)]
        parts += [self.subject.tag, digest] + ["tf32"] * rounds_to_tf32()
        if self.subject.role != "pixels":
            parts.append(self.subject.digest())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def shown(self, frame: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int]:
        """Height and width of a frame as the encoder sees it: whole, its longer side a multiple of the stride."""
        unit = DINO_UNIT if self.size >= DINO_SIZE and not DINO_UNIT % self.stride else self.stride
        height, width = frame.shape[:2]
        longer = max(self.size, self.size * max(height, width) // min(height, width) // unit * unit)
        return (self.size, longer) if width >= height else (longer, self.size)


def carriers_of(subjects: list[Subject], image_size: int | None, device: torch.device) -> list[Carrier]:
    """The encoders among the subjects, and the two baselines: blocks of colour at the encoder's stride, and nothing.

    Raises:
        UserError: an encoder sees images of one size only, has no feature map, or its stride does not divide the size.
    """
    encoders = [subject for subject in subjects if not isinstance(subject.encoder, OneKind)]
    first = encoders[0]
    (view,) = first.views.images
    own = view.size
    size, stride = image_size or own, 0
    found: list[Carrier] = []
    for subject in encoders:
        encoder = subject.encoder.to(device)
        shapes = maps_at_stride(encoder, own)
        count, stride = len(shapes), own // shapes[0][1]
        if size % stride:
            fits = " or ".join(str(places * stride) for places in (size // stride, size // stride + 1) if places)
            raise UserError(f"image-size {size}: is no multiple of {subject.name}'s {stride} pixels; try {fits}")
        _let_see_whole_frames(subject)
        found.append(Carrier(subject=subject, maps=_encoder_maps(subject, count), stride=stride, size=size))
    bare = replace(first, role="pixels", origin={})
    colors = replace(bare, name=f"Lab colours of {stride} x {stride} pixels", tag=f"colors-{stride}x{stride}")
    unmoved = replace(bare, name="not moved", tag="unmoved")
    found.append(Carrier(subject=colors, maps=_color_maps(stride), stride=stride, size=size))
    found.append(Carrier(subject=unmoved, maps=None, stride=stride, size=size))
    if image_size is not None:
        for carrier in found:
            origin = {**carrier.subject.origin, "image_size": image_size}
            carrier.subject = replace(carrier.subject, tag=f"{carrier.subject.tag}-{image_size}px", origin=origin)
    return found


def _let_see_whole_frames(subject: Subject) -> None:
    try:
        vary_sizes(subject.encoder)
    except UserError as error:
        raise UserError(f"model {subject.name}: propagate shows whole frames, which are no squares: {error}") from error


def _encoder_maps(subject: Subject, count: int) -> Maps:
    def maps(rgb: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d gh gw"]:
        mean, std = (rgb.new_tensor(values)[:, None, None] for values in (subject.views.mean, subject.views.std))
        found = last_tokens(subject.encoder, (rgb - mean) / std, count)[-count].patches
        if not found.isfinite().all():
            raise UserError(f"model {subject.name}: its features are not all finite; the weights are broken")
        return found

    return maps


def _color_maps(stride: int) -> Maps:
    def maps(rgb: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d gh gw"]:
        return adaptive_avg_pool2d(to_lab(rgb), (rgb.shape[2] // stride, rgb.shape[3] // stride))

    return maps


def carried_shares(
    carrier: Carrier,
    frames: Sequence[UInt8[np.ndarray, "h w 3"]],
    first: Callable[[tuple[int, int]], Float[Tensor, "c gh gw"]],
    device: torch.device,
) -> Iterator[Float[Tensor, "c gh gw"]]:
    """What every frame of a video after the first shows, at the places of its feature map, in order.

    Args:
        carrier: with features.
        frames: of the video.
        first: what the first frame shows, at the places of a map of so many rows and columns.
        device: where.
    """
    assert carrier.maps is not None
    maps = _streamed(carrier.maps, frames, carrier.shown(frames[0]), device)
    begun = next(maps)
    yield from propagated(chain([begun], maps), first((begun.shape[1], begun.shape[2])).to(device))


def _streamed(
    maps: Maps, frames: Sequence[UInt8[np.ndarray, "h w 3"]], shown: tuple[int, int], device: torch.device
) -> Iterator[Float[Tensor, "d gh gw"]]:
    """Features of one frame after the other."""
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        some = [
            np.asarray(Image.fromarray(frame).resize((shown[1], shown[0]), Image.Resampling.BICUBIC))
            for frame in frames[start : start + FRAMES_AT_ONCE]
        ]
        yield from maps(torch.from_numpy(np.stack(some)).to(device).permute(0, 3, 1, 2).float() / 255)
