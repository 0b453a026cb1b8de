"""Which files lie beside an image and belong to it: those of its name with another ending.

Beside ``a/1.jpg``, ``a/1.txt`` holds its captions, ``a/1.depth.png`` is its depth map, ``a/1.wav`` its sound.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.depth_maps import EXTENSION as DEPTH
from eyespot.data_pipeline.shards.members.skipped import Tally, no_image, printable
from eyespot.data_pipeline.shards.members.sounds import CONTAINERS, HAS_SOUNDFILE

SOUNDS = tuple(CONTAINERS) if HAS_SOUNDFILE else ()
EXTENSIONS = ("depth.png", *SOUNDS, "txt")
"""What members of a sample may be called, beside its image, label and mask; each is one of these or none."""
SUFFIXES = frozenset(f".{extension}" for extension in (*SOUNDS, "txt"))
"""Of files that are no images; whether KEY.depth.png is one depends on what lies beside it."""

Beside = tuple[tuple[str, Place], ...]
"""Extensions, sorted, and where the bytes lie."""


def of_one_sound(items: Sequence[Any], skipped: Tally) -> list[Any]:
    """Items of items.py with sounds of one extension, that of most: one table serves all; others are counted."""
    found = Counter(extension for item in items for extension, _ in item.members if extension in SOUNDS)
    if len(found) < 2:
        return list(items)
    ours = min(found, key=lambda extension: (-found[extension], extension))
    kept: list[Any] = []
    for item in items:
        others = [extension for extension, _ in item.members if extension in SOUNDS and extension != ours]
        for extension in others:
            skipped.add(f"a sound of another kind than most (.{extension}, not .{ours})", item.name)
        kept.append(item._replace(members=tuple(pair for pair in item.members if pair[0] not in others)))
    return kept


def split_side(name: str) -> tuple[str, str]:
    """A path before its extension, and that in small letters; ``1.depth.png`` is never cut between its two suffixes."""
    if name.lower().endswith(f".{DEPTH}"):
        return name[: -len(DEPTH) - 1], DEPTH
    stem, _, extension = name.rpartition(".")
    return stem, extension.lower()


def depth_beside(files: Sequence[Any]) -> set[str]:
    """The names of those images that are depth maps of others: 1.depth.png beside 1.jpg."""
    maps = [file.name for file in files if file.name.lower().endswith(f".{DEPTH}")]
    wanted = {split_side(name)[0] for name in maps}
    others = (split_side(file.name) for file in files if wanted)
    found = {stem for stem, extension in others if extension != DEPTH and stem in wanted}
    return {name for name in maps if split_side(name)[0] in found}


def beside(
    images: Sequence[str], others: Iterable[tuple[str, Place]], skipped: Tally, prefix: str = ""
) -> list[Beside]:
    """What belongs to each image.

    Args:
        images: their paths.
        others: path and place of each file that may belong to one.
        skipped: counts those that belong to none; nothing is guessed where two images have one name.
        prefix: goes before the names in it.
    """
    owners: dict[str, list[int]] = {}
    found: list[dict[str, Place]] = [{} for _ in images]
    for number, image in enumerate(images):
        owners.setdefault(image.rpartition(".")[0], []).append(number)
    for name, place in others:
        stem, extension = split_side(name)
        of = owners.get(stem, [])
        if len(of) != 1:
            why = f"several images have its name (.{extension})" if of else no_image(name)
        elif extension in found[of[0]]:
            why = f"another .{extension} of the same image"
        else:
            found[of[0]][extension] = place
            continue
        skipped.add(why, f"{prefix}{printable(name)}")
    return [tuple(sorted(members.items())) for members in found]


def with_members(
    files: Sequence[Any], sides: list[tuple[str, Place]], skipped: Tally, prefix: str = ""
) -> Sequence[Any]:
    """Files of sources.py that are images, with what lies beside them.

    Args:
        files: the images.
        sides: path and place of what may belong to one.
        skipped: counts what belongs to none.
        prefix: goes before the names in it.
    """
    if depths := depth_beside(files):
        sides = sides + [(file.name, file.place) for file in files if file.name in depths]
        files = [file for file in files if file.name not in depths]
    if not sides:
        return files
    found = beside([file.name for file in files], sides, skipped, prefix)
    return [file._replace(members=members) for file, members in zip(files, found, strict=True)]
