"""Which files lie beside an image and belong to it: those of its name with another ending.

a/1.jpg, a/1.txt    an image and its captions
"""

from collections.abc import Iterable, Sequence
from typing import Any

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.skipped import Tally, no_image, printable

EXTENSIONS = ("txt",)
"""What members of a sample may be called, beside its image, label and mask; each is one of these or none."""
SUFFIXES = frozenset(f".{extension}" for extension in EXTENSIONS)

Beside = tuple[tuple[str, Place], ...]
"""Extensions, sorted, and where the bytes lie."""


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
        stem, _, extension = name.rpartition(".")
        extension = extension.lower()
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


def with_members(files: list[Any], sides: list[tuple[str, Place]], skipped: Tally, prefix: str = "") -> list[Any]:
    """Files of sources.py that are images, with what lies beside them.

    Args:
        files: the images.
        sides: path and place of what may belong to one.
        skipped: counts what belongs to none.
        prefix: goes before the names in it.
    """
    if not sides:
        return files
    found = beside([file.name for file in files], sides, skipped, prefix)
    return [file._replace(members=members) for file, members in zip(files, found, strict=True)]
