"""What the dense protocols judge, and on what: encoders that hand out their patch tokens, and images with maps."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import unfold

from eyespot.data_pipeline.augment.views import CenterView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mask_views import mask_views
from eyespot.data_pipeline.shards.manifest import Masks
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.stores.location import Location
from eyespot.eval.encoders.subject import OneKind, Subject
from eyespot.eval.protocols.dense import DensePart, DenseTask
from eyespot.eval.protocols.labeled_data import TEST_SHARE, LabeledData, Part
from eyespot.eval.protocols.mean_iou import NOTHING
from eyespot.eval.protocols.task import stratified_split
from eyespot.pretrain.networks.encoders import last_tokens

PartT = TypeVar("PartT", bound=Part)

MIN_IMAGES = 5
"""Of train: fewer leave no tenth to choose on."""
_FINITE_AT_ONCE = 256


class PatchTokens(OneKind):
    """An encoder's patch tokens after its last block and norm, row by row of the grid."""

    kind = "patches"

    def __init__(self, encoder: nn.Module, grid: int):
        """Wraps ``encoder``, which gives ``grid`` x ``grid`` patches."""
        super().__init__()
        self.encoder, self.grid = encoder, grid

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p_times_d"]:
        """All tokens of an image as one long row: p patches of d numbers."""
        return last_tokens(self.encoder, images)[-1].patches.flatten(2).transpose(1, 2).flatten(1)


class RawPatches(OneKind):
    """The pixels of each patch: what there was before learning."""

    kind = "patches"

    def __init__(self, grid: int):
        """Cuts an image into ``grid`` x ``grid`` patches."""
        super().__init__()
        self.grid = grid

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p_times_d"]:
        """All patches of an image as one long row."""
        side = images.shape[-1] // self.grid
        return unfold(images, side, stride=side).transpose(1, 2).flatten(1)


class NoPatches(OneKind):
    """Tells nothing of any patch: a linear function of it is the mean of train."""

    kind = "patches"

    def __init__(self, grid: int):
        """In place of ``grid`` x ``grid`` patches."""
        super().__init__()
        self.grid = grid

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p"]:
        """A zero for each patch."""
        return images.new_zeros(len(images), self.grid**2)


def dense_subjects(subjects: list[Subject], *, guess: str = "") -> list[Subject]:
    """The same subjects by their patches; raw pixels become raw patches of the encoder's grid, whatever their size.

    Args:
        subjects: encoders, and raw pixels.
        guess: what to call one more subject, which sees nothing; empty = there is none.

    Raises:
        UserError: an encoder has no patches, or they are no square grid.
    """
    encoders = [subject for subject in subjects if subject.role != "pixels"]
    first, size = encoders[0], encoders[0].views.images[0].size
    with torch.inference_mode():
        blank = torch.zeros(1, first.views.channels, size, size)
        height, width = last_tokens(first.encoder, blank)[-1].patches.shape[2:]
    if height != width or height < 2:
        raise UserError(
            f"model {first.name}: gives {height} x {width} patches of images of {size} pixels; dense protocols need a"
            " square of 2 x 2 or more: larger images (--image-size), or another encoder"
        )
    found = [replace(subject, encoder=PatchTokens(subject.encoder, height).eval()) for subject in encoders]
    if size % height == 0:
        raw = replace(first, name="raw pixels", tag="pixels", role="pixels", origin={})
        found.append(replace(raw, architecture=f"{height} x {height} patches", encoder=RawPatches(height)))
    if guess:
        known = replace(first, name=guess, tag="guess", role="pixels", origin={})
        found.append(replace(known, architecture=f"{height} x {height} patches", encoder=NoPatches(height)))
    return found


@dataclass(kw_only=True, slots=True)
class MaskedPart(Part):
    """The samples with masks of one shard folder that serve one purpose; their labels play no part."""

    masks: Masks

    def digest(self) -> str:
        """sha256 of which samples and masks these are, in which order."""
        parts = self.shards.manifest.index_sha256, self.masks.sha256, str(self.masks.ignored)
        return hashlib.sha256("\n".join(parts).encode() + self.rows.astype("<i8").tobytes()).hexdigest()

    def maps(self, view: CenterView) -> UInt8[np.ndarray, "n s s"]:
        """The masks through the view; what is ignored is NOTHING.

        Raises:
            UserError: one is damaged.
        """
        masks = np.concatenate(list(mask_views(self.shards, self.rows, view)))
        masks[masks == self.masks.ignored] = NOTHING
        return masks


