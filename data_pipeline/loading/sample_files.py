"""Which files the views of a sample are made of: rows of one table, which a ``Reader`` reads and checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from eyespot.data_pipeline.augment.clip_frames import frame_numbers, partner_ids
from eyespot.data_pipeline.augment.views import AudioView, Clip, DepthView, ImageView, MaskView, MemberView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.source_bounds import bounds_of
from eyespot.data_pipeline.shards.members.sounds import CONTAINERS
from eyespot.data_pipeline.shards.paged.paged_index import RowsById
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

Ids = Int64[np.ndarray, " b"]
Rows = Int64[np.ndarray, "b k"]


class Kind(NamedTuple):
    """What files of a sample are."""

    clips: bool = False
    masks: bool = False
    member: str = ""
    """The extension of what lies beside its image."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Shown:
    """Views that show the same frames of the same sample: one decode is enough for all of them."""

    clip: Clip | None
    partner: bool
    views: tuple[int, ...]
    """Their numbers in the view spec."""
    masks: tuple[int, ...]
    """The numbers of the views that show these views' masks."""

    @property
    def num_frames(self) -> int:
        """Of one sample."""
        return self.clip.frames if self.clip else 1

    @property
    def num_files(self) -> int:
        """Of one sample: images, then masks."""
        return self.num_frames * (2 if self.masks else 1)


@dataclass(kw_only=True, slots=True, frozen=True)
class MemberShown:
    """Views that show the same member of the same sample."""

    extension: str
    partner: bool
    views: tuple[int, ...]
    """Their numbers in the view spec."""
    num_files: int = 1
    """Of one sample."""


def sound_extension(shards: ShardFolder) -> str:
    """Of the sounds beside the images.

    Raises:
        UserError: there are none.
    """
    found = next((extension for extension in CONTAINERS if extension in shards.manifest.members), None)
    if found is None:
        raise UserError(
            f"shards {shards.path}: have no sounds beside their images; pack images with theirs (a.jpg, a.wav), or list"
            f" those of tars anew: eyespot shards index {shards.path}"
        )
    return found


def members_shown(spec: ViewSpec, shards: ShardFolder) -> tuple[MemberShown, ...]:
    """The views of members, those of one together."""
    members: dict[tuple[str, bool], list[int]] = {}
    for number, view in enumerate(spec.views):
        if isinstance(view, MemberView):
            partner = spec.shown(number).partner if isinstance(view, DepthView) else view.partner
            extension = sound_extension(shards) if isinstance(view, AudioView) else view.extension
            members.setdefault((extension, partner), []).append(number)
    return tuple(
        MemberShown(extension=extension, partner=partner, views=tuple(views))
        for (extension, partner), views in members.items()
    )


def complete_samples(spec: ViewSpec, shards: ShardFolder) -> Ids | None:
    """The samples that have every member that views show, ascending; None = all have.

    Raises:
        UserError: the shards have no such members at all, or too few samples have them for the views.
    """
    shown = members_shown(spec, shards)
    if not shown:
        check_files(spec, shards, shards.manifest.num_samples)
        return None
    found = np.flatnonzero(np.all([shards.member(each.extension)["size"] for each in shown], axis=0))
    if not len(found):
        named = " and ".join(sorted({f".{each.extension}" for each in shown}))
        raise UserError(f"shards {shards.path}: no sample has {named} beside its image; pack images with them")
    check_files(spec, shards, len(found))
    return None if len(found) == shards.manifest.num_samples else found.astype(np.int64)


def left_out(spec: ViewSpec, shards: ShardFolder, ids: Ids | None) -> str:
    """In words, how many samples are not among ``complete_samples``, and why; empty where all are."""
    if ids is None:
        return ""
    named = " or ".join(sorted({f".{each.extension}" for each in members_shown(spec, shards)}))
    return f"; {shards.manifest.num_samples - len(ids):,} of {shards.manifest.num_samples:,} without {named} left out"


def shown_together(spec: ViewSpec) -> tuple[Shown, ...]:
    """The views of a spec, those of equal clips together."""
    images: dict[tuple[Clip | None, bool], list[int]] = {}
    for number, view in enumerate(spec.views):
        if isinstance(view, ImageView):
            images.setdefault((view.clip, view.partner), []).append(number)
    return tuple(
        Shown(clip=clip, partner=partner, views=tuple(views), masks=tuple(_masks_of(spec, views)))
        for (clip, partner), views in images.items()
    )


def _masks_of(spec: ViewSpec, views: Sequence[int]) -> list[int]:
    return [number for number, view in enumerate(spec.views) if isinstance(view, MaskView) and view.of in views]


