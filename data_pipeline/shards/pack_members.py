"""Checks what lies beside an image, before it is stored or indexed: see members/member_tables.py."""

import zlib
from collections.abc import Callable, Mapping

from eyespot.data_pipeline.shards.image_check import StoredMember
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.captions import LARGEST_TEXT, BadMember, captions_of
from eyespot.data_pipeline.shards.members.side_files import Beside

Check = Callable[[bytes], object]
"""Raises BadMember."""

CHECKS: Mapping[str, tuple[Check, int]] = {"txt": (captions_of, LARGEST_TEXT)}
"""Of each extension what checks it, and of how many bytes it can be; more are not read."""


def examine_members(members: Beside) -> dict[str, StoredMember]:
    """What is to be stored of an image's members, byte by byte as they are, or why each cannot be used."""
    return {extension: _examined(extension, place) for extension, place in members}


def _examined(extension: str, place: Place) -> StoredMember:
    check, largest = CHECKS[extension]
    try:
        data = place._replace(size=min(place.size, largest + 1)).read()
        check(data)
    except BadMember as error:
        return StoredMember(problem=str(error))
    except OSError as error:
        return StoredMember(problem=f"its .{extension} is unreadable: {error.strerror or error}")
    return StoredMember(data=data, crc32=zlib.crc32(data))
