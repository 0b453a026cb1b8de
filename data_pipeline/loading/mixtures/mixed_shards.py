"""MixedShards: the shard folders of several sources as one, in which each keeps its samples, tars and classes apart.

A sample's id is that in its own source plus the samples of the sources before it; tars and labels are counted alike.
Class ``a/cat`` is another than ``b/cat``: whether two people mean the same by a word, the shards do not say.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.cap import places_of_cap
from eyespot.data_pipeline.loading.mixtures.mix import Mix, is_mix, read_mix
from eyespot.data_pipeline.loading.mixtures.mixed_manifest import digest, frames_differ, masks_differ, mixed_manifest
from eyespot.data_pipeline.loading.mixtures.mixed_store import MixedStore
from eyespot.data_pipeline.loading.mixtures.mixed_table import MixedTable
from eyespot.data_pipeline.loading.mixtures.schedule import turns_of
from eyespot.data_pipeline.loading.mixtures.source_bounds import is_paged
from eyespot.data_pipeline.patience import PATIENCE_SECONDS
from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE, Manifest
from eyespot.data_pipeline.shards.paged.paged_index import RowsById
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.stores.location import Location, is_address
from eyespot.data_pipeline.terminal import plural

log = logging.getLogger("eyespot")

Ids = Int64[np.ndarray, " _"]


def find_shards(
    place: Location | str,
    *splits: str,
    hashes: bool = True,
    patience_seconds: float = PATIENCE_SECONDS,
    versions: Sequence[str] = (),
) -> ShardFolder:
    """``ShardFolder.find``; of a mixture, what that finds of each source, as one folder.

    Args:
        place: as for ``ShardFolder.find``, or a mixture.
        splits: as there.
        hashes: as there.
        patience_seconds: as there.
        versions: sha256 of the manifest wanted, of a mixture that of each source; of another number of sources = none.

    Raises:
        UserError: as that; or the mixture cannot be understood, or has one folder twice.
        Outage: as that.
    """
    if "\0" in (text := str(place)):
        raise UserError(f"data.shards {text[:80]!r}: has a NUL byte in it; name a folder, an address or a mixture")
    if not is_mix(text):
        version = versions[0] if len(versions) == 1 else None
        return ShardFolder.find(place, *splits, hashes=hashes, patience_seconds=patience_seconds, version=version)
    mix, found = read_mix(text), list[ShardFolder]()
    wanted = versions if len(versions) == len(mix.sources) else [None] * len(mix.sources)
    for source, version in zip(mix.sources, wanted, strict=True):
        if is_mix(source.shards) and not (is_address(source.shards) and not source.shards.endswith(".toml")):
            raise UserError(f"data.shards {text}: {source.name} is a mixture itself; name its sources in this one")
        how = {"hashes": hashes, "patience_seconds": patience_seconds, "version": version}
        found.append(ShardFolder.find(source.shards, *splits, **how))
    where = [shards.path.resolve() if isinstance(shards.path, Path) else shards.path for shards in found]
    for number, path in enumerate(where):
        if (first := where.index(path)) < number:
            raise UserError(
                f"data.shards {text}: {mix.sources[first].name} and {mix.sources[number].name} are the same folder,"
                f" {path}; name it once, with the sum of the weights"
            )
    return MixedShards(mix, found)


class MixedShards(ShardFolder):
    """What is known of the shard folders of a mixture, as of one.

    Args:
        mix: what was asked for.
        sources: the folder of each.
        split: which split they are, where they are held out; empty = what is learned from.
        classes: of all sources, and of which the first label of each stands; None = as the sources list them.

    Raises:
        UserError: there are more samples than ids, or one source would never come.
    """

    mix: Mix
    names: tuple[str, ...]

    def __init__(
        self,
        mix: Mix,
        sources: Sequence[ShardFolder],
        *,
        split: str = "",
        classes: tuple[list[str], list[int]] | None = None,
    ) -> None:
        self.mix, self._sources, self.names = mix, tuple(sources), tuple(source.name for source in mix.sources)
        self.named = Path(mix.text)
        self.path = Path(f"{mix.text} ({split})") if split else self.named
        self.store = MixedStore(self.path, [source.store for source in sources])
        parts = [source.manifest for source in sources]
        self.bounds = np.cumsum([0, *(part.num_samples for part in parts)])
        self._first_tar = np.cumsum([0, *(len(part.shards) for part in parts)])
        self._all_classes, self._first_label = classes or _apart(self.names, parts)
        if not split:
            self.turns(self._most())  # refuses what could not be learned from
        weights = self._weights(self._most())
        self.shares = [float(weight / sum(weights)) for weight in weights]
        """Of each source in the stream, where all of its samples, up to its cap, are learned from."""
        self.manifest = mixed_manifest(mix.text, self.names, parts, self._all_classes, self.shares)
        asked = [[str(source.weight), str(source.repeats), source.cap] for source in mix.sources]
        self.manifest_sha256 = digest(self.names, [source.manifest_sha256 for source in sources], asked)
        self._held_out: dict[str, ShardFolder | None] = {}
        self._member_tables: dict[str, np.ndarray] = {}

    @property
    def sources(self) -> Sequence[ShardFolder]:
        """The folder of each source."""
        return self._sources

    def turns(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """How often each source comes in one period of the stream.

        Args:
            sizes: samples of each that are learned from.

        Raises:
            UserError: one would come less than once.
        """
        return turns_of(self._weights(sizes), [f"data.shards {self.mix.text}: {name}" for name in self.names])

    def _weights(self, sizes: Sequence[int]) -> list[Fraction]:
        return [
            source.weight if source.weight is not None else (source.repeats or Fraction(1)) * size
            for source, size in zip(self.mix.sources, sizes, strict=True)
        ]

    def chosen(self, ids: Ids | None) -> Ids | None:
        """The samples that are learned from, source after source, of each at most its cap; None = all.

        Args:
            ids: those that may be, in their order; None = all.

        Raises:
            UserError: a source has none of them.
        """
        if ids is None and all(source.cap is None for source in self.mix.sources):
            return None
        found: list[Ids] = []
        for source, first, end in zip(
            self.mix.sources, self.bounds[:-1].tolist(), self.bounds[1:].tolist(), strict=True
        ):
            if ids is None:
                found.append(first + places_of_cap(end - first, source.cap))
                continue
            own = ids[(ids >= first) & (ids < end)]
            if not len(own):
                raise UserError(
                    f"data.ids: name no sample of {source.name}, whose ids in the mixture are {first} to {end - 1};"
                    " name some, or leave the source out"
                )
            found.append(own[places_of_cap(len(own), source.cap)])
        return np.concatenate(found)

    def in_words(self, chosen: Ids | None) -> str:
        """The share of each source, as the stream will have it, and how many samples it is of.

        Args:
            chosen: what is learned from, as ``chosen`` orders it; None = all.
        """
        sizes = (np.diff(self.bounds) if chosen is None else self.per_source(chosen)).tolist()
        turns = self.turns(sizes)
        of = zip(self.names, turns, sizes, strict=True)
        told = [f"{name} {100 * turn / sum(turns):.6g} % ({plural(size, 'sample')})" for name, turn, size in of]
        return f"mixture: {', '.join(told)}"

    def record(self) -> list[dict[str, str | float | int]]:
        """What there is to say of each source, for the record of a run."""
        return [
            {
                "name": asked.name,
                "shards": str(shards.path),
                "manifest_sha256": shards.manifest_sha256,
                **({"weight": str(asked.weight)} if asked.weight is not None else {"repeats": str(asked.repeats)}),
                **({"cap": asked.cap} if asked.cap is not None else {}),
                "share": round(share, 9),
            }
            for asked, shards, share in zip(self.mix.sources, self.sources, self.shares, strict=True)
        ]

    def apart(self, chosen: Ids | None) -> list[tuple[ShardFolder, Ids | None]]:
        """Each source, and which of its samples are among the chosen, by its own ids; None = all."""
        if chosen is None:
            return [(source, None) for source in self.sources]
        numbers, first = self.source_numbers(chosen), self.bounds.tolist()
        return [(source, chosen[numbers == place] - first[place]) for place, source in enumerate(self.sources)]

    def per_source(self, samples: Ids) -> Ids:
        """(sources,) how many of the samples are each source's."""
        return np.bincount(self.source_numbers(samples), minlength=len(self.sources))

    def source_numbers(self, samples: Ids) -> Ids:
        """Whose each sample is."""
        return np.searchsorted(self.bounds, samples, side="right") - 1

    def is_named(self, text: str | Path | None) -> bool:
        """Whether that is what the user called it."""
        return str(text) == self.mix.text

    @property
    def is_split(self) -> bool:
        """Whether a source was found as one split of the data set that the user named."""
        return any(source.is_split for source in self.sources)

    def split(self, name: str) -> ShardFolder | None:
        """That split of each source that has it, as one folder; None where none has.

        Raises:
            UserError: a manifest is wrong, or a split has other classes than its source.
        """
        if name not in self._held_out:
            found = [source.split(name) for source in self.sources]
            lacking = [of for of, split in zip(self.names, found, strict=True) if split is None]
            if 0 < len(lacking) < len(found):
                of = " and ".join(lacking)
                log.warning("data.shards %s: %s: no split %s; it is that of the others", self.mix.text, of, name)
            self._held_out[name] = self._split(name, found) if len(lacking) < len(found) else None
        return self._held_out[name]

    def _split(self, name: str, found: Sequence[ShardFolder | None]) -> "MixedShards":
        """Of those that are there, in which labels mean the same as here."""
        sources, splits, first_label = [], list[ShardFolder](), list[int]()
        for number, split in enumerate(found):
            if split is None:
                continue
            known, own = split.manifest.classes, self.sources[number].manifest.classes
            if known != own[: len(known)]:
                raise UserError(
                    f"data.shards {self.mix.text}: {name} of {self.names[number]} has other classes than what is"
                    " learned from; pack both from one source"
                )
            sources.append(replace(self.mix.sources[number], weight=None, repeats=Fraction(1), cap=None))
            splits.append(split)
            first_label.append(self._first_label[number])
        mix, classes = replace(self.mix, sources=tuple(sources)), (self._all_classes, first_label)
        return MixedShards(mix, splits, split=name, classes=classes)

    @cached_property
    def index(self) -> np.ndarray:
        """Row = sample id: (num_samples,) of INDEX_DTYPE, read-only.

        Raises:
            UserError: that of a source is missing or wrong. So with all other tables; and a source may lack them.
        """
        rows = np.empty(self.manifest.num_samples, INDEX_DTYPE)
        for number, source in enumerate(self.sources):
            rows[self.bounds[number] : self.bounds[number + 1]] = source.index
            vars(source).pop("index", None)  # else all of it would be held twice
        return self._apart(rows, np.diff(self.bounds))

    @cached_property
    def table(self) -> np.ndarray | RowsById:
        """The index; or what asks the sources for rows, where the index of one is in pieces."""
        return self._by_source if is_paged(self) else self.index

    def row_parts(self) -> Iterator[np.ndarray]:
        """The rows of all samples in order, some at a time."""
        return self._by_source.parts() if is_paged(self) else iter([self.index])

    @property
    def _by_source(self) -> MixedTable:
        return MixedTable(self.sources, self.bounds, self._first_tar.tolist(), self._first_label)

    @cached_property
    def masks(self) -> np.ndarray:
        """Row = sample id: (num_samples,) of MASK_DTYPE, read-only."""
        self._refuse_if(masks_differ(self.names, self._manifests))
        return self._joined(lambda source: source.masks)

    def member(self, extension: str) -> np.ndarray:
        """Of each sample's member of that extension: (num_samples,) of MASK_DTYPE, read-only; size 0 = it has none."""
        if extension not in self._member_tables:
            for name, part in zip(self.names, self._manifests, strict=True):
                lacks = f"source {name} has no .{extension} beside its images; leave it out, or pack them with theirs"
                self._refuse_if(lacks * (extension not in part.members))
            self._member_tables[extension] = self._joined(lambda source: source.member(extension))
        return self._member_tables[extension]

    @cached_property
    def frames(self) -> np.ndarray:
        """Sample after sample, each stream in the order of time: (num_frames,) of INDEX_DTYPE, read-only."""
        self._refuse_if(frames_differ(self.names, self._manifests))
        return self._apart(np.concatenate([source.frames for source in self.sources]), self._frame_counts())

    @cached_property
    def clips(self) -> np.ndarray:
        """Row = sample id, column = stream: (num_samples, num_streams) of CLIP_DTYPE, read-only."""
        self._refuse_if(frames_differ(self.names, self._manifests))
        clips, counts = np.concatenate([source.clips for source in self.sources]), self._frame_counts()
        clips["first"] += np.repeat(np.cumsum(counts) - counts, np.diff(self.bounds)).astype(np.uint64)[:, None]
        return _read_only(clips)

    @cached_property
    def motion(self) -> np.ndarray:
        """From each frame to the next of its stream, levels 0..255; 0 at the last: (num_frames,) float32, read-only."""
        self._refuse_if(frames_differ(self.names, self._manifests))
        return self._joined(lambda source: source.motion)

    @cached_property
    def frame_masks(self) -> np.ndarray:
        """Of each frame: (num_frames,) of MASK_DTYPE, read-only."""
        self._refuse_if(frames_differ(self.names, self._manifests))
        return self._joined(lambda source: source.frame_masks)

    @property
    def _manifests(self) -> list[Manifest]:
        return [source.manifest for source in self.sources]

    def _most(self) -> list[int]:
        """The samples of each source that its cap leaves."""
        of = zip(self.mix.sources, self._manifests, strict=True)
        return [min(source.cap or part.num_samples, part.num_samples) for source, part in of]

    def _frame_counts(self) -> Ids:
        return np.array([part.frames.num_frames for part in self._manifests if part.frames is not None])

    def _joined(self, table: Callable[[ShardFolder], np.ndarray]) -> np.ndarray:
        return _read_only(np.concatenate([table(source) for source in self.sources]))

    def _apart(self, rows: np.ndarray, counts: Ids) -> np.ndarray:
        """Rows of INDEX_DTYPE, so many of each source, with its tars and labels behind those of the sources before."""
        begin = 0
        for number, count in enumerate(counts.tolist()):
            own = rows[begin : begin + count]
            own["tar"] += np.uint32(self._first_tar[number])
            own["label"] += np.int32(self._first_label[number]) * (own["label"] >= 0)
            begin += count
        return _read_only(rows)

    def _refuse_if(self, why: str) -> None:
        if why:
            raise UserError(f"data.shards {self.mix.text}: {why}")

    def tar_source(self, number: int) -> tuple[ShardFolder, int]:
        """The folder in which a tar lies, and what that calls it."""
        source = int(np.searchsorted(self._first_tar, number, side="right")) - 1
        return self.sources[source].tar_source(number - int(self._first_tar[source]))

    def tar_path(self, number: int) -> Location:
        """The tar that the index calls ``number``, for people; to read it: ``read_tar``."""
        source, own = self.tar_source(number)
        return source.tar_path(own)

    def tar_key(self, number: int) -> str:
        """Of the tar that the index calls ``number``, in ``store``."""
        place = int(np.searchsorted(self._first_tar, number, side="right")) - 1
        return f"{place}/{self.sources[place].tar_key(number - int(self._first_tar[place]))}"

    def tar_bytes(self, number: int) -> int | None:
        """Of a tar whose size is to be looked at when it is opened; None = ``check_tars`` has looked at it."""
        source, own = self.tar_source(number)
        return source.tar_bytes(own)

    def read_tar(self, number: int, offset: int, size: int) -> bytes:
        """So many bytes of a tar, unchecked; raises as that of its source."""
        source, own = self.tar_source(number)
        return source.read_tar(own, offset, size)

    def check_tars(self) -> None:
        """Whether every tar of every source is there and has the size that its manifest says.

        Raises:
            UserError: one is missing or has another size.
        """
        for source in self.sources:
            source.check_tars()


def _read_only(rows: np.ndarray) -> np.ndarray:
    rows.flags.writeable = False
    return rows


def _apart(names: Sequence[str], parts: Sequence[Manifest]) -> tuple[list[str], list[int]]:
    """All classes, each with its source's name, and the place of the first of each source."""
    named = [[f"{name}/{known}" for known in part.classes] for name, part in zip(names, parts, strict=True)]
    return list(chain(*named)), np.cumsum([0, *map(len, named)])[:-1].tolist()
