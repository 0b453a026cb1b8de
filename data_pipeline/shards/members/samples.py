"""What the members of tars mean: which make one sample, which of them is its image, what its label is.

A sample is the members of a tar that share a key: the name up to the first dot of its last part (WebDataset's rule).
Its image is the one member with an image's suffix, its mask the ``.seg.png`` member, its label the text of the ``.cls``
member; where there are none of these, folders are the classes. Where a tar can be read in two ways nothing is guessed:
the error names the flag that decides. Each member that becomes no part of a sample is counted, with the reason.
"""

import heapq
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.bands.band_files import SUFFIXES as BAND_SUFFIXES
from eyespot.data_pipeline.shards.frames import FASTEST
from eyespot.data_pipeline.shards.image_check import SUFFIXES
from eyespot.data_pipeline.shards.manifest import MASK_EXTENSION, Reading
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.depth_maps import EXTENSION as DEPTH
from eyespot.data_pipeline.shards.members.footage import FrameSource
from eyespot.data_pipeline.shards.members.found_files import parts_of
from eyespot.data_pipeline.shards.members.frame_names import (
    NamedFrames,
    are_frames,
    dotted,
    frame_source,
    frames_of,
    is_frame,
)
from eyespot.data_pipeline.shards.members.packed_columns import alike
from eyespot.data_pipeline.shards.members.side_files import EXTENSIONS, Beside
from eyespot.data_pipeline.shards.members.skipped import Tally, hidden, no_image, printable
from eyespot.data_pipeline.shards.members.tar_members import Member, reading_from

LONGEST_LABEL = 1024
"""Bytes of a .cls member; a longer one is no label."""
NOTES = "json"
"""What follows the key in the name of the member that may say the rate of the frames."""
LONGEST_NOTES = 1 << 20
"""Bytes of it."""
_PLAIN = Reading()
_LAST_DOT = "--key last-dot, where the dots belong to the names"


class Sample(NamedTuple):
    """Members of one key. Those without an image are no samples, but still stand in DALI's .idx."""

    name: str
    """Of its image; differs from that of any other sample of the tar."""
    image: Member | None
    label: Member | None
    mask: Member | None
    members: list[tuple[str, Member]]
    """All of them, with what follows the key in their names."""
    path: tuple[str, ...] = ()
    """That its class is read off, split at its slashes."""
    frames: NamedFrames | None = None
    """Where it has many; ``image`` is then the first."""
    rate: float = 0.0
    """Of the frames, where a .json member says it."""
    beside: tuple[tuple[str, Member], ...] = ()
    """What else belongs to it, sorted by extension (side_files.py)."""

    def members_in(self, tar: str) -> Beside:
        """Where that lies."""
        return tuple((extension, Place(tar, member.offset, member.size)) for extension, member in self.beside)

    def footage(self, tar: str, reading: Reading) -> FrameSource | None:
        """Its frames, which lie in that tar; None = it is an image."""
        if self.frames is None:
            return None
        members = {
            extension.lower(): (member.name, Place(tar, member.offset, member.size))
            for extension, member in self.members
        }
        return frame_source(self.frames, members, self.rate if reading.rate is None else reading.rate)


@dataclass(slots=True)
class _Run:
    """Members of one key, none of its extensions twice."""

    key: str
    first: int
    """Place of the first one among all members."""
    last: int
    members: dict[str, tuple[str, Member]] = field(default_factory=dict)
    """By extension in small letters."""

    @property
    def is_whole(self) -> bool:
        """No member of another sample stands between them."""
        return self.last - self.first == len(self.members) - 1


def group(tar: Path, files: Sequence[Member], reading: Reading, skipped: Tally) -> Iterator[Sample]:
    """The samples of one tar, in the order of their first members; 40 bytes of each member are held, whatever it holds.

    Args:
        tar: where the members are, for messages.
        files: its plain files.
        reading: how to understand them.
        skipped: counts those members that no sample uses.

    Raises:
        UserError: it can be understood in several ways.
    """
    rows, hashes = array("q"), array("q")
    for row, key in _kept(tar, files, reading, skipped):
        rows.append(row)
        hashes.append(hash(key))
    later: list[tuple[int, bool, _Run]] = []  # of keys that repeat; by their first members, of which no two are one
    for places in alike(hashes):
        for waiting in _runs(tar, ((place, files[rows[place]]) for place in places), reading):
            heapq.heappush(later, waiting)
        while later and later[0][0] <= places[0]:
            _, is_repeated, run = heapq.heappop(later)
            yield _sample(tar, run, reading, skipped, is_repeated=is_repeated)
    for _, is_repeated, run in sorted(later):
        yield _sample(tar, run, reading, skipped, is_repeated=is_repeated)


