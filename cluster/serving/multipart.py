"""The parts of a multipart/form-data body (RFC 7578), as the bytes that they hold."""

import re

_BOUNDARY = re.compile(r'boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)


class MalformedParts(Exception):
    """The body is no such thing. One line."""


def parts_of(content_type: str, body: bytes, most: int) -> list[bytes]:
    """What each part holds, in order, whatever its name.

    Args:
        content_type: the request's, which names the boundary.
        body: all of it.
        most: parts that there may be.

    Raises:
        MalformedParts: no boundary, no end, a part without an end of its headers, or too many parts.
    """
    named = _BOUNDARY.search(content_type)
    if named is None:
        raise MalformedParts("Content-Type: names no boundary")
    boundary = b"\r\n--" + (named[1] or named[2]).encode("latin-1", "replace")
    pieces = (b"\r\n" + body).split(boundary, most + 2)  # before the first, the parts, "--" after the last
    if len(pieces) > most + 2:
        raise MalformedParts(f"more than {most} parts; send several requests")
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise MalformedParts("the body does not end with its boundary")
    found = []
    for piece in pieces[1:-1]:
        headers, gap, content = piece.partition(b"\r\n\r\n")
        if not gap or not headers.startswith(b"\r\n"):
            raise MalformedParts("a part has no headers")
        found.append(content)
    return found
