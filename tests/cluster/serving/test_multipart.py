"""Parts come out byte by byte as they went in, and what is malformed is said in a line."""

import random

import pytest
from served import multipart

from eyespot.cluster.serving.multipart import MalformedParts, parts_of


def test_any_bytes_come_back():
    files = [random.randbytes(random.randrange(300)) for _ in range(20)]
    files += [b"", b"\r\n", b"\r\n\r\n--edg", b"--", b"\n--edge", b"\x00\xff\r\n--"]
    body, kind = multipart(*files)
    assert parts_of(kind, body, len(files)) == files
    assert parts_of('multipart/form-data; boundary="edge"', b"preamble\r\n" + body + b"epilogue", 64) == files


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("multipart/form-data", b"--edge--", "names no boundary"),
        ("multipart/form-data; boundary=edge", b"", "does not end with its boundary"),
        ("multipart/form-data; boundary=edge", b"--edge\r\n\r\nabc", "does not end with its boundary"),
        ("multipart/form-data; boundary=edge", b"--edge\r\nA: b\r\n--edge--", "a part has no headers"),
        ("multipart/form-data; boundary=edge", multipart(b"a", b"b", b"c")[0], "more than 2 parts"),
        ("multipart/form-data; boundary=edge", b"--edge\r\n" * 100_000, "more than 2 parts"),
    ],
)
def test_malformed(kind: str, body: bytes, said: str):
    with pytest.raises(MalformedParts, match=said):
        parts_of(kind, body, 2)
