"""Batches on their way: what was planned, read, and drawn for each, before anything is decoded."""

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from eyespot.data_pipeline.augment.crop_geometry import Geometry, view_geometry
from eyespot.data_pipeline.augment.pipeline import Alteration, view_alteration
from eyespot.data_pipeline.augment.views import ImageView, ViewSpec
from eyespot.data_pipeline.loading.mask_views import decoded_mask
from eyespot.data_pipeline.loading.reader import File, Reader, Reading
from eyespot.data_pipeline.loading.sample_files import MemberShown, Rows, SampleFiles, Shown
from eyespot.data_pipeline.shards.paged.paged_index import RowsById

Ids = Int64[np.ndarray, " b"]

Examine = Callable[[Sequence[File], Sequence[tuple[int, int]]], dict[int, str]]
"""Files, and heights and widths, in; which of them cannot be decoded, and why, out."""

READ_AHEAD = 3
"""Batches whose files are being read while earlier ones are decoded."""
READ_AHEAD_BYTES = 256_000_000
"""Of clips' files that are being read, at most, unless that is less than one batch."""


@dataclass(kw_only=True, slots=True)
class Part:
    """What the views that show the same frames are made of: one row per frame, those of a sample behind each other."""

    shown: Shown
    samples: Ids
    """(B,): whom they show."""
    rows: Rows
    """(B, images and masks) of the table of files."""
    files: list[File]
    masks: list[File]
    """Of each file; empty where there is none, and none at all where no view asks for them."""
    geometry: list[Geometry]
    """Of each view."""
    alterations: list[Alteration | None]
    """Of each view."""

    def undecodable(self, index: np.ndarray | RowsById, examine: Examine) -> Iterator[tuple[int, int, str]]:
        """Sample, row and what is wrong with it, of each file that cannot be decoded.

        Args:
            index: the table of files.
            examine: does so with images.
        """
        count = self.shown.num_frames
        images, masks = (rows.ravel().tolist() for rows in (self.rows[:, :count], self.rows[:, count:]))
        samples = np.repeat(self.samples, count).tolist()
        shown = index[np.array(images, np.int64)]
        heights, widths = (shown[name].tolist() for name in ("height", "width"))
        for place, reason in examine(self.files, list(zip(heights, widths, strict=True))).items():
            yield samples[place], images[place], reason
        for sample, row, file in zip(samples, masks, self.masks, strict=bool(masks)):
            try:
                _ = file and decoded_mask(file)
            except OSError as error:
                yield sample, row, f"its mask: {error}"


@dataclass(kw_only=True, slots=True)
class MemberPart:
    """What the views of one member of the samples are made of: one row per sample."""

    shown: MemberShown
    samples: Ids
    """(B,): whose they are."""
    rows: Ids
    """(B,) of the table of files."""
    files: list[File]


@dataclass(kw_only=True, slots=True)
class Job:
    """One batch on its way."""

    wanted: Ids
    epochs: Ids
    ids: Ids
    """What was read: ``wanted``, or what stands in for damaged samples."""
    bad: Int64[np.ndarray, " bad"]
    """Of ``wanted`` those for which, or for whose partners, others stand in."""
    labels: Ids
    parts: list[Part]
    members: list[MemberPart]
    sound: bool = False
    """Each of its files was decoded on its own, and nothing was found."""

    @property
    def geometry(self) -> list[Geometry]:
        """Of the views of all parts, in their order."""
        return [place for part in self.parts for place in part.geometry]

    @property
    def alterations(self) -> list[Alteration | None]:
        """Of the views of all parts, in their order."""
        return [alteration for part in self.parts for alteration in part.alterations]

    def arranged(self, views: ViewSpec, images: list[Tensor], beside: dict[int, Tensor]) -> list[Tensor]:
        """All views in the order of the view spec; clips with their frames in a dimension of their own.

        Args:
            views: the view spec.
            images: the views of all parts, in their order.
            beside: those that show no images, by number.
        """
        numbers = [number for part in self.parts for number in part.shown.views]
        found = dict(zip(numbers, images, strict=True)) | beside
        clips = [views.clip(number) for number in range(len(found))]
        return [
            found[number].unflatten(0, (len(self.ids), clip.frames)) if clip is not None else found[number]
            for number, clip in enumerate(clips)
        ]


