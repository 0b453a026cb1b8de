"""What the gates ask of video methods: of each unseen video one number, beside it those of whoever else may answer.

All answer the same questions: a method as trained, the same before its first step, and the baselines.
"""

from dataclasses import replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from gates import PASSES, Case, Found, asked, chance
from torch import Tensor
from video.shards import sources

from eyespot.data_pipeline.augment.views import CenterView, Clip, MaskView, ViewSpec
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.shards.video.moving_regions import MOVES
from eyespot.eval.encoders.subject import subjects_of
from eyespot.eval.protocols.propagation.carried_masks import answers_of
from eyespot.eval.protocols.propagation.carriers import Carrier, carriers_of
from eyespot.eval.protocols.propagation.masked_videos import MaskedVideo, MaskedVideos
from eyespot.eval.protocols.propagation.region_boundary import agreement
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.objectives.motion_segmentation import MotionSegmentation
from eyespot.pretrain.objectives.tcn import TCN, alignment_errors
from eyespot.pretrain.objectives.tracked_patches import TrackedPatches
from eyespot.pretrain.objectives.video_mae import VideoMAE
from eyespot.pretrain.run_json import load_run

LOOKED_AT = 8
"""Frames from all over each video of which motion is asked."""
BRIGHT = 0.25
"""Of black and white: what is brighter belongs to a digit."""
CARRIED_AT = 144
"""Pixels of the shorter side of the frames through which masks are carried."""
JUDGED = 3
"""Of the frames that count in propagation every third is."""


def alignment(case: Case) -> Found:
    """How far off the nearest moment of the other camera is, as a share of the clip."""

    def error(objective: Objective, batch: Batch) -> Tensor:
        tcn = cast(TCN, objective)
        one, other = tcn.embed(batch)["moments"].chunk(2, dim=1)
        numbers = tcn.targets(batch)["numbers"]
        if tcn.config.loss == "triplet":
            one, other = F.normalize(one, dim=2), F.normalize(other, dim=2)
        return alignment_errors(one, other, numbers).mean(1)

    moments = cast(TCN, case.objectives["trained"]).moments
    return chance(asked(case, error), (moments**2 - 1) / (3 * moments**2))


def reconstruction(case: Case) -> Found:
    """Squared error of masked cubes, beside who says their mean, and who fits the best line through what is known.

    What is known of a cube: what is there at that time on the average over the training clips, and the visible cube
    that is nearest at its time. Both weights are fitted to the training clips.
    """
    mae = cast(VideoMAE, case.objectives["trained"])
    usual = torch.cat([mae.targets(batch.views[0]) for batch in case.batches(1, shards=case.learned)]).mean(0)
    products, sums = torch.zeros(2, 2).double(), torch.zeros(2).double()
    for batch in case.batches(2, shards=case.learned):
        known, true = _known(mae, batch, usual)
        products += torch.einsum("kbnp,lbnp->kl", known, known).double()
        sums += torch.einsum("kbnp,bnp->k", known, true).double()
    weights = torch.linalg.solve(products, sums).float()
    found = asked(case, lambda objective, batch: _errors(cast(VideoMAE, objective), batch))
    others: dict[str, list[np.ndarray]] = {"mean guess": [], "best line": []}
    for seed in range(1, 1 + PASSES):
        for batch in case.batches(seed):
            known, true = _known(mae, batch, usual)
            others["mean guess"].append(true.square().mean((1, 2)).numpy())
            line = torch.einsum("k,kbnp->bnp", weights, known)
            others["best line"].append((line - true).square().mean((1, 2)).numpy())
    return found | {name: np.concatenate(parts).reshape(PASSES, -1).mean(0) for name, parts in others.items()}


def _errors(mae: VideoMAE, batch: Batch) -> Tensor:
    order = mae.mask_order(batch)
    true = _taken(mae.targets(batch.views[0]), order[:, mae.num_visible :])
    return (mae.reconstruct(batch.views[0], order) - true).square().mean((1, 2))


def _known(mae: VideoMAE, batch: Batch, usual: Tensor) -> tuple[Tensor, Tensor]:
    """Of each masked cube what is usual there, and the visible one nearest to it: (2, B, masked, pixels); the truth."""
    order, cubes = mae.mask_order(batch), mae.targets(batch.views[0])
    visible, masked = order.split((mae.num_visible, order.shape[1] - mae.num_visible), dim=1)
    time, row = visible // mae.per_time, visible % mae.per_time // mae.grid[1]
    other_time, other_row = masked // mae.per_time, masked % mae.per_time // mae.grid[1]
    squares = (other_row[:, :, None] - row[:, None]) ** 2
    squares = squares + (masked[:, :, None] % mae.grid[1] - visible[:, None] % mae.grid[1]) ** 2
    squares = squares.masked_fill(other_time[:, :, None] != time[:, None], mae.num_patches**2)
    nearest = visible.gather(1, squares.argmin(2))
    return torch.stack([usual[masked], _taken(cubes, nearest)]), _taken(cubes, masked)