def divided(
    shards: ShardFolder, seed: int, samples_of: Callable[[ShardFolder], PartT], maps: str
) -> tuple[PartT, PartT, str]:
    """Train and test of a shard folder, and how they came apart; where there is no test split, a fifth is held out.

    Args:
        shards: train, whose test split is looked for; or a folder without splits.
        seed: decides what is held out.
        samples_of: all that count of one folder.
        maps: what they have, in words.

    Raises:
        UserError: too few of them.
    """
    train = samples_of(shards)
    if (own := shards.split("test")) is not None:
        test, split = samples_of(own), "its own test split"
    else:
        kept, held = stratified_split(train.labels, TEST_SHARE, seed)
        test, train = _rows(train, held), _rows(train, kept)
        split = f"no test split: {TEST_SHARE:.0%} of the images held out (seed {seed})"
    if len(train.rows) < MIN_IMAGES or not len(test.rows):
        raise UserError(
            f"shards {shards.named}: {len(train.rows)} images with {maps} to learn from and {len(test.rows)} to test"
            f" on; dense protocols need {MIN_IMAGES} and 1 or more"
        )
    return train, test, split


def masked_data(shards: ShardFolder, seed: int) -> LabeledData:
    """Train and test of a shard folder, of samples with masks; where there is no test split, a fifth is held out.

    Args:
        shards: train, whose test split is looked for; or a folder without splits.
        seed: decides what is held out.

    Raises:
        UserError: no masks, too few of them, a single class, or masks of train and test do not fit together.
    """
    train, test, split = divided(shards, seed, _part, "masks")
    if train.masks.ignored != test.masks.ignored:
        raise UserError(
            f"shards {shards.named}: masks of train ignore the value {train.masks.ignored}, of test"
            f" {test.masks.ignored}; pack both with one --mask-ignored"
        )
    num_classes = max(len(train.masks.pixels), len(test.masks.pixels))
    if sum(count > 0 for count in train.masks.pixels) < 2 or num_classes > NOTHING:
        raise UserError(
            f"shards {shards.named}: masks of {num_classes} classes (value {train.masks.ignored} is ignored);"
            f" dense protocols need 2 to {NOTHING}"
        )
    classes = [str(number) for number in range(num_classes)]
    return LabeledData(name=shards.manifest.name, train=train, test=test, classes=classes, split=split)


def dense_task(
    subject: Subject, data: LabeledData, tokens: dict[Location, np.ndarray], seed: int, device: torch.device
) -> DenseTask:
    """One subject's patches of the data, and the maps seen through its view.

    Args:
        subject: one of `dense_subjects`.
        data: from `masked_data` or `mapped_data`.
        tokens: of each shard folder, from `features_of`.
        seed: decides which tenth of train is held out.
        device: where to work.

    Raises:
        UserError: a map is damaged, or tokens are not finite.
    """
    view, grid = subject.views.views[0], subject.encoder.grid
    assert isinstance(view, CenterView) and isinstance(grid, int)
    parts = []
    for part in (data.train, data.test):
        found = tokens[part.shards.path]
        for start in range(0, len(found), _FINITE_AT_ONCE):
            if not np.isfinite(found[start : start + _FINITE_AT_ONCE]).all():
                raise UserError(f"model {subject.name}: its patches are not all finite; the weights are broken")
        maps = torch.from_numpy(cast(Any, part).maps(view)).to(device)
        parts.append(DensePart(tokens=found, rows=part.rows, maps=maps, grid=grid))
    return DenseTask(train=parts[0], test=parts[1], num_classes=len(data.classes), seed=seed)


def _part(shards: ShardFolder) -> MaskedPart:
    rows = np.flatnonzero(shards.masks["size"])
    assert shards.manifest.masks is not None
    return MaskedPart(shards=shards, rows=rows, labels=np.zeros_like(rows), masks=shards.manifest.masks)


def _rows(part: PartT, chosen: Int[np.ndarray, " k"]) -> PartT:
    return replace(part, rows=part.rows[chosen], labels=part.labels[chosen])