class SampleFiles:
    """Of each sample of a shard folder the files that a view spec asks for.

    Args:
        shards: where the samples are.
        spec: what is to be made of them.
        seed: of the run.
        among: the samples that may be partners, or stand in for others, ascending; None = all.

    Raises:
        UserError: a view asks for frames, masks, members, a stream or a partner that is not there; a table is damaged.
    """

    def __init__(self, shards: ShardFolder, spec: ViewSpec, seed: int, among: Ids | None = None):
        self.shown, self.members = shown_together(spec), members_shown(spec, shards)
        self._shards, self._seed, self.among = shards, seed, among
        self.ignored = shards.manifest.masks.ignored if shards.manifest.masks is not None else 0
        """The class number of what no mask says anything about."""
        self._bounds = bounds_of(shards)
        places = self._bounds if among is None else np.searchsorted(among, self._bounds)
        self._first_of_source = places.tolist()
        """Where those of each source begin among them, and how many there are."""
        check_files(spec, shards, int(np.diff(places).min()))
        self._check_rates(spec)
        kinds = dict.fromkeys(kind for each in (*self.shown, *self.members) for kind in _kinds(each))
        tables = [self._table(kind) for kind in kinds]
        whole = {kind: table for kind, table in zip(kinds, tables, strict=True) if isinstance(table, np.ndarray)}
        self.table = tables[0] if len(tables) == 1 else np.concatenate(list(whole.values()))
        """Of INDEX_DTYPE; where no view asks for more than images, the shards' index, or its pages."""
        self.lengths = [len(table) for table in tables]
        """Of the tables that it consists of, one behind the other."""
        ends = np.cumsum([0, *(len(table) for table in tables)]).tolist()
        self._first = dict(zip(kinds, ends, strict=False))
        self._sizes = {kind: table["size"] for kind, table in whole.items()}

    @cached_property
    def sample_bytes(self) -> float:
        """Of a sample's files, on average."""
        means = {kind: float(sizes.mean()) for kind, sizes in self._sizes.items()}
        images = sum(each.num_frames * means[kind] for each in self.shown for kind in _kinds(each))
        return images + sum(means[kind] for each in self.members for kind in _kinds(each))

    @property
    def has_partners(self) -> bool:
        """Whether a view shows another sample."""
        return any(each.partner for each in (*self.shown, *self.members))

    def identity(self) -> list[str]:
        """The sha256 of each table, beside the index, that says what the views show."""
        frames, masks = self._shards.manifest.frames, self._shards.manifest.masks
        found: list[str] = []
        if frames is not None and any(each.clip for each in self.shown):
            found += [frames.frames_sha256, frames.clips_sha256]
            if any(each.clip and each.clip.by_motion for each in self.shown):
                found.append(frames.motion_sha256)
        for each in self.shown:
            if each.masks and each.clip and frames is not None:
                found.append(frames.masks_sha256)
            elif each.masks and masks is not None:
                found.append(masks.sha256)
        return found + [self._shards.manifest.members[each.extension].sha256 for each in self.members]

    def incomplete(self) -> str:
        """In words, how many of the samples that may be seen lack what views show beside images; empty = none does."""
        if not self.members:
            return ""
        lacks = np.any([self._sizes[kind] == 0 for each in self.members for kind in _kinds(each)], axis=0)
        lacks = lacks if self.among is None else lacks[self.among]
        named = " or ".join(sorted({f".{each.extension}" for each in self.members}))
        return f"{lacks.sum():,} of {len(lacks):,} have no {named} beside their image" if lacks.any() else ""

    def partners(self, ids: Ids, epochs: Ids) -> Ids:
        """The other sample that stands beside each; of a mixture one of the same source."""
        sources = np.searchsorted(self._bounds, ids, side="right") - 1
        found = np.empty_like(ids)
        for source in np.unique(sources).tolist():
            own, (first, end) = sources == source, self._first_of_source[source : source + 2]
            if self.among is None:  # by places in the source, as where it is alone
                found[own] = first + partner_ids(self._seed, epochs[own], ids[own] - first, end - first)
            else:
                among = self.among[first:end]
                found[own] = partner_ids(self._seed, epochs[own], ids[own], len(among), among)
        return found

    def rows(self, ids: Ids, epochs: Ids, *, partner: bool = False) -> Rows:
        """Of the table, those of each sample's files: what is shown together, one after another, images before masks.

        Args:
            ids: of the samples; where partners are asked for, of these.
            epochs: how often each had been seen before.
            partner: whether what partners show is asked for, or what the samples themselves show.
        """
        columns = [np.empty((len(ids), 0), np.int64)]
        for each in self.shown:
            if each.partner == partner:
                own = self._own_rows(each.clip, ids, epochs)
                columns += [self._first[kind] + own for kind in _kinds(each)]
        for each in self.members:
            if each.partner == partner:
                columns += [self._first[kind] + ids[:, None] for kind in _kinds(each)]
        return columns[1] if len(columns) == 2 else np.concatenate(columns, axis=1)

    def begins(self, clip: Clip, ids: Ids, epochs: Ids) -> Float64[np.ndarray, " b"]:
        """When in its video the first frame of each sample's clip is shown, seconds."""
        return self._numbers(clip, ids, epochs).min(1) / self._shards.clips["rate"][ids, 0].astype(np.float64)

    def _check_rates(self, spec: ViewSpec) -> None:
        for number, view in enumerate(spec.views):
            if isinstance(view, AudioView) and view.of is not None:
                rates = (
                    self._shards.clips["rate"][:, 0]
                    if self.among is None
                    else self._shards.clips["rate"][self.among, 0]
                )
                if unknown := int((rates == 0).sum()):
                    raise UserError(
                        f"views[{number}].of {view.of}: the frame rate of {unknown} of {len(rates)} videos of"
                        f" {self._shards.path} is unknown, and so is when their frames are heard; pack them with --rate"
                    )

    def _own_rows(self, clip: Clip | None, ids: Ids, epochs: Ids) -> Rows:
        if clip is None:
            return ids[:, None]
        first = self._shards.clips["first"][ids, clip.stream].astype(np.int64)
        return first[:, None] + self._numbers(clip, ids, epochs)

    def _numbers(self, clip: Clip, ids: Ids, epochs: Ids) -> Rows:
        """Of the frames of each sample's clip, in its video."""
        motion = self._motion if clip.by_motion else None
        return frame_numbers(clip, self._seed, epochs, ids, self._shards.clips["count"][ids, 0], motion)

    def _motion(self, sample: int) -> Float32[np.ndarray, " count"]:
        """That of the first stream, so that all streams show the same moments."""
        first, count, _ = self._shards.clips[sample, 0].item()
        return self._shards.motion[first : first + count]

    def _table(self, kind: Kind) -> np.ndarray | RowsById:
        if kind.member:
            table, places = self._shards.index.copy(), self._shards.member(kind.member)
            is_image = (places["size"] > 0) & (kind.member == DepthView.extension)
            for side in ("height", "width"):
                table[side] *= is_image
        else:
            if kind == Kind():
                return self._shards.table
            images = self._shards.frames if kind.clips else self._shards.index
            if not kind.masks:
                return images
            table, places = images.copy(), self._shards.frame_masks if kind.clips else self._shards.masks
        for name in ("offset", "size", "crc32"):
            table[name] = places[name]
        return table