def _runs(tar: Path, members: Iterable[tuple[int, Member]], reading: Reading) -> Iterator[tuple[int, bool, _Run]]:
    """Those that members make whose keys have one hash: each with its first place, and whether its key repeats."""
    by_key: dict[str, list[_Run]] = {}
    for place, member in members:
        key, extension = split_name(parts_of(member.name) or ("",), reading)
        same = by_key.setdefault(key, [])
        if not same or extension.lower() in same[-1].members:
            same.append(_Run(key, place, place))
        same[-1].members[extension.lower()] = extension, member
        same[-1].last = place
    for same in by_key.values():
        if len(same) > 1:
            _check_repeated(tar, same)
        yield from ((run.first, len(same) > 1, run) for run in same)


def samples_of(
    path: Path, shown: Path, files: Sequence[Member], reading: Reading, skipped: Tally
) -> Iterator[tuple[Sample, str | None]]:
    """The samples among the members of a plain tar, each with the text of its label; None = it has none.

    Args:
        path: of the tar.
        shown: what to call it.
        files: its plain files.
        reading: how to understand them.
        skipped: counts those members that no sample uses.

    Raises:
        UserError: it can be understood in several ways.
        Outage: the file system does not give it.
    """
    with reading_from(path), path.open("rb") as file:
        for sample in group(shown, files, reading, skipped):
            label = sample.label and _text(shown, sample.label, file.fileno(), skipped)
            yield _with_rate(sample, file.fileno()), label


def with_frames(files: Iterable[Member], reading: Reading) -> Reading:
    """Where nobody said whether samples have frames: they do if all of their images can be nothing else."""
    if reading.frames or reading.key or reading.image_extension or reading.bands:
        return reading
    return replace(reading, frames="dot") if _may_be_frames(files, reading) else reading


def look_like_frames(files: Iterable[Member], reading: Reading) -> bool:
    """Whether images that are taken one by one are numbered from 0 or 1 on, as frames are that nobody padded."""
    return reading.frames is None and _may_be_frames(files, reading, padded=False)


def _may_be_frames(files: Iterable[Member], reading: Reading, *, padded: bool = True) -> bool:
    found: dict[str, list[str]] = {}
    for member in files:
        parts = parts_of(member.name) or ("",)
        key, extension = split_name(parts, reading)
        if is_image(extension) and hidden(parts) is None:
            if not is_frame(extension):
                return False  # soon, where images are plain: a tar may hold millions
            found.setdefault(key, []).append(extension)
    return are_frames(found.values(), padded=padded)


def check_plain(tar: Path, files: Sequence[Member]) -> None:
    """Whether each image of a tar without labels is one by itself: none is called KEY.x.png beside a KEY.jpg.

    Raises:
        UserError: that can be understood in several ways.
    """
    for rows in alike(hash(split_name(parts_of(member.name) or ("",), _PLAIN)[0]) for member in files):
        found: dict[str, dict[bool, str]] = {}
        for row in rows if len(rows) > 1 else ():
            key, extension = split_name(parts_of(files[row].name) or ("",), _PLAIN)
            if is_image(extension) and not _ends(extension.lower(), DEPTH):
                both = found.setdefault(key, {})
                both["." in extension] = extension
                if len(both) == 2:
                    raise _several(tar, key, [both[True], both[False]])


def _text(tar: Path, label: Member, descriptor: int, skipped: Tally) -> str | None:
    """What a .cls member says; bytes that are no UTF-8 are written as \\xNN."""
    if label.size > LONGEST_LABEL:
        skipped.add(f"a label of more than {LONGEST_LABEL:,} bytes", f"{tar.name}/{label.name}")
        return None
    return os.pread(descriptor, label.size, label.offset).decode("utf-8-sig", "backslashreplace").strip()


def suffixes_of(reading: Reading) -> frozenset[str]:
    """What the names of images end in: where these are bands, arrays are images too."""
    return SUFFIXES if reading.bands is None else SUFFIXES | BAND_SUFFIXES


