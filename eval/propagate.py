"""Judges an encoder by how far its features carry a mask through a video, beside colours and the unmoved mask."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.subject import OneKind, Subject, subjects_of
from eyespot.eval.evaluate import results_folder
from eyespot.eval.protocols.mask_sheet import Strip, strip_of, write_sheets
from eyespot.eval.protocols.masked_videos import BACKGROUND, MaskedVideo, MaskedVideos
from eyespot.eval.protocols.propagation import LAST_FRAMES, RADIUS, TEMPERATURE, TOP, decided, one_hot, propagated
from eyespot.eval.protocols.region_boundary import Agreement, agreement, scores
from eyespot.eval.results.result import Result, read_result, slug
from eyespot.pretrain.distributed.arithmetic import rounds_to_tf32
from eyespot.pretrain.distributed.collectives import agreed, any_rank, gather_objects_to_first
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.images.lab_color import to_lab
from eyespot.pretrain.networks.dense_maps import maps_at_stride
from eyespot.pretrain.networks.encoders import last_tokens, vary_sizes
from eyespot.pretrain.redaction import masked, masked_values

log = logging.getLogger("eyespot")

FRAMES_AT_ONCE = 8
DINO_SIZE, DINO_UNIT = 256, 64
"""From frames of so many pixels on, their longer side is a multiple of 64, as DINO's; below, of the stride."""
MOST_NAMED = 5
"""Videos without an object in their first mask that are named."""
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

    def key(self, videos: MaskedVideos) -> str:
        """Digest of all that determines the result."""
        parts = [_KEY_FORMAT, f"{LAST_FRAMES} {RADIUS} {TOP} {TEMPERATURE}", str(self.stride), str(self.size)]
        parts += [self.subject.tag, videos.digest()] + ["tf32"] * rounds_to_tf32()
        if self.subject.role != "pixels":
            parts.append(self.subject.digest())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def shown(self, frame: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int]:
        """Height and width of a frame as the encoder sees it: whole, its longer side a multiple of the stride."""
        unit = DINO_UNIT if self.size >= DINO_SIZE and not DINO_UNIT % self.stride else self.stride
        height, width = frame.shape[:2]
        longer = max(self.size, self.size * max(height, width) // min(height, width) // unit * unit)
        return (self.size, longer) if width >= height else (longer, self.size)


def judge_propagation(
    target: str,
    shards: Path,
    *,
    out: Path | None,
    seed: int,
    pretrained: bool,
    world: World,
    image_size: int | None = None,
) -> list[Result]:
    """Judges ``target`` and its random twin, and beside them colours and the unmoved mask, on videos with masks.

    Ranks share the videos; rank 0 alone returns something, and writes pictures of the masks beside the results.

    Args:
        target: as for `judge`.
        shards: clip shards with masks of frames.
        out: folder for results and pictures; None = as for `judge`.
        seed: of the random twin.
        pretrained: timm names: with published weights.
        world: this process.
        image_size: pixels of the frames' shorter side; None = what the encoder was trained on.

    Raises:
        UserError: something about the target, the shards or the folder is wrong.
    """
    out = out or results_folder(target)
    with agreed():
        found = ShardFolder.find(shards, "test", "train", hashes=world.local_rank == 0)
        videos = MaskedVideos(found)
        carriers = carriers_of(subjects_of(target, seed=seed, pretrained=pretrained), image_size, world.device)
    results = []
    for carrier in carriers:
        name = f"{slug(found.manifest.name)}-{found.manifest.index_sha256[:6]}_{carrier.subject.tag}"
        path, key = out / f"propagate_{name}.json", carrier.key(videos)
        known = read_result(path)
        if any_rank([world.rank == 0 and (known is None or known.key != key)])[0]:
            start = time.monotonic()
            judged, strips = _judged(carrier, videos, world)
            if world.rank == 0:
                known = _result(carrier, videos, judged, key, seed, round(time.monotonic() - start, 3))
                write_sheets(strips, out / "propagated", name)
                write_bytes(path, (json.dumps(asdict(known), indent=1) + "\n").encode())
        if world.rank == 0 and known is not None:
            results.append(known)
    if world.rank == 0 and videos.empty:
        log.warning("%s", _left_out(videos))
    return results


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
    unmoved = replace(bare, name="first mask, not moved", tag="unmoved")
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


def _judged(carrier: Carrier, videos: MaskedVideos, world: World) -> tuple[list[Agreement], list[Strip]]:
    """Of every video, on rank 0."""
    own = videos.ids[world.rank :: world.size]
    found: list[tuple[int, Agreement, Strip]] = []
    with agreed(), torch.inference_mode():
        what = f"propagate: {carrier.subject.name}"
        with ProgressBar(what, len(own), transient=True, shown=world.rank == 0) as bar:
            for video in videos.read(own):
                answers = answers_of(carrier, video, world.device)
                frames = video.counted()
                true = [video.masks[frame] for frame in frames]
                judged = agreement([answers[frame] for frame in frames], true, video.objects, video.ignored)
                found.append((video.sample, judged, strip_of(video, answers)))
                bar.advance(1)
    gathered = gather_objects_to_first((found, videos.empty)) or []
    every = sorted((each for part, _ in gathered for each in part), key=lambda each: each[0])
    videos.empty.update(*(empty for _, empty in gathered))
    with agreed():
        if gathered and not every:
            raise UserError(f"{_left_out(videos)}; where 255 is the object, pack with --mask-ignored 254")
    return [judged for _, judged, _ in every], [strip for _, _, strip in every]


def _left_out(videos: MaskedVideos) -> str:
    """Which videos nothing can be carried through."""
    shown = f"(a number other than {BACKGROUND} and {videos.ignored})"
    return (
        f"shards {videos.shards.named}: the first masks of {len(videos.empty)} of {len(videos.ids)} videos show no"
        f" object {shown}, so these are left out: {_named(videos.empty)}"
    )


def _named(samples: set[int]) -> str:
    return ", ".join(map(str, sorted(samples)[:MOST_NAMED])) + ", ..." * (len(samples) > MOST_NAMED)


def answers_of(carrier: Carrier, video: MaskedVideo, device: torch.device) -> list[UInt8[np.ndarray, "h w"]]:
    """The mask of every frame, as large as the first one's; that one as it is given, ignored pixels being ground."""
    first = np.where(video.masks[0] == video.ignored, BACKGROUND, video.masks[0]).astype(np.uint8)
    if carrier.maps is None:
        return [first] * len(video.frames)
    shown = carrier.shown(video.frames[0])
    maps = _streamed(carrier.maps, video, shown, device)
    begun = next(maps)
    numbers = np.array([BACKGROUND, *video.objects], np.uint8)
    placed = np.searchsorted(numbers, first).astype(np.uint8)
    if video.ignored != BACKGROUND:
        placed[video.masks[0] == video.ignored] = len(numbers)  # belongs to nothing
    shares = one_hot(placed, len(numbers), cast(tuple[int, int], begun.shape[1:])).to(device)

    def again() -> Iterator[Float[Tensor, "d gh gw"]]:
        yield begun
        yield from maps

    return [first, *(numbers[decided(each, shown, first.shape)] for each in propagated(again(), shares))]


def _streamed(
    maps: Maps, video: MaskedVideo, shown: tuple[int, int], device: torch.device
) -> Iterator[Float[Tensor, "d gh gw"]]:
    """Features of one frame after the other."""
    for start in range(0, len(video.frames), FRAMES_AT_ONCE):
        some = [
            np.asarray(Image.fromarray(frame).resize((shown[1], shown[0]), Image.Resampling.BICUBIC))
            for frame in video.frames[start : start + FRAMES_AT_ONCE]
        ]
        yield from maps(torch.from_numpy(np.stack(some)).to(device).permute(0, 3, 1, 2).float() / 255)


def _result(
    carrier: Carrier, videos: MaskedVideos, judged: list[Agreement], key: str, seed: int, seconds: float
) -> Result:
    found = scores(judged)
    both, subject, shards = found.pop("J&F"), carrier.subject, videos.shards
    size = subject.origin.get("image_size")
    is_test = shards.is_split and shards.path.name == "test"
    without = f", without {len(videos.empty)} whose first mask shows no object: {_named(videos.empty)}"
    split = ("its own test split" if is_test else "all videos of the folder") + (without if videos.empty else "")
    return Result(
        key=key,
        protocol="propagate",
        metric="propagate/J&F",
        name=subject.name,
        role=subject.role,
        origin=masked_values(subject.origin),
        data=f"{shards.manifest.name} at {size} px" if size else shards.manifest.name,
        shards=masked(str(shards.path)),
        split=split,
        test_sha256=videos.digest(),
        num_train=0,
        num_test=len(judged),
        num_classes=0,
        num_correct=None,
        accuracy=both.value,
        interval=both.interval,
        settings={} if carrier.maps is None else {"stride": str(carrier.stride), "size": str(carrier.size)},
        validation=None,
        metrics={"propagate/J&F": both.value} | {f"propagate/{name}": score.value for name, score in found.items()},
        correct=None,
        scores=found,
        seed=seed,
        seconds=seconds,
    )
