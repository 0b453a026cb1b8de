"""Makes tars for the inputs of tar_inputs.py and tar_labels.py."""

import io
import tarfile
from collections.abc import Callable, Sequence
from typing import Any

from hostile.accounts import tar_of
from hostile.case import Room, Words
from hostile.fixtures import picture

INDEX: Sequence[Words] = (["shards", "index", "data", "--workers", "1"],)
VERIFIED: Sequence[Words] = (*INDEX, ["shards", "verify", "data", "--workers", "1"])
PACK: Sequence[Words] = (["shards", "pack", "source.tar", "out", "--workers", "1"],)

Entries = Callable[[Room], list[tuple[Any, bytes]]]


def jpeg(room: Room, **options: Any) -> bytes:
    file = io.BytesIO()
    picture(room.rng, **options).save(file, "JPEG")
    return file.getvalue()


def png(room: Room) -> bytes:
    file = io.BytesIO()
    picture(room.rng).save(file, "PNG")
    return file.getvalue()


def of_entries(entries: Entries, commands: Sequence[Words] = VERIFIED, **options: Any) -> Callable[[Room], Any]:
    def make(room: Room) -> Sequence[Words]:
        target = room / "source.tar" if commands is PACK else room / "data" / "a.tar"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(tar_of(entries(room), **options))
        return commands

    return make


def of_bytes(spoil: Callable[[bytes], bytes], name: str = "a.tar", num: int = 6) -> Callable[[Room], Any]:
    """A sound tar whose bytes are changed."""

    def make(room: Room) -> Sequence[Words]:
        (room / "data").mkdir()
        (room / "data" / name).write_bytes(spoil(tar_of(sound(room, num))))
        return VERIFIED

    return make


def sound(room: Room, num: int = 6) -> list[tuple[Any, bytes]]:
    return [(f"{number:04d}.jpg", jpeg(room)) for number in range(num)]


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def pax(name: str, **headers: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.pax_headers = headers
    return info


def named(*names: str) -> Entries:
    return lambda room: [(name, jpeg(room)) for name in names]
