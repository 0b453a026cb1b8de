"""Which files are the frames of one sample, and in which order: read off their names.

    dot          KEY.000.jpg, KEY.CAMERA.000.jpg     as eyespot writes them
    folder       KEY/000.jpg, KEY/frame_000.jpg      the images of a folder; KEY may hold folders, of classes
    camera       KEY/CAMERA/000.jpg                  folders of cameras in the folder of the sample
    underscore   KEY_000.jpg

A frame's number is the digits at the end of its name; frames are sorted by it, and there may be gaps. Its mask is
called as it is, with .seg.png.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from eyespot.data_pipeline.shards.frames import FrameNames, is_stream
from eyespot.data_pipeline.shards.image_check import SUFFIXES
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.footage import FrameFile, FrameFiles, FrameSource, Refused
from eyespot.data_pipeline.terminal import plural

SOUNDS = frozenset({"flac", "wav", "ogg", "opus", "mp3", "m4a", "aac"})
_MASK = "seg.png"
_DOTTED = re.compile(r"(?:([^.]+)\.)?([0-9]{1,12})\.(.+)")


class NamedFrames(NamedTuple):
    """What the names of one sample's members say."""

    streams: dict[str, list[tuple[str, str | None]]]
    """By camera, in the order of time: what follows the key in the name of each frame, and in that of its mask."""
    numbers: dict[str, list[int]]
    """Of the frames, by camera."""
    sound: str | None
    """What follows the key in the name of the sound."""
    problem: str | None
    """Why these are no frames of one sample; None = they are."""

    @property
    def used(self) -> set[str]:
        """All of these names."""
        pairs = [pair for frames in self.streams.values() for pair in frames]
        return {name for pair in pairs for name in pair if name} | ({self.sound} if self.sound else set())

    @property
    def is_whole(self) -> bool:
        """Whether all cameras have the same numbers, from 0 or 1 on without a gap."""
        first = next(iter(self.numbers.values()), [])
        whole = bool(first) and first[0] in (0, 1) and first == list(range(first[0], first[0] + len(first)))
        return whole and self.problem is None and all(numbers == first for numbers in self.numbers.values())

    @property
    def is_padded(self) -> bool:
        """Whether all numbers are written as eyespot writes them: with three digits or more, 000, 001, 002."""
        for stream, frames in self.streams.items():
            found = [name.split(".")[bool(stream)] for name, _ in frames]
            width = max(3, len(found[0]))
            if found != [f"{number:0{width}}" for number in self.numbers[stream]]:
                return False
        return True


def dotted(parts: Sequence[str], how: FrameNames) -> tuple[str, str] | None:
    """Key and extension of a file as if it were called KEY.CAMERA.NUMBER.suffix.

    Args:
        parts: of its path.
        how: folder, camera or underscore.

    Returns:
        None where it is neither a frame, a mask nor a sound by that rule.
    """
    *folders, last = parts
    suffix = _MASK if last.lower().endswith(f".{_MASK}") else last.rpartition(".")[2]
    stem = last[: -len(suffix) - 1]
    depth = {"folder": 1, "camera": 2}.get(how, 0)
    if suffix.lower() in SOUNDS and (folders or not depth):
        return "/".join(folders if depth else [*folders, stem]), suffix
    if not stem or len(folders) < depth:
        return None
    number = re.search(r"[0-9]{1,12}$", stem)
    if number is None or not _is_picture(suffix):
        return None
    if how == "underscore":
        key = stem[: number.start()]
        return ("/".join([*folders, key[:-1]]), f"{number[0]}.{suffix}") if key[1:].endswith("_") else None
    camera = f"{stream_name(folders[-1])}." if how == "camera" else ""
    return "/".join(folders[: len(folders) - depth + 1]), f"{camera}{number[0]}.{suffix}"


def stream_name(folder: str) -> str:
    """A folder's name as that of a camera."""
    name = re.sub(r"[^a-z0-9_-]", "-", folder.lower())[:32]
    return name if is_stream(name) else f"camera{name}"[:32]


def frames_of(extensions: Iterable[str]) -> NamedFrames:
    """The frames among the members of one key.

    Args:
        extensions: what follows the key in each name, in small letters.
    """
    found: dict[str, dict[int, str]] = {}
    masks: dict[tuple[str, int], str] = {}
    sounds, problem = list[str](), None
    for extension in extensions:
        if extension in SOUNDS:
            sounds.append(extension)
        if (parsed := _parsed(extension)) is None:
            continue
        stream, number, suffix = parsed
        if suffix == _MASK:
            masks[stream, number] = extension
        elif number in (frames := found.setdefault(stream, {})):
            problem = f"two frames have the number {number}: .{frames[number]}, .{extension}"
        else:
            frames[number] = extension
    if "" in found and len(found) > 1:
        problem = f"some of its frames are of a camera ({max(found)}), others are not"
    streams = {
        stream: [(frames[number], masks.get((stream, number))) for number in sorted(frames)]
        for stream, frames in sorted(found.items())
    }
    numbers = {stream: sorted(frames) for stream, frames in sorted(found.items())}
    if len(sounds) > 1:
        problem = problem or f"it has several sounds: .{', .'.join(sounds)}"
    return NamedFrames(streams, numbers, sounds[0] if sounds else None, problem)


def frame_source(named: NamedFrames, members: Mapping[str, tuple[str, Place]], rate: float) -> FrameSource:
    """The frames of one sample.

    Args:
        named: what their names say.
        members: name and place of each, by what follows the key.
        rate: frames per second; 0 = unknown.
    """
    if named.problem:
        return Refused(named.problem)
    files = {
        stream: [FrameFile(*members[name], mask=members[mask][1] if mask else None) for name, mask in pairs]
        for stream, pairs in named.streams.items()
    }
    sound = (named.sound, members[named.sound][1]) if named.sound else None
    return FrameFiles(files=files, rate=rate, sound=sound)


def is_frame(extension: str) -> bool:
    """Whether a member whose name goes on so behind its key is a frame."""
    parsed = _parsed(extension.lower())
    return parsed is not None and parsed[2] != _MASK


def are_frames(samples: Iterable[Iterable[str]], *, padded: bool = True) -> bool:
    """Whether the images of samples can only be frames: numbered from 000 or 001 on without a gap, and somewhere many.

    Args:
        samples: what follows the key in the names of each sample's images.
        padded: whether numbers must have three digits or more; with fewer, images only look like frames.
    """
    some = False
    for extensions in samples:
        names = [extension.lower() for extension in extensions]
        found = frames_of(names)
        if len(found.used) != len(names) or not found.is_whole or (padded and not found.is_padded):
            return False
        some = some or len(names) > len(found.streams)
    return some


def frame_notes(count: int, asked: FrameNames | None) -> list[str]:
    """What to tell of so many samples that were found to have frames, a line each."""
    if not count or asked is not None:
        return []
    return [
        f"{plural(count, 'sample')} have frames (KEY.000.jpg, KEY.001.jpg, ...); with --frames none"
        f" they are not read so"
    ]


def _parsed(extension: str) -> tuple[str, int, str] | None:
    """Camera, number and suffix."""
    if (match := _DOTTED.fullmatch(extension)) is None or not _is_picture(match[3]):
        return None
    stream = match[1] or ""
    return (stream, int(match[2]), match[3]) if not stream or is_stream(stream) else None


def _is_picture(suffix: str) -> bool:
    return f".{suffix.lower()}" in SUFFIXES or suffix.lower() == _MASK
