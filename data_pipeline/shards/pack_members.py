"""Checks what lies beside an image, before it is stored or indexed: see members/member_tables.py."""

import zlib
from collections.abc import Callable, Mapping

import numpy as np

from eyespot.data_pipeline.shards.image_check import Examined, StoredMember, shrunk_size
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.captions import LARGEST_TEXT, BadMember, captions_of
from eyespot.data_pipeline.shards.members.depth_maps import LARGEST_DEPTH, depth_png, depth_values, open_depth
from eyespot.data_pipeline.shards.members.side_files import SOUNDS, Beside
from eyespot.data_pipeline.shards.members.sounds import LARGEST_SOUND, check_sound
from eyespot.data_pipeline.shards.pack_masks import turned_like

Check = Callable[[bytes, Examined, int | None, bool], bytes]
"""Bytes, image, ``resize`` and ``in_place`` in; what is to be stored out. Raises BadMember."""


def examine_members(
    members: Beside, image: Examined, *, resize: int | None = None, in_place: bool = False
) -> dict[str, StoredMember]:
    """What is to be stored of an image's members, or why each cannot be used.

    Args:
        members: where they lie, by extension.
        image: as it is to be stored.
        resize: as in ``image_check.examine``.
        in_place: nothing can be rewritten.
    """
    return {extension: _examined(extension, place, image, resize, in_place) for extension, place in members}


def _examined(extension: str, place: Place, image: Examined, resize: int | None, in_place: bool) -> StoredMember:
    check, largest = CHECKS[extension]
    try:
        data = check(place._replace(size=min(place.size, largest + 1)).read(), image, resize, in_place)
    except BadMember as error:
        return StoredMember(problem=str(error))
    except OSError as error:
        return StoredMember(problem=f"its .{extension} is unreadable: {error.strerror or error}")
    return StoredMember(data=data, crc32=zlib.crc32(data))


def _check_text(data: bytes, image: Examined, resize: int | None, in_place: bool) -> bytes:
    captions_of(data)
    return data


def _check_depth(data: bytes, image: Examined, resize: int | None, in_place: bool) -> bytes:
    """Of the image's size; turned and shrunk as the image was, to the nearest pixel, every value kept as it is."""
    found = open_depth(data)
    upright = found if in_place else turned_like(found, (image.height, image.width), resize, image.orientation)
    width, height = shrunk_size(upright.size, resize)
    if (height, width) != (image.height, image.width):
        raise BadMember(f"its depth is {width} x {height} pixels where the image is {image.width} x {image.height}")
    if upright is found and upright.size == (width, height):
        return data
    return depth_png(_nearest(depth_values(upright), height, width))


def _nearest(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each pixel takes the value under its centre."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip((height, width), values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]


def _check_sound(extension: str) -> Check:
    check = check_sound(extension)

    def checked(data: bytes, image: Examined, resize: int | None, in_place: bool) -> bytes:
        check(data)
        return data

    return checked


CHECKS: Mapping[str, tuple[Check, int]] = {
    "depth.png": (_check_depth, LARGEST_DEPTH),
    "txt": (_check_text, LARGEST_TEXT),
    **{extension: (_check_sound(extension), LARGEST_SOUND) for extension in SOUNDS},
}
"""Of each extension what checks it, and of how many bytes it can be; more are not read."""