def is_image(extension: str, reading: Reading = _PLAIN) -> bool:
    """Whether a name that ends so is that of an image, and not of a mask."""
    extension = extension.lower()
    return f".{extension.rpartition('.')[2]}" in suffixes_of(reading) and not _ends(extension, MASK_EXTENSION)


def _ends(extension: str, wanted: str) -> bool:
    return extension == wanted or extension.endswith(f".{wanted}")


def _kept(tar: Path, files: Sequence[Member], reading: Reading, skipped: Tally) -> Iterator[tuple[int, str]]:
    """The members that may belong to a sample: their rows and keys."""
    for row, member in enumerate(files):
        parts = parts_of(member.name) or ("",)
        key, extension = split_name(parts, reading)
        reason = hidden(parts)
        if reason is None and re.fullmatch(r"__.*__", parts[0]):
            reason = "WebDataset's own notes (__*__)"
        if reason is None and not extension:
            reason = no_image("")
        if reason is None:
            yield row, key
        else:
            skipped.add(reason, f"{tar.name}/{member.name}")


def split_name(parts: Sequence[str], reading: Reading) -> tuple[str, str]:
    """Key and extension of a name; ``1.seg.png`` is never cut between its two suffixes."""
    *folders, last = parts
    if reading.frames not in (None, "dot", "none") and (named := dotted(parts, reading.frames)) is not None:
        return named
    if reading.key != "last-dot":
        stem, _, extension = last.partition(".")
    elif end := next((end for end in (MASK_EXTENSION, DEPTH) if last.lower().endswith(f".{end}")), ""):
        stem, extension = last[: -len(end) - 1], last[-len(end) :]
    else:
        stem, dot, extension = last.rpartition(".")
        stem = stem if dot else last
        extension = extension if dot else ""
    return "/".join([*folders, stem]), extension


def _check_repeated(tar: Path, same: list[_Run]) -> None:
    """Samples of one key are told apart where each stands in a row, with others between, or is a single image."""
    near = [pair for pair in pairwise(same) if pair[1].first == pair[0].last + 1]
    if not all(run.is_whole for run in same) or any(len(run.members) > 1 for pair in near for run in pair):
        raise UserError(
            f"{printable(str(tar))}: {len(same)} samples have the key {printable(same[0].key)}, and nothing says"
            " which of their members belong together; write the tar again, with a key for each"
        )


def _sample(tar: Path, run: _Run, reading: Reading, skipped: Tally, *, is_repeated: bool) -> Sample:
    if reading.frames not in (None, "none"):
        return _clip(tar, run, reading, skipped, is_repeated=is_repeated)
    image = _image(tar, run, reading)
    label = mask = None
    if image is not None:
        label = _companion(tar, run, image, reading.label_extension, "say which with --label-extension, or ")
        mask = _companion(tar, run, image, MASK_EXTENSION, "")
        mask = None if mask == image else mask
    beside = _beside(run, image, {image, label, mask})
    used = {image, label, mask, *beside.values()}
    for extension, (_, member) in run.members.items():
        if extension not in used:
            skipped.add(_why_unused(extension, image, reading), f"{tar.name}/{member.name}")
    chosen, its_label, its_mask = (run.members[name][1] if name is not None else None for name in (image, label, mask))
    name = printable(chosen.name) if chosen else ""
    if chosen and is_repeated:
        name = f"{name} (at byte {chosen.offset})"
    path = parts_of(chosen.name) if chosen else ()
    return Sample(name, chosen, its_label, its_mask, list(run.members.values()), path, beside=_named(run, beside))


def _clip(tar: Path, run: _Run, reading: Reading, skipped: Tally, *, is_repeated: bool) -> Sample:
    """A sample of frames."""
    frames = frames_of(run.members)
    first = next((pairs[0][0] for pairs in frames.streams.values()), None)
    label = first and _companion(tar, run, first, reading.label_extension, "")
    beside = _beside(run, "" if first else None, {label})
    for extension, (_, member) in run.members.items():
        if extension not in {*frames.used, label, *beside.values()} and not (first and extension == NOTES):
            is_odd = is_image(extension) and not is_frame(extension)
            reason = f"not named like a frame (--frames {reading.frames})" if is_odd else ""
            skipped.add(reason or _why_unused(extension, first, reading), f"{tar.name}/{member.name}")
    members = list(run.members.values())
    if first is None:
        return Sample("", None, None, None, members)
    chosen = run.members[first][1]
    name = printable(run.key) + (f" (at byte {chosen.offset})" if is_repeated else "")
    its_label = run.members[label][1] if label else None
    path, own = parts_of(run.key), _named(run, beside)
    return Sample(name, chosen, its_label, None, members, path, frames, beside=own)


