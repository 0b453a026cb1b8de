"""Masks that are carried through videos by features, and how well they agree with the true ones."""

from functools import partial

import numpy as np
import torch
from jaxtyping import UInt8

from eyespot.eval.protocols.propagation.carriers import Carrier, carried_shares
from eyespot.eval.protocols.propagation.label_propagation import decided, one_hot
from eyespot.eval.protocols.propagation.mask_sheet import Strip, strip_of
from eyespot.eval.protocols.propagation.masked_videos import BACKGROUND, MaskedVideo
from eyespot.eval.protocols.propagation.region_boundary import Agreement, agreement


def judged_masks(carrier: Carrier, video: MaskedVideo, device: torch.device) -> tuple[Agreement, Strip]:
    """How well the carried masks of a video agree with those that are known, and a picture of them."""
    answers, frames = answers_of(carrier, video, device), video.counted()
    true = [video.masks[frame] for frame in frames]
    judged = agreement([answers[frame] for frame in frames], true, video.objects, video.ignored)
    return judged, strip_of(video, answers)


def answers_of(carrier: Carrier, video: MaskedVideo, device: torch.device) -> list[UInt8[np.ndarray, "h w"]]:
    """The mask of every frame, as large as the first one's; that one as it is given, ignored pixels being ground."""
    first = np.where(video.masks[0] == video.ignored, BACKGROUND, video.masks[0]).astype(np.uint8)
    if carrier.maps is None:
        return [first] * len(video.frames)
    numbers = np.array([BACKGROUND, *video.objects], np.uint8)
    placed = np.searchsorted(numbers, first).astype(np.uint8)
    if video.ignored != BACKGROUND:
        placed[video.masks[0] == video.ignored] = len(numbers)  # belongs to nothing
    shown = carrier.shown(video.frames[0])
    carried = carried_shares(carrier, video.frames, partial(one_hot, placed, len(numbers)), device)
    return [first, *(numbers[decided(each, shown, first.shape)] for each in carried)]
