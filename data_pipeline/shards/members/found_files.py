"""The files of a source in packed columns: some 15 bytes for each, its name among them, where a tuple takes 600.

Sources append a ``FoundFile`` for each image that they find, and read them back one at a time; what is packed is an
``ItemTable`` over them: which rows, in which order, with which labels.
"""

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.footage import FrameSource
from eyespot.data_pipeline.shards.members.items import Item, Items
from eyespot.data_pipeline.shards.members.packed_columns import Names, Numbers, Texts
from eyespot.data_pipeline.shards.members.side_files import Beside, of_one_sound
from eyespot.data_pipeline.shards.members.skipped import Tally, printable

TEXT = "txt"
_BESIDE_ROOT, _NONE = -1, -1
"""In columns of paths: the root, a slash and the name; none."""
SORTED_AT_ONCE = 1 << 17


class FoundFile(NamedTuple):
    """One image file that was found."""

    name: str
    parts: tuple[str, ...]
    """Of the path that splits and classes are read off."""
    place: Place
    text: str | None = None
    """Of its label."""
    mask: Place | None = None
    split: str | None = None
    """Of the tar that it lies in."""
    frames: FrameSource | None = None
    """Where it is a sample of many; ``parts`` is then the path of the sample."""
    members: Beside = ()
    """What else belongs to it."""