def _taken(cubes: Tensor, which: Tensor) -> Tensor:
    return cubes.gather(1, which[..., None].expand(-1, -1, cubes.shape[2]))


def same_track(case: Case) -> Found:
    """Of all other tracks' last patches, how many are less like a track's first patch than its own; raw pixels beside.

    That is the order that the loss asks for; all tracks of a video, and all cameras, make one number. Whether the own
    one is the very first, of hundreds, is more than minutes teach.
    """

    def ends(objective: Objective | None) -> Tensor:
        parts = []
        for batch in case.batches(1, replace(case.views, views=_uncropped(case.views))):
            if objective is None:
                parts.append(batch.views[0].flatten(2))
            else:
                rows = cast(TrackedPatches, objective).embed(batch)
                parts.append(torch.stack([rows["first"], rows["second"]], dim=1))
        return F.normalize(torch.cat(parts), dim=2)

    _, number = np.unique([source.split("/")[1] for source in sources(case.unseen)], return_inverse=True)
    found: Found = {}
    for name, objective in {**case.objectives, "raw pixels": None}.items():
        first, second = ends(objective).unbind(1)
        alike = first @ second.T
        farther = (alike < alike.diagonal()[:, None]).sum(1) / (len(alike) - 1)
        found[name] = np.bincount(number, farther.double().numpy()) / np.bincount(number)
    return chance(found, 0.5)


def _uncropped(views: ViewSpec) -> tuple[CenterView]:
    (view,) = views.images
    return (CenterView(resize=view.size, size=view.size, clip=Clip(2, place="center")),)


def moving(case: Case) -> Found:
    """IoU with the digit itself, frame by frame; beside it the pseudo-labels, made of several frames, and a box.

    The digit is what is bright, as nothing else is: who knows that needs no network. The pseudo-labels do not know it,
    nor does who learns from them, to whom one frame is shown where they had three.
    """
    size = cast(MotionSegmentation, case.objectives["trained"]).image_size
    view = CenterView(resize=size, size=size, clip=Clip(LOOKED_AT, place="center", pick="spread"))
    views = replace(case.views, views=(view, MaskView(of=0)))
    box = torch.zeros(size, size, dtype=torch.bool)
    box[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = True
    found: dict[str, list[np.ndarray]] = {}
    for batch in case.batches(1, views):
        true = batch.views[0].mean(2) * views.std[0] + views.mean[0] > BRIGHT
        said = {name: _moves(cast(MotionSegmentation, each), batch) for name, each in case.objectives.items()}
        said |= {"pseudo-label": batch.views[1][:, :, 0] == MOVES, "box in the middle": box.expand_as(true)}
        for name, mask in said.items():
            both, either = (op(mask, true).sum((2, 3)) for op in (torch.logical_and, torch.logical_or))
            found.setdefault(name, []).append((both / either.clamp_min(1)).mean(1).numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _moves(objective: MotionSegmentation, batch: Batch) -> Tensor:
    logits = objective.logits(batch.views[0].flatten(0, 1))[:, None]
    large = F.interpolate(logits, batch.views[0].shape[-2:], mode="bilinear", align_corners=False)
    return large.unflatten(0, batch.views[0].shape[:2])[:, :, 0] > 0


def propagation(case: Case) -> Found:
    """J&F of masks that the encoder's features carry through a video, beside colours and the unmoved mask."""
    _, run = load_run(case.run_dir)
    videos = MaskedVideos(case.unseen)
    found: Found = {}
    for carrier in carriers_of(subjects_of(str(case.run_dir), seed=run.seed), CARRIED_AT, torch.device("cpu")):
        found[_called(carrier)] = np.array([_carried(carrier, video) for video in videos.read(videos.ids)])
    return found


def _called(carrier: Carrier) -> str:
    names = {"encoder": "trained", "random": "untrained"}
    return names.get(carrier.subject.role, "mask unmoved" if carrier.maps is None else "Lab colours")


def _carried(carrier: Carrier, video: MaskedVideo) -> float:
    with torch.inference_mode():
        answers = answers_of(carrier, video, torch.device("cpu"))
    frames = video.counted()[::JUDGED]
    masks = [video.masks[frame] for frame in frames]
    return agreement([answers[frame] for frame in frames], masks, video.objects, video.ignored).both