class Jobs:
    """Reads the files of planned batches ahead of the need."""

    def __init__(
        self,
        reader: Reader,
        files: SampleFiles,
        views: ViewSpec,
        seed: int,
        labeled: Ids | None,
    ):
        self._reader, self._files, self._views, self._seed, self._labeled = reader, files, views, seed, labeled

    def ahead(self, plan: Iterable[tuple[Ids, Ids]]) -> Iterator[Job]:
        """The jobs of a plan's ids and epochs, in order."""
        reading: deque[tuple[Ids, Ids, Reading, Reading | None]] = deque()
        for wanted, epochs in plan:
            reading.append((wanted, epochs, *self._start(wanted, epochs)))
            if len(reading) > self._most_ahead(len(wanted)):
                yield self._job(*reading.popleft())
        while reading:
            yield self._job(*reading.popleft())

    def again(self, job: Job) -> Job:
        """The same batch, read anew."""
        return self._job(job.wanted, job.epochs, *self._start(job.wanted, job.epochs))

    def _most_ahead(self, num_samples: int) -> int:
        if self._views.num_frames == 1:
            return READ_AHEAD
        return int(max(1, min(READ_AHEAD, READ_AHEAD_BYTES // (num_samples * self._files.sample_bytes))))

    def _start(self, wanted: Ids, epochs: Ids) -> tuple[Reading, Reading | None]:
        """Begins to read the samples' files, and those of their partners."""
        own = self._reader.start(wanted, epochs, self._files.rows)
        return own, self._start_partners(wanted, epochs) if self._files.has_partners else None

    def _start_partners(self, ids: Ids, epochs: Ids) -> Reading:
        partners = self._files.partners(ids, epochs)
        return self._reader.start(partners, epochs, self._partner_rows, other_than=ids)

    def _partner_rows(self, ids: Ids, epochs: Ids) -> Rows:
        return self._files.rows(ids, epochs, partner=True)

    def _job(self, wanted: Ids, epochs: Ids, own: Reading, beside: Reading | None) -> Job:
        ids, files = own.result()
        bad = ids != wanted
        if beside is None:
            beside, partners, partner_files = own, ids, []
        else:
            if bad.any():  # whoever stands in has another partner
                beside = self._start_partners(ids, epochs)
            partners, partner_files = beside.result()
            bad |= partners != self._files.partners(ids, epochs)
        labels = self._reader.shards.rows(ids)["label"].astype(np.int64)
        if self._labeled is not None:
            places = np.minimum(np.searchsorted(self._labeled, ids), len(self._labeled) - 1)
            labels[self._labeled[places] != ids] = -1
        parts: list[Part] = []
        members: list[MemberPart] = []
        begin = [0, 0]
        for shown in (*self._files.shown, *self._files.members):
            samples, rows, read = (partners, beside.rows, partner_files) if shown.partner else (ids, own.rows, files)
            columns = slice(begin[shown.partner], begin[shown.partner] + shown.num_files)
            begin[shown.partner] = columns.stop
            its_rows, found = rows[:, columns], _columns(read, len(ids), columns)
            if isinstance(shown, Shown):
                parts.append(self._part(shown, samples, epochs, its_rows, found))
            else:
                flat = [file for (file,) in found]
                members.append(MemberPart(shown=shown, samples=samples, rows=its_rows[:, 0], files=flat))
        bad = wanted[bad]
        return Job(wanted=wanted, epochs=epochs, ids=ids, bad=bad, labels=labels, parts=parts, members=members)

    def _part(self, shown: Shown, samples: Ids, epochs: Ids, rows: Rows, files: list[list[File]]) -> Part:
        sizes = self._reader.shards.rows(samples)
        image_sizes = np.stack([sizes["height"], sizes["width"]], axis=1).astype(np.int32)
        geometry: list[Geometry] = []
        alterations: list[Alteration | None] = []
        for number in shown.views:
            view, name = self._views.views[number], f"view{number}"
            assert isinstance(view, ImageView)
            geometry.append(view_geometry(view, name, self._seed, epochs, samples, image_sizes))
            alterations.append(view_alteration(view, name, self._seed, epochs, samples))
        if shown.clip is not None:  # all frames of a sample are cut and altered alike
            every = np.repeat(np.arange(len(samples)), shown.num_frames)
            geometry = [place.rows(every) for place in geometry]
            alterations = [alteration and alteration.rows(every) for alteration in alterations]
        count = shown.num_frames
        return Part(
            shown=shown,
            samples=samples,
            rows=rows,
            files=[file for each in files for file in each[:count]],
            masks=[file for each in files for file in each[count:]],
            geometry=geometry,
            alterations=alterations,
        )


def _columns(files: list[File], count: int, columns: slice) -> list[list[File]]:
    """Of each sample's files, which lie behind each other, some."""
    each = len(files) // count
    return [files[row * each : (row + 1) * each][columns] for row in range(count)]


def checksum_of_labeled(labeled: Ids, num_samples: int, checksum: int = 0) -> int:
    """crc32 of a byte for each sample, whether its label is shown; computed of a million samples at a time.

    Args:
        labeled: the samples whose label is shown, ascending.
        num_samples: of the shards.
        checksum: of what stands before.
    """
    for begin in range(0, num_samples, 2**20):
        shown = np.zeros(min(2**20, num_samples - begin), np.uint8)
        first, end = np.searchsorted(labeled, [begin, begin + len(shown)])
        shown[labeled[first:end] - begin] = 1
        checksum = zlib.crc32(shown.tobytes(), checksum)
    return checksum
