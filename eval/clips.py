"""Judges an encoder by what it makes of videos, frame by frame: what happens, at which moment, in which order."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from eyespot.data_pipeline.augment.views import Clip
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.shards.frames import Frames
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.evaluate import Procedure, judge_on
from eyespot.eval.protocols.clips import action, alignment, direction
from eyespot.eval.protocols.clips.needs import LEAST_ALIGNED, OfVideos, lacking
from eyespot.eval.protocols.labeled_data import LabeledData, all_data, labeled_data
from eyespot.eval.results.result import Result
from eyespot.pretrain.distributed.collectives import agreed
from eyespot.pretrain.distributed.process_group import World

OfFrames = Literal["action", "alignment", "order"]


def judge_clips(
    protocol: OfFrames,
    target: str,
    shards: Path,
    *,
    frames: int | None = None,
    out: Path | None,
    seed: int,
    pretrained: bool,
    world: World,
    image_size: int | None = None,
) -> list[Result]:
    """Judges ``target``, its random twin and raw pixels on videos; writes and returns the results.

    Args:
        protocol: how to judge.
        target: as for `judge`.
        shards: with frames; with labels for "action", of two cameras for "alignment".
        frames: how many of each video are looked at; None = the protocol's own number.
        out: as for `judge`.
        seed: of the random twin, of what is held out and of which videos "order" shows backwards.
        pretrained: timm names: with published weights.
        world: this process.
        image_size: as for `judge`.

    Raises:
        UserError: the shards lack what the protocol judges by, or what `judge` finds wrong.
    """
    with agreed():
        splits = ("test", "train") if protocol == "alignment" else ("train",)
        found = find_shards(shards, *splits, hashes=world.local_rank == 0)
        procedure, data = _PREPARED[protocol](found, seed, frames)
    known: dict[str, Any] = {
        "out": out,
        "seed": seed,
        "pretrained": pretrained,
        "world": world,
        "image_size": image_size,
    }
    return judge_on(data, protocol, procedure, target, **known)


def _frames(protocol: OfVideos, shards: ShardFolder) -> Frames:
    if why := lacking(protocol, shards.manifest):
        raise UserError(f"shards {shards.named}: {why}")
    assert shards.manifest.frames is not None
    return shards.manifest.frames


def _spread(frames: int, stream: int = 0) -> Clip:
    return Clip(frames, place="center", pick="spread", stream=stream)


def _action(shards: ShardFolder, seed: int, frames: int | None) -> tuple[Procedure, LabeledData]:
    _frames("action", shards)
    count = frames or action.FRAMES
    judged = partial(action.candidates, frames=count)
    procedure = Procedure(
        candidates=judged,
        variant=f"{count}-frames",
        revision="attentive probes",
        clips=(_spread(count),),
        patch_bytes=action.PATCH_BYTES,
    )
    return procedure, labeled_data(shards, seed)


def _alignment(shards: ShardFolder, seed: int, frames: int | None) -> tuple[Procedure, LabeledData]:
    shortest = _frames("alignment", shards).count[0]
    if frames is not None and not LEAST_ALIGNED <= frames <= shortest:
        raise UserError(
            f"--frames {frames}: alignment wants {LEAST_ALIGNED} or more, and the shortest video has {shortest}; choose"
            f" {LEAST_ALIGNED} to {shortest}"
        )
    count = frames or min(alignment.FRAMES, shortest)
    judged = partial(alignment.candidates, frames=count)
    cameras = (_spread(count), _spread(count, stream=1))
    procedure = Procedure(candidates=judged, variant=f"{count}-frames", clips=cameras, labels=False, heads=True)
    return procedure, all_data(shards)


def _order(shards: ShardFolder, seed: int, frames: int | None) -> tuple[Procedure, LabeledData]:
    _frames("order", shards)
    if frames is not None and frames < 2:
        raise UserError(f"--frames {frames}: one frame has no direction; set it to 2 or more")
    count = frames or direction.FRAMES
    judged = partial(direction.candidates, frames=count)
    procedure = Procedure(candidates=judged, variant=f"{count}-frames", clips=(_spread(count),))
    return procedure, direction.directed_videos(shards, seed)


_PREPARED: dict[OfFrames, Callable[[ShardFolder, int, int | None], tuple[Procedure, LabeledData]]] = {
    "action": _action,
    "alignment": _alignment,
    "order": _order,
}
