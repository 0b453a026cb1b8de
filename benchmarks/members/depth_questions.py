"""What the gates ask of methods of images and depth, and of those that say something without having learned."""

from typing import cast

import numpy as np
import torch
from gates import PASSES, Case, Found, asked, chance
from jaxtyping import Float
from torch import Tensor

from eyespot.data_pipeline.augment.views import DepthView, ViewSpec, center_view
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.subject import OneKind
from eyespot.eval.protocols.dense import DensePart, DenseTask
from eyespot.eval.protocols.depth.depth_probe import NAMES, fitted, judged, measures
from eyespot.eval.protocols.patch_tokens import NoPatches, PatchTokens, RawPatches
from eyespot.pretrain.images.patchify import patchify
from eyespot.pretrain.images.standard_depth import standard_depth
from eyespot.pretrain.objectives.multi_mae import DEPTH, MultiMAE

SPREADS = (0.7, 1.0, 1.5, 2.5, 4.0)
"""Patches: how far what is visible tells something of its neighbours; which one is chosen on the training images."""


def _batches(case: Case, shards: ShardFolder | None = None) -> list[Batch]:
    """Whole images with their depth maps."""
    size = case.objectives["trained"].image_size
    views = case.normalized(ViewSpec(views=(center_view(size), DepthView(of=0))))
    return list(case.batches(1, views, shards))


def matching(case: Case) -> Found:
    """Whether an image's own depth map is nearest to it, of those of all unseen images.

    Beside it: whether the map is most like its brightness, by the square of their correlation.
    """
    batches, found = _batches(case), {}
    with torch.inference_mode():
        for who, objective in case.objectives.items():
            image, depth = (
                torch.cat([objective.embed_joint(kind, batch.views[place]) for batch in batches])
                for place, kind in enumerate(("image", "depth"))
            )
            found[who] = _first(image @ depth.T)
    gray, maps = (
        torch.nn.functional.normalize(each.flatten(1) - each.flatten(1).mean(1, keepdim=True), dim=1)
        for each in (
            torch.cat([batch.views[0].mean(1) for batch in batches]),
            torch.cat([standard_depth(batch.views[1])[0] for batch in batches]),
        )
    )
    found["alike pixels"] = _first((gray @ maps.T).square())
    return chance(found, 1 / len(gray))


def _first(scores: Float[Tensor, "n n"]) -> np.ndarray:
    return (scores.argmax(1) == torch.arange(len(scores))).double().numpy()


def probed_depth(case: Case) -> Found:
    """Relative error of depth by a linear function of patch tokens, learned from the training images.

    Beside it: the same of raw patches, and of nothing, which is the mean depth.
    """
    mae = cast(MultiMAE, case.objectives["trained"])
    grid = mae.grid[0]
    subjects: dict[str, OneKind] = {
        who: PatchTokens(objective.encoder, grid).eval() for who, objective in case.objectives.items()
    }
    subjects |= {"raw patches": RawPatches(grid), "mean depth": NoPatches(grid)}
    batches = [_batches(case, case.learned), _batches(case)]
    found = {}
    for who, subject in subjects.items():
        train, test = (_part(subject, some, grid) for some in batches)
        ridge, penalty, _ = fitted(task := DenseTask(train=train, test=test, num_classes=0, seed=0))
        found[who] = measures(judged(ridge, penalty, task.test))[:, NAMES.index("AbsRel")]
    return found


def _part(subject: OneKind, batches: list[Batch], grid: int) -> DensePart:
    with torch.inference_mode():
        tokens = torch.cat([subject(batch.views[0]) for batch in batches]).numpy()
    maps = torch.cat([batch.views[1][:, 0] for batch in batches])
    return DensePart(tokens=tokens, rows=np.arange(len(maps)), maps=maps, grid=grid)


def masked_depth(case: Case) -> Found:
    """Mean absolute error of masked depth that was measured, of maps standardised by themselves.

    Beside it: what is usual at that place in the training images; and that, moved by what the visible patches of depth
    near by differ from what is usual, as the error on the training images says is best.
    """
    mae = cast(MultiMAE, case.objectives["trained"])
    maps = torch.cat([_map(mae, batch)[0] for batch in case.batches(1, shards=case.learned)])
    usual = maps.mean(0)
    learned = list(case.batches(2, shards=case.learned))
    best = min(SPREADS, key=lambda s: sum(_error(mae, each, _near(mae, each, usual, s)).sum() for each in learned))
    found = asked(case, lambda objective, batch: _filled(cast(MultiMAE, objective), batch))
    others: dict[str, list[np.ndarray]] = {"mean map": [], "what is near": []}
    for seed in range(1, 1 + PASSES):
        for batch in case.batches(seed):
            others["mean map"].append(_error(mae, batch, usual).numpy())
            others["what is near"].append(_error(mae, batch, _near(mae, batch, usual, best)).numpy())
    return found | {name: np.concatenate(parts).reshape(PASSES, -1).mean(0) for name, parts in others.items()}


def _map(mae: MultiMAE, batch: Batch) -> tuple[Float[Tensor, "b n q"], Float[Tensor, "b n q"]]:
    """Patches of the standardised depth maps, and where something was measured."""
    depth, known = standard_depth(batch.views[1])
    return patchify(depth, mae.patch_size), patchify(known, mae.patch_size)


def _filled(mae: MultiMAE, batch: Batch) -> Float[Tensor, " b"]:
    depth, _ = standard_depth(batch.views[1])
    return _error(mae, batch, mae.reconstruct(batch.views[0], depth, mae.visible(batch)[0])[DEPTH])


def _error(mae: MultiMAE, batch: Batch, said: Float[Tensor, "*b n q"]) -> Float[Tensor, " b"]:
    true, known = _map(mae, batch)
    counted = (known & ~mae.visible(batch)[1][:, DEPTH, :, None]).flatten(1)
    return ((said - true).abs().flatten(1) * counted).sum(1) / counted.sum(1).clamp(min=1)


def _near(mae: MultiMAE, batch: Batch, usual: Float[Tensor, "n q"], spread: float) -> Float[Tensor, "b n q"]:
    """A mean over visible patches, weighted by a Gaussian of the distance, and one more that differs by nothing."""
    true, _ = _map(mae, batch)
    seen = mae.visible(batch)[1][:, DEPTH].float()
    rows, columns = np.divmod(np.arange(mae.num_patches), mae.grid[1])
    places = torch.from_numpy(np.stack([rows, columns], axis=1)).float()
    weights = (-torch.cdist(places, places).square() / (2 * spread**2)).exp() * seen[:, None]
    moved = (true - usual).mean(2, keepdim=True)
    return usual + weights @ moved / (weights.sum(2, keepdim=True) + 0.1)
