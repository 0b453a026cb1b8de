"""Judges an encoder by how far its features carry masks, or key points, through videos, beside two baselines."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.eval.encoders.subject import subjects_of
from eyespot.eval.evaluate import results_folder
from eyespot.eval.protocols.propagation import carried_points, region_boundary
from eyespot.eval.protocols.propagation.carried_masks import judged_masks
from eyespot.eval.protocols.propagation.carriers import Carrier, carriers_of
from eyespot.eval.protocols.propagation.key_points import PointedVideos
from eyespot.eval.protocols.propagation.mask_sheet import Strip, write_sheets
from eyespot.eval.protocols.propagation.masked_videos import BACKGROUND, MaskedVideos
from eyespot.eval.results.result import Protocol, Result, Score, read_result, slug
from eyespot.pretrain.distributed.collectives import agreed, any_rank, gather_objects_to_first
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.redaction import masked, masked_values

log = logging.getLogger("eyespot")

Videos = MaskedVideos | PointedVideos
MOST_NAMED = 5
"""Videos without an object in their first mask that are named."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Carried:
    """What is carried through the videos."""

    protocol: Protocol
    judged: Callable[[Carrier, Any, torch.device], tuple[Any, Strip]]
    """What there is to say of one video, and its picture."""
    scores: Callable[[list[Any]], dict[str, Score]]
    """Of all of them; the first is reported."""
    folder: str
    """Of the pictures."""


MASKS = Carried(protocol="propagate", judged=judged_masks, scores=region_boundary.scores, folder="propagated")
POINTS = Carried(
    protocol="propagate-points",
    judged=carried_points.judged_points,
    scores=carried_points.scores,
    folder="propagated-points",
)


def judge_propagation(
    target: str,
    shards: Path,
    *,
    out: Path | None,
    seed: int,
    pretrained: bool,
    world: World,
    image_size: int | None = None,
    keypoints: Path | None = None,
) -> list[Result]:
    """Judges ``target`` and its random twin, and beside them colours and what stays where it was, on videos.

    Ranks share the videos; rank 0 alone returns something, and writes pictures of the masks beside the results.

    Args:
        target: as for `judge`.
        shards: clip shards, with masks of frames where there are no key points.
        out: folder for results and pictures; None = as for `judge`.
        seed: of the random twin.
        pretrained: timm names: with published weights.
        world: this process.
        image_size: pixels of the frames' shorter side; None = what the encoder was trained on.
        keypoints: a file of key points, which are carried in place of masks (see `PointedVideos`).

    Raises:
        UserError: something about the target, the shards, the file or the folder is wrong.
    """
    out = out or results_folder(target)
    with agreed():
        found = find_shards(shards, "test", "train", hashes=world.local_rank == 0)
        videos = MaskedVideos(found) if keypoints is None else PointedVideos(found, keypoints)
        carriers = carriers_of(subjects_of(target, seed=seed, pretrained=pretrained), image_size, world.device)
        carriers[-1].subject.name = f"first {'mask' if keypoints is None else 'points'}, not moved"
    carried, results = (MASKS if keypoints is None else POINTS), []
    for carrier in carriers:
        name = f"{slug(found.manifest.name)}-{found.manifest.index_sha256[:6]}_{carrier.subject.tag}"
        path, key = out / f"{carried.protocol}_{name}.json", carrier.key(videos.digest())
        known = read_result(path)
        if any_rank([world.rank == 0 and (known is None or known.key != key)])[0]:
            start = time.monotonic()
            judged, strips = _judged(carried, carrier, videos, world)
            if world.rank == 0:
                known = _result(carried, carrier, videos, judged, key, seed, round(time.monotonic() - start, 3))
                write_sheets(strips, out / carried.folder, name)
                write_bytes(path, (json.dumps(asdict(known), indent=1) + "\n").encode())
        if world.rank == 0 and known is not None:
            results.append(known)
    if world.rank == 0 and videos.empty:
        log.warning("%s", _left_out(videos))
    return results


def _judged(carried: Carried, carrier: Carrier, videos: Videos, world: World) -> tuple[list[Any], list[Strip]]:
    """Of every video, on rank 0."""
    own = videos.ids[world.rank :: world.size]
    found: list[tuple[int, Any, Strip]] = []
    with agreed(), torch.inference_mode():
        what = f"propagate: {carrier.subject.name}"
        with ProgressBar(what, len(own), transient=True, shown=world.rank == 0) as bar:
            for video in videos.read(own):
                found.append((video.sample, *carried.judged(carrier, video, world.device)))
                bar.advance(1)
    gathered = gather_objects_to_first((found, videos.empty)) or []
    every = sorted((each for part, _ in gathered for each in part), key=lambda each: each[0])
    videos.empty.update(*(empty for _, empty in gathered))
    with agreed():
        if gathered and not every:
            raise UserError(f"{_left_out(videos)}; where 255 is the object, pack with --mask-ignored 254")
    return [judged for _, judged, _ in every], [strip for _, _, strip in every]


def _left_out(videos: Videos) -> str:
    """Which videos nothing can be carried through."""
    shown = f"(a number other than {BACKGROUND} and {videos.ignored})"
    return (
        f"shards {videos.shards.named}: the first masks of {len(videos.empty)} of {len(videos.ids)} videos show no"
        f" object {shown}, so these are left out: {_named(videos.empty)}"
    )


def _named(samples: set[int]) -> str:
    return ", ".join(map(str, sorted(samples)[:MOST_NAMED])) + ", ..." * (len(samples) > MOST_NAMED)


def _result(
    carried: Carried, carrier: Carrier, videos: Videos, judged: list[Any], key: str, seed: int, seconds: float
) -> Result:
    found = carried.scores(judged)
    subject, shards, protocol = carrier.subject, videos.shards, carried.protocol
    metrics = {f"{protocol}/{name}": score.value for name, score in found.items()}
    metric, *_ = metrics
    reported = found.pop(metric.removeprefix(f"{protocol}/"))
    size = subject.origin.get("image_size")
    is_test = shards.is_split and shards.path.name == "test"
    without = f", without {len(videos.empty)} whose first mask shows no object: {_named(videos.empty)}"
    split = ("its own test split" if is_test else "all videos of the folder") + (without if videos.empty else "")
    return Result(
        key=key,
        protocol=protocol,
        metric=metric,
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
        accuracy=reported.value,
        interval=reported.interval,
        settings={} if carrier.maps is None else {"stride": str(carrier.stride), "size": str(carrier.size)},
        validation=None,
        metrics=metrics,
        correct=None,
        scores=found,
        seed=seed,
        seconds=seconds,
    )