def _beside(run: _Run, image: str | None, taken: set[str | None]) -> dict[str, str]:
    """By extension, what follows the key in the name of what lies beside KEY.x.jpg: KEY.x.txt, or KEY.txt."""
    if image is None:
        return {}
    stem = image.rpartition(".")[0]
    names = {wanted: (f"{stem}.{wanted}" if stem else wanted, wanted) for wanted in EXTENSIONS}
    found = {
        wanted: next((name for name in own if name in run.members and name not in taken), None)
        for wanted, own in names.items()
        if image or wanted != DEPTH  # frames have none
    }
    return {wanted: name for wanted, name in found.items() if name is not None}


def _named(run: _Run, beside: dict[str, str]) -> tuple[tuple[str, Member], ...]:
    return tuple(sorted((extension, run.members[name][1]) for extension, name in beside.items()))


def _with_rate(sample: Sample, descriptor: int) -> Sample:
    """With that of its .json member, as eyespot writes it: {"rate": 24.0}."""
    notes = next((member for extension, member in sample.members if extension.lower() == NOTES), None)
    if sample.frames is None or notes is None or notes.size > LONGEST_NOTES:
        return sample
    try:
        found = json.loads(os.pread(descriptor, notes.size, notes.offset))
    except (ValueError, RecursionError):
        return sample
    rate = found.get("rate") if isinstance(found, dict) else None
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= FASTEST:
        return sample
    return sample._replace(rate=float(rate))


def _image(tar: Path, run: _Run, reading: Reading) -> str | None:
    """The extension of a sample's image."""
    if reading.image_extension:
        return next((name for name in reading.image_extension if name in run.members), None)
    images = [extension for extension in run.members if is_image(extension, reading)]
    if len(images) > 1:  # beside another one, KEY.depth.png is its depth map
        images = [extension for extension in images if not _ends(extension, DEPTH)] or images
    if len(images) > 1:
        raise _several(tar, run.key, images)
    return images[0] if images else None


def _several(tar: Path, key: str, images: list[str]) -> UserError:
    some = ", ".join(f".{printable(name)}" for name in images[:4]) + (", ..." if len(images) > 4 else "")
    plain = next((name for name in images if "." not in name), images[0])
    return UserError(
        f"{printable(str(tar))}: sample {printable(key)} holds several images ({some}); say which is meant, as in"
        f" --image-extension {printable(plain)}, or {_LAST_DOT} and each is a sample,"
        " or --frames dot, where they are numbered frames"
    )


def _companion(tar: Path, run: _Run, image: str, wanted: str, hint: str) -> str | None:
    """The extension of what goes with a sample's image: KEY.cls, or KEY.x.cls beside KEY.x.jpg."""
    found = [extension for extension in run.members if _ends(extension, wanted)]
    stem = image.rpartition(".")[0]
    for own in (f"{stem}.{wanted}" if stem else wanted, wanted):
        if own in found:
            return own
    if len(found) > 1 or (found and stem):
        names = ", ".join(f".{printable(name)}" for name in found[:4])
        raise UserError(
            f"{printable(str(tar))}: sample {printable(run.key)} holds {names} beside the image .{printable(image)},"
            f" and nothing says that they belong together; {hint}{_LAST_DOT}"
        )
    return found[0] if found else None


def _why_unused(extension: str, image: str | None, reading: Reading) -> str:
    last = extension.rpartition(".")[2]
    named = f".{printable(extension if not re.search(r'[0-9]', extension) else last)}"
    if _ends(extension, reading.label_extension):
        return "a label without an image" if image is None else f"another label ({named})"
    if is_image(extension, reading):
        return f"not the image asked for ({named})"
    if _ends(extension, MASK_EXTENSION):
        return "a mask without an image" if image is None else f"another mask ({named})"
    return no_image(f"x.{last}")
