"""Where the frames of one sample come from: files of their own, or whatever else makes them when they are packed.

``items.Item.frames`` is a ``FrameSource``: it can be pickled (a worker process reads it) and gives the same bytes
each time. A video, say, is a subclass that keeps the name of its file and decodes it in ``read``.

``Footage`` is what it then gives, and is one itself, of what already lies in memory:

    film = Footage(rate=8.0, frames={"": [jpeg, jpeg, ...]})
    Item("digit 7/0012", label, "", 0, 0, frames=film)

Frames are image files of any kind that images may be; they are examined, shrunk and rewritten as images are. They are
asked for one after another, so a decoder need not hold a whole video: ``frames`` may hold generators, which may raise
BadImage half-way. An ``items.Source`` lists such items; ``pack.pack`` takes a function that returns it:

    pack(lambda spool: Source(name="films", splits={"train": items}, classes=["0", "1"]), destination)
"""

import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import BadImage
from eyespot.data_pipeline.shards.members.archives import Place


class FrameSource(ABC):
    """What the frames of one sample are read from; see the top of this file."""

    @property
    @abstractmethod
    def streams(self) -> tuple[str, ...]:
        """The names of its cameras, sorted; ("",) = there is one."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes, about: how much work it is."""

    @property
    @abstractmethod
    def plan(self) -> str:
        """Changes when the frames would: by it packing goes on, or begins anew."""

    @property
    def has_masks(self) -> bool:
        """Whether frames may have one."""
        return False

    @property
    def places(self) -> Sequence[Place]:
        """Where the frames lie, stream after stream, if all are files by themselves: to be copied, none is held."""
        return ()

    @abstractmethod
    def read(self) -> "Footage":
        """Opens it.

        Raises:
            BadImage: it cannot be used; why, in one line.
            OSError: it cannot be read.
        """


@dataclass(kw_only=True, slots=True)
class Footage(FrameSource):
    """The frames of one sample, or how to get them one after another."""

    rate: float
    """Frames per second; 0 = unknown."""
    frames: Mapping[str, Iterable[bytes]]
    """Image files in the order of time, by camera; the only one is called ""."""
    masks: Mapping[str, Iterable[bytes | None]] = field(default_factory=dict)
    """By camera, one for each frame; None = that frame has none."""
    sound: tuple[str, bytes] | None = None
    """Suffix and bytes of the file, as ("flac", b"...")."""

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of its cameras."""
        return tuple(sorted(self.frames))

    @property
    def size(self) -> int:
        """Bytes of the frames, where they lie in memory."""
        return sum(len(frame) for frames in self.frames.values() for frame in frames)

    @property
    def plan(self) -> str:
        """Checksums of the frames, where they lie in memory."""
        checksums = {stream: [zlib.crc32(frame) for frame in frames] for stream, frames in sorted(self.frames.items())}
        return f"{checksums} {self.rate}"

    @property
    def has_masks(self) -> bool:
        """Whether frames may have one."""
        return bool(self.masks)

    def read(self) -> "Footage":
        """Itself."""
        return self


class FrameFile(NamedTuple):
    """One frame of files."""

    name: str
    """Its path inside the source."""
    place: Place
    mask: Place | None = None
    """Of its mask; a size below 0 = there is no such file."""


@dataclass(kw_only=True, slots=True)
class FrameFiles(FrameSource):
    """Frames that are files of their own, or members of a tar."""

    files: dict[str, list[FrameFile]]
    """In the order of time, by camera, sorted."""
    rate: float = 0.0
    sound: tuple[str, Place] | None = None

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of its cameras."""
        return tuple(sorted(self.files))

    @property
    def size(self) -> int:
        """Bytes of all frames, and of the sound."""
        return sum(place.size for place in self.places) + (self.sound[1].size if self.sound else 0)

    @property
    def places(self) -> Sequence[Place]:
        """Of all frames."""
        return [file.place for stream in self.streams for file in self.files[stream]]

    @property
    def plan(self) -> str:
        """Names and sizes."""
        files = [
            (file.name, file.place.size, file.mask and file.mask.size)
            for files in self.files.values()
            for file in files
        ]
        return f"{self.streams} {self.rate} {files} {self.sound and self.sound[1].size}"

    def read(self) -> Footage:
        """Reads each file when it is asked for."""
        return Footage(
            rate=self.rate,
            frames={stream: map(_read, files) for stream, files in self.files.items()},
            masks={stream: map(_read_mask, files) for stream, files in self.files.items()} if self.has_masks else {},
            sound=self.sound and (self.sound[0], self.sound[1].read()),
        )

    def with_masks(self, folder: Path) -> "FrameFiles":
        """The same with the mask of each frame: the PNG of the same path and name in ``folder``, there or not."""
        return FrameFiles(
            files={stream: list(_masked(files, folder)) for stream, files in self.files.items()},
            rate=self.rate,
            sound=self.sound,
        )

    @property
    def has_masks(self) -> bool:
        """Whether frames may have one."""
        return any(file.mask for files in self.files.values() for file in files)


@dataclass(frozen=True, slots=True)
class Refused(FrameSource):
    """In place of frames of which it is known beforehand that they cannot be used."""

    reason: str

    @property
    def streams(self) -> tuple[str, ...]:
        """Unknown."""
        return ()

    @property
    def size(self) -> int:
        """Nothing is read."""
        return 0

    @property
    def plan(self) -> str:
        """Why."""
        return self.reason

    def read(self) -> Footage:
        """Raises BadImage."""
        raise BadImage(self.reason)


def of_same_streams(splits: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Items of items.py, where those of other streams than most have are refused: one table serves all samples.

    Raises:
        UserError: some are images and others have frames.
    """
    if all(getattr(items, "is_plain", False) for items in splits.values()):  # of a million images: no look at each
        return dict(splits)
    frames = (item.frames for items in splits.values() for item in items)
    found = Counter(one and one.streams for one in frames if not isinstance(one, Refused))
    if len(found) < 2:
        return dict(splits)
    if None in found:
        raise UserError("source: holds single images beside samples of many frames; pack each kind by itself")
    ours = min(found, key=lambda streams: (-found[streams], streams))
    return {split: [_refused_if_odd(item, ours) for item in items] for split, items in splits.items()}


def _refused_if_odd(item: Any, ours: tuple[str, ...]) -> Any:
    if isinstance(item.frames, Refused) or item.frames.streams == ours:
        return item
    theirs, others = (", ".join(name or "one" for name in names) for names in (item.frames.streams, ours))
    return item._replace(frames=Refused(f"its cameras are {theirs}, and most samples have {others}"))


def _masked(files: list[FrameFile], folder: Path) -> Iterator[FrameFile]:
    for file in files:
        yield file._replace(mask=mask_beside(file.name, folder))


def mask_beside(name: str, folder: Path) -> Place:
    """Where the mask of an image of that name lies in a folder of masks, there or not."""
    path = folder / f"{name.rpartition('.')[0] or name}.png"
    return Place(str(path), 0, path.stat().st_size if path.is_file() else -1)


def _read(file: FrameFile) -> bytes:
    try:
        return file.place.read()
    except OSError as error:
        raise BadImage(f"{file.name}: unreadable: {error.strerror}") from error


def _read_mask(file: FrameFile) -> bytes | None:
    return file.mask.read() if file.mask and file.mask.size >= 0 else None