def check_files(spec: ViewSpec, shards: ShardFolder, num_samples: int) -> None:
    """Whether the shards have the frames, streams, masks and members that views ask for; reads the manifest alone.

    Args:
        spec: the views.
        shards: where the samples are.
        num_samples: how many may be seen, each the partner of another.

    Raises:
        UserError: they do not, or another number says nothing in the masks than who reads them counts on.
    """
    frames = shards.manifest.frames
    for each in shown_together(spec):
        name, clip = f"views[{each.views[0]}]", each.clip
        if each.partner and num_samples < 2:
            raise _alone(name, shards)
        if clip is not None:
            if frames is None:
                _ = shards.frames  # says so
            elif clip.stream >= (count := len(frames.streams)):
                more = f"choose 0 to {count - 1}" if count > 1 else "choose 0, or a recipe of one camera"
                raise UserError(f"{name}.clip.stream {clip.stream}: {shards.path} has {count}; {more}")
            elif each.masks and not frames.masks_sha256:
                _ = shards.frame_masks
        elif each.masks and shards.manifest.masks is None:
            _ = shards.masks
    for each in members_shown(spec, shards):
        _check_member(f"views[{each.views[0]}]", each, shards, num_samples)
    masks = shards.manifest.masks
    for view in spec.views:
        asked = view.ignored if isinstance(view, MaskView) else None
        if masks is not None and asked not in (None, masks.ignored):
            raise UserError(
                f"shards {shards.path}: in their masks {masks.ignored} says nothing, and this method counts on {asked};"
                f" pack them with --mask-ignored {asked}, and give objects other numbers"
            )


def _alone(name: str, shards: ShardFolder) -> UserError:
    return UserError(
        f"shards {shards.path}: one sample has all that is asked for, and {name} shows another beside each; pack more"
    )


def _check_member(name: str, member: MemberShown, shards: ShardFolder, num_samples: int) -> None:
    if member.partner and num_samples < 2:
        raise _alone(name, shards)
    if (told := shards.manifest.members.get(member.extension)) is None:
        _ = shards.member(member.extension)  # says so
    elif not told.count:
        raise UserError(
            f"shards {shards.path}: not one .{member.extension} of theirs can be used; manifest.json says why"
        )


def _kinds(shown: Shown | MemberShown) -> list[Kind]:
    """The tables that its files stand in: of clips or images; images, then their masks; or of members."""
    if isinstance(shown, MemberShown):
        return [Kind(member=shown.extension)]
    return [Kind(shown.clip is not None, masks) for masks in ([False, True] if shown.masks else [False])]