class FoundFiles(Sequence[FoundFile]):
    """A list of ``FoundFile`` that takes little memory; it grows by ``append`` and ``extend``.

    Args:
        root: the folder whose files these are, where they are plain files; their paths are then not kept.
    """

    def __init__(self, root: str = "") -> None:
        self._root = f"{root}{os.sep}"
        self._names, self._starts = Names(), Numbers()  # where in the name its parts begin; -1: they are in _odd
        self._paths, self._listed_paths = dict[str, int](), list[str]()
        self._path, self._offset, self._size = Numbers(), Numbers(), Numbers()
        self._text, self._split = Texts(), Texts()
        self._captions: tuple[Numbers, ...] = ()  # path, offset, size of the .txt; once one file has one
        self._odd = dict[int, FoundFile]()

    def append(self, file: FoundFile) -> None:
        """One more."""
        row = len(self)
        captions = file.members[0][1] if len(file.members) == 1 and file.members[0][0] == TEXT else None
        if (start := _start(file)) < 0 or file.mask or file.frames or (file.members and captions is None):
            self._odd[row] = file
        if captions is not None and not self._captions:
            self._captions = _no_captions(row)
        if self._captions:
            place = (self._number(captions.path), *captions[1:]) if captions is not None else (_NONE, 0, 0)
            for column, value in zip(self._captions, place, strict=True):
                column.append(value)
        self._names.append(file.name.encode("utf-8", "surrogatepass"))  # bytes are ordered as the characters are
        self._starts.append(start)
        beside_root = file.place.path == self._root + file.name
        self._path.append(_BESIDE_ROOT if beside_root else self._number(file.place.path))
        self._offset.append(file.place.offset)
        self._size.append(file.place.size)
        self._text.append(file.text)
        self._split.append(file.split)

    def extend(self, files: Iterable[FoundFile]) -> None:
        """Some more."""
        for file in files:
            self.append(file)

    def join(self, other: "FoundFiles") -> None:
        """All of another one, of the same root, without a look at each."""
        assert other._root == self._root
        row, count = len(self), len(other)
        self._odd |= {row + each: file for each, file in other._odd.items()}
        for name in other._names:
            self._names.append(name)
        paths = np.array([*map(self._number, other._paths), _NONE], np.int64)
        pairs = [(self._starts, other._starts), (self._offset, other._offset), (self._size, other._size)]
        if other._captions and not self._captions:
            self._captions = _no_captions(row)
        if self._captions:
            pairs += zip(self._captions[1:], (captions := other._captions or _no_captions(count))[1:], strict=True)
            for block in captions[0].blocks():
                self._captions[0].extend(paths[block])
        for block in other._path.blocks():
            self._path.extend(paths[block])
        for ours, theirs in pairs:
            for block in theirs.blocks():
                ours.extend(block)
        self._text.join(other._text)
        self._split.join(other._split)

    @classmethod
    def of(cls, files: Iterable[FoundFile]) -> "FoundFiles":
        """All of them."""
        found = cls()
        found.extend(files)
        return found

    def column(self, name: str) -> "Column":
        """One field of all of them."""
        return Column(self, name)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, row: int) -> FoundFile: ...
    @overload
    def __getitem__(self, row: slice) -> list[FoundFile]: ...
    def __getitem__(self, row: int | slice) -> FoundFile | list[FoundFile]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(row)
        if row in self._odd:
            return self._odd[row]
        name = self.name(row)
        place, beside = self._place(row, name), self._beside(row)
        return FoundFile(name, self.parts(row), place, self.text(row), None, self.split(row), None, beside)

    def name(self, row: int) -> str:
        """Of one of them."""
        return self._names[row].decode("utf-8", "surrogatepass")

    def parts(self, row: int) -> tuple[str, ...]:
        """Of the path that splits and classes are read off."""
        return parts_of(self.name(row)[self._starts[row] :]) if row not in self._odd else self._odd[row].parts

    def text(self, row: int) -> str | None:
        """Of its label."""
        return self._text[row]

    def split(self, row: int) -> str | None:
        """Of the tar, or table, that it lies in."""
        return self._split[row]

    def item(self, row: int, label: int) -> Item:
        """As it is packed."""
        if (file := self._odd.get(row)) is not None:
            return Item(printable(file.name), label, *file.place, None, file.mask, file.frames, file.members)
        name = self.name(row)
        return Item(printable(name), label, *self._place(row, name), None, None, None, self._beside(row))

    @property
    def is_plain(self) -> bool:
        """Whether none has a mask, or frames, or beside it anything but captions."""
        return not any(file.mask or file.frames or file.members for file in self._odd.values())

    @property
    def num_clips(self) -> int:
        """Of how many there are frames."""
        return sum(file.frames is not None for file in self._odd.values())

    def order(self) -> np.ndarray:
        """(n,) their rows, sorted as ``sorted`` sorts them: by name, those of one name by where they lie."""
        found = np.empty(len(self), np.uint32 if len(self) < 2**32 else np.int64)
        count = -(-len(self) // SORTED_AT_ONCE)
        if count < 2:
            return self._sorted(np.arange(len(self)), found)
        # Names between two others, some at a time: all at once would fill the memory.
        known = sorted(self._names[row] for row in range(0, len(self), max(len(self) // (16 * count), 1)))
        bounds = known[16::16]
        which = np.fromiter((bisect_right(bounds, name) for name in self._names), np.uint32, len(self))
        end = 0
        for number in range(len(bounds) + 1):
            rows = np.flatnonzero(which == number)
            self._sorted(rows, found[end : end + len(rows)])
            end += len(rows)
        return found

    def _sorted(self, rows: np.ndarray, into: np.ndarray) -> np.ndarray:
        names = [self._names[row] for row in rows.tolist()]
        order = sorted(range(len(names)), key=names.__getitem__)
        into[:] = rows[order]
        first = 0
        for stop in range(1, len(order) + 1):
            if stop == len(order) or names[order[stop]] != names[order[first]]:
                if stop - first > 1:  # a tar may hold a name twice
                    into[first:stop] = sorted(into[first:stop].tolist(), key=lambda row: self[row][1:3])
                first = stop
        return into

    def _number(self, path: str) -> int:
        if (number := self._paths.get(path)) is None:
            number = self._paths[path] = len(self._paths)
            self._listed_paths.append(path)
        return number

    def _place(self, row: int, name: str) -> Place:
        number = self._path[row]
        path = self._root + name if number == _BESIDE_ROOT else self._listed_paths[number]
        return Place(path, self._offset[row], self._size[row])

    def _beside(self, row: int) -> Beside:
        if not self._captions or (number := self._captions[0][row]) == _NONE:
            return ()
        return ((TEXT, Place(self._listed_paths[number], self._captions[1][row], self._captions[2][row])),)


class Column(Sequence[Any]):
    """One field of many files, made when it is asked for: name, parts, text or split."""

    def __init__(self, files: FoundFiles, name: str) -> None:
        self._get, self._length = getattr(files, name), len(files)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: Any) -> Any:
        if not 0 <= row < self._length:
            raise IndexError(row)
        return self._get(row)


class ItemTable(Items):
    """Some of the files, in an order, as items.

    Args:
        files: the files.
        rows: (n,) which of them.
        labels: (n,) int32, of each; -1 = none.
    """

    def __init__(self, files: FoundFiles, rows: np.ndarray, labels: np.ndarray) -> None:
        self._files, self._rows, self._labels = files, rows, labels

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> "ItemTable": ...
    def __getitem__(self, row: int | slice) -> "Item | ItemTable":
        if isinstance(row, slice):
            return ItemTable(self._files, self._rows[row], self._labels[row])
        return self._files.item(int(self._rows[row]), int(self._labels[row]))

    def taken(self, rows: np.ndarray) -> "ItemTable":
        """Some of its rows, in another order."""
        return ItemTable(self._files, self._rows[rows], self._labels[rows])

    def with_labels(self, labels: np.ndarray) -> "ItemTable":
        """With others: (n,) int32; -1 = none."""
        return ItemTable(self._files, self._rows, labels)

    @property
    def labels(self) -> np.ndarray:
        """(n,) of the items."""
        return self._labels

    @property
    def is_plain(self) -> bool:
        """Whether each is one image without a mask."""
        return self._files.is_plain


def in_splits(
    files: FoundFiles, splits: Sequence[str | None], labels: np.ndarray, skipped: Tally
) -> dict[str, Sequence[Item]]:
    """The items of each split, sorted by name.

    Args:
        files: what was found.
        splits: of each; None = outside of those that there are.
        labels: (n,) int32, of each.
        skipped: counts what is in no split, and what cannot lie beside an image.
    """
    names = [split for split in dict.fromkeys(splits) if split is not None]
    number = {split: code for code, split in enumerate(names)}
    codes = np.fromiter((-1 if split is None else number[split] for split in splits), np.int16, len(files))
    order = files.order()
    codes = codes[order]
    for row in order[codes < 0]:
        skipped.add("outside the folders of the splits", files[int(row)].name)
    tables: dict[str, Sequence[Item]] = {}
    firsts = {split: int(np.argmax(codes == code)) for split, code in number.items()}
    for split in sorted(names, key=firsts.__getitem__):
        rows = order[codes == number[split]]
        table = ItemTable(files, rows, labels[rows])
        tables[split] = table if files.is_plain else of_one_sound(table, skipped)
    return tables


def parts_of(name: str) -> tuple[str, ...]:
    """A path split at its slashes; ``./`` and doubled slashes mean nothing."""
    return tuple(part for part in name.split("/") if part not in ("", "."))


def _start(file: FoundFile) -> int:
    """Where in a name the path begins that its parts are of; -1 = nowhere."""
    if parts_of(file.name) == file.parts:
        return 0
    start = len(file.name) - len("/".join(file.parts))
    return start if start >= 0 and parts_of(file.name[start:]) == file.parts else -1


def _no_captions(count: int) -> tuple[Numbers, ...]:
    columns = Numbers(), Numbers(), Numbers()
    for column, value in zip(columns, (_NONE, 0, 0), strict=True):
        column.extend(np.full(count, value))
    return columns
