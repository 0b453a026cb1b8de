"""Odd and broken images, for ``shards pack`` (and some for training and for looking at)."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hostile.accounts import packed
from hostile.case import Case, Room, Wants, Words
from hostile.fixtures import picture
from PIL import Image

PACK: Sequence[Words] = (["shards", "pack", "source", "out", "--workers", "1"],)
VERIFIED: Sequence[Words] = (*PACK, ["shards", "verify", "out", "--workers", "1"])
ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def among_good(name: str, content: Callable[[Room], bytes], commands: Sequence[Words] = VERIFIED) -> Any:
    """Three sound photographs, and the one in question."""

    def make(room: Room) -> Sequence[Words]:
        (room / "source").mkdir()
        for number in range(3):
            picture(room.rng).save(room / "source" / f"good{number}.jpg")
        (room / "source" / name).write_bytes(content(room))
        return commands

    return make


def cases() -> list[Case]:
    """All of this file."""
    return [*_formats(), *_orientations(), *_broken(), *_files(), *_strips()]


def _case(name: str, make: Any, wants: Wants = "taken", **options: Any) -> Case:
    return Case(kind="images", name=name, wants=wants, make=make, **({"lost": packed()} | options))


def _is_packed(count: int) -> Callable[[Path, str], str]:
    """What users need: not left out, but taken."""

    def lost(room: Path, said: str) -> str:
        import json

        held = json.loads((room / "out" / "manifest.json").read_bytes())
        bad = held["quarantined"]
        return (
            "" if held["num_samples"] == count else f"left out: {held['num_samples']} of {count} are packed; {bad[:1]}"
        )

    return lost


def _pnm(depth: int, channels: int, room: Room) -> bytes:
    values = room.rng.integers(0, depth + 1, (20, 24, channels)).astype(">u2" if depth > 255 else "u1")
    return b"P%d\n24 20\n%d\n" % (5 if channels == 1 else 6, depth) + values.tobytes()


def of(kind: str, mode: str = "RGB", **options: Any) -> Callable[[Room], bytes]:
    return lambda room: encoded(picture(room.rng).convert(mode), kind, **options)


def _formats() -> list[Case]:

    def deep(most: int) -> Callable[[Room], bytes]:
        def make(room: Room) -> bytes:
            values = room.rng.integers(0, most + 1, (20, 24)).astype(np.uint16)
            return encoded(Image.fromarray(values), "PNG")

        return make

    def frames(kind: str) -> Callable[[Room], bytes]:
        return lambda r: encoded(picture(r.rng), kind, save_all=True, append_images=[picture(r.rng) for _ in range(3)])

    def transparent(room: Room) -> bytes:
        return encoded(picture(room.rng).convert("P"), "PNG", transparency=3)

    taken: dict[str, tuple[str, Callable[[Room], bytes]]] = {
        "cmyk": ("x.jpg", of("JPEG", "CMYK")),
        "progressive": ("x.jpg", of("JPEG", progressive=True)),
        "gray": ("x.jpg", of("JPEG", "L")),
        "png-one-bit": ("x.png", of("PNG", "1")),
        "png-palette": ("x.png", of("PNG", "P")),
        "png-palette-transparent": ("x.png", transparent),
        "png-rgba": ("x.png", of("PNG", "RGBA")),
        "png-gray-alpha": ("x.png", of("PNG", "LA")),
        "png-16-bit": ("x.png", deep(65535)),
        "png-12-in-16-bit": ("x.png", deep(4095)),
        "tiff-float": ("x.tif", of("TIFF", "F")),
        "tiff-32-bit": ("x.tif", of("TIFF", "I")),
        "tiff-lzw": ("x.tif", of("TIFF", compression="tiff_lzw")),
        "tiff-cmyk": ("x.tif", of("TIFF", "CMYK")),
        "tiff-lab": ("x.tif", lambda room: encoded(Image.new("LAB", (24, 20), (90, 10, 20)), "TIFF")),
        "tiff-pages": ("x.tif", frames("TIFF")),
        "gif-animated": ("x.gif", frames("GIF")),
        "webp-animated": ("x.webp", frames("WEBP")),
        "apng": ("x.png", frames("PNG")),
        "bmp": ("x.bmp", of("BMP")),
        "bmp-palette": ("x.bmp", of("BMP", "P")),
        "jpeg2000": ("x.jp2", of("JPEG2000")),
        "avif": ("x.avif", of("AVIF")),
        "pgm": ("x.pgm", lambda room: _pnm(255, 1, room)),
        "pgm-16-bit": ("x.pgm", lambda room: _pnm(65535, 1, room)),
        "pgm-12-bit": ("x.pgm", lambda room: _pnm(4095, 1, room)),
        "pgm-4-bit": ("x.pgm", lambda room: _pnm(15, 1, room)),
        "ppm-16-bit": ("x.ppm", lambda room: _pnm(65535, 3, room)),
        "icc-garbage": ("x.jpg", of("JPEG", icc_profile=b"garbage" * 40)),
        "icc-of-2-mb": ("x.jpg", of("JPEG", icc_profile=bytes(2_000_000))),
        "png-comment-of-megabytes": ("x.png", lambda room: _with_text(encoded(picture(room.rng), "PNG"))),
        "one-pixel": ("x.png", lambda room: encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG")),
        "png-called-jpg": ("x.jpg", of("PNG")),
        "webp-called-png": ("x.png", of("WEBP")),
        "gif-called-jpeg": ("x.jpeg", of("GIF", "P")),
    }
    undefined = ("tiff-float", "tiff-32-bit")  # what is white in them? To be named is as good
    return [
        _case(name, among_good(file, content), lost=packed() if name in undefined else _is_packed(4))
        for name, (file, content) in taken.items()
    ]


def _with_text(png: bytes) -> bytes:
    text = b"Comment\0" + b"x" * 5_000_000
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    return png[:33] + chunk + png[33:]


def _orientations() -> list[Case]:
    def turned(value: Any, kind: str = "JPEG") -> Callable[[Room], bytes]:
        def make(room: Room) -> bytes:
            exif = Image.Exif()
            exif[ORIENTATION] = value
            return encoded(picture(room.rng), kind, exif=exif)

        return make

    def upright(value: int) -> Callable[[Path, str], str]:
        def lost(room: Path, said: str) -> str:
            sides = [(int(row["height"]), int(row["width"])) for row in np.load(room / "out" / "index.npy")]
            wanted = (48, 40) if value >= 5 else (40, 48)
            return "" if wanted in sides and len(sides) == 4 else f"sides are {sides}; the photo lies on its side"

        return lost

    jpegs = [
        _case(f"orientation-{value}", among_good("x.jpg", turned(value)), lost=upright(value if value <= 8 else 1))
        for value in (2, 3, 5, 6, 8, 9)
    ]
    others = [
        _case(f"orientation-6-{kind.lower()}", among_good(f"x.{suffix}", turned(6, kind)), lost=upright(6))
        for kind, suffix in (("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif"))
    ]
    garbage = b"Exif\0\0II*\0" + b"\xff" * 200
    wild = lambda room: encoded(picture(room.rng), "JPEG", exif=garbage)  # noqa: E731
    return [*jpegs, *others, _case("exif-garbage", among_good("x.jpg", wild), lost=_is_packed(4))]


def jpeg(room: Room) -> bytes:
    return encoded(picture(room.rng, 200, 240), "JPEG", quality=90)


def cut(share: float, kind: str = "JPEG") -> Callable[[Room], bytes]:
    def make(room: Room) -> bytes:
        content = encoded(picture(room.rng, 200, 240), kind)
        return content[: int(len(content) * share)]

    return make


def flipped(room: Room) -> bytes:
    content = bytearray(jpeg(room))
    content[len(content) // 2] ^= 0x55
    return bytes(content)


def bomb(width: int, height: int) -> Callable[[Room], bytes]:
    """A PNG that claims a size, with nearly no data."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(bytes(100_000), 9)) + chunk(b"IEND", b"")
    return lambda room: b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + rest


def _broken() -> list[Case]:

    def tiff_bomb(room: Room) -> bytes:
        return encoded(Image.new("L", (15_000, 15_000)), "TIFF", compression="tiff_deflate")

    def endless_gif(room: Room) -> bytes:
        frame = picture(room.rng)
        return encoded(frame, "GIF", save_all=True, append_images=[frame.rotate(n % 360) for n in range(3000)])

    def tables(room: Room) -> bytes:
        """A progressive JPEG of hundreds of scans over a large frame."""
        content = encoded(Image.new("L", (3000, 3000)), "JPEG", progressive=True)
        place = content.rindex(b"\xff\xda")
        return content[:place] + content[place:-2] * 400 + content[-2:]

    table: dict[str, tuple[str, Callable[[Room], bytes]]] = {
        "empty": ("x.jpg", lambda room: b""),
        "one-byte": ("x.jpg", lambda room: b"\xff"),
        "web-page": ("x.jpg", lambda room: b"<!DOCTYPE html><html>403 Forbidden</html>"),
        "svg": ("x.png", lambda room: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        "noise": ("x.png", lambda room: room.rng.bytes(5000)),
        "postscript": ("x.jpg", lambda room: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"),
        "jpeg-cut-at-10%": ("x.jpg", cut(0.1)),
        "jpeg-cut-at-60%": ("x.jpg", cut(0.6)),
        "jpeg-cut-at-99%": ("x.jpg", cut(0.99)),
        "jpeg-header-only": ("x.jpg", lambda room: jpeg(room)[:20]),
        "jpeg-flipped-byte": ("x.jpg", flipped),
        "jpeg-with-tail": ("x.jpg", lambda room: jpeg(room) + b"PK\x03\x04" * 100),
        "jpeg-of-many-scans": ("x.jpg", tables),
        "png-cut": ("x.png", cut(0.7, "PNG")),
        "webp-cut": ("x.webp", cut(0.7, "WEBP")),
        "gif-cut": ("x.gif", cut(0.5, "GIF")),
        "tiff-cut": ("x.tif", cut(0.5, "TIFF")),
        "bmp-cut": ("x.bmp", cut(0.5, "BMP")),
        "avif-cut": ("x.avif", cut(0.5, "AVIF")),
        "jp2-cut": ("x.jp2", cut(0.5, "JPEG2000")),
        "png-bomb-60000x60000": ("x.png", bomb(60_000, 60_000)),
        "png-bomb-12000x12000": ("x.png", bomb(12_000, 12_000)),
        "png-bomb-2^31": ("x.png", bomb(2**31 - 1, 2**31 - 1)),
        "png-no-width": ("x.png", bomb(0, 5)),
        "png-width-100000": ("x.png", bomb(100_000, 1)),
        "tiff-bomb": ("x.tif", tiff_bomb),
        "gif-of-3000-frames": ("x.gif", endless_gif),
        "pgm-lies": ("x.pgm", lambda room: b"P5\n99999999 99999999\n255\n" + bytes(100)),
        "pgm-depth-0": ("x.pgm", lambda room: b"P5\n4 4\n0\n" + bytes(16)),
        "heic": ("x.heic", lambda room: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)),
        "raw": ("x.cr2", lambda room: b"II*\0" + bytes(100)),
    }
    return [
        _case(name, among_good(file, content, PACK), lost=packed(), megabytes=1600)
        for name, (file, content) in table.items()
    ]


def folder(fill: Callable[[Path, Room], Any], commands: Sequence[Words] = PACK) -> Any:
    def make(room: Room) -> Sequence[Words]:
        source = room / "source"
        for name in ("cat", "dog"):
            (source / name).mkdir(parents=True)
            for number in range(3):
                picture(room.rng).save(source / name / f"{number}.jpg")
        fill(source, room)
        return commands

    return make


def masked(source: Path, room: Room) -> None:
    for path in sorted(source.rglob("*.jpg"))[:4]:
        place = room / "masks" / path.relative_to(source).with_suffix(".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (48, 40), 1).save(place)


def deep(source: Path, room: Room) -> None:
    place = source
    for _ in range(60):
        place /= "deeper"
    place.mkdir(parents=True)
    picture(room.rng).save(place / "x.jpg")


def _files() -> list[Case]:

    masks = [["shards", "pack", "source", "out", "--workers", "1", "--masks", "masks"]]

    names = [
        b"\xe9t\xe9.jpg",
        b"\x1b[31mx.jpg",
        b"a\nb.jpg",
        b"-rf.jpg",
        b"[bold].jpg",
        b"%s.jpg",
        b"a" * 240 + b".jpg",
    ]
    fills: dict[str, tuple[Wants, Callable[[Path, Room], Any]]] = {
        "pipe": ("taken", lambda source, room: os.mkfifo(source / "cat" / "x.jpg")),
        "link-loop": ("taken", lambda source, room: (source / "cat" / "up").symlink_to("..")),
        "link-to-itself": ("taken", lambda source, room: (source / "cat" / "x.jpg").symlink_to("x.jpg")),
        "link-to-nothing": ("taken", lambda source, room: (source / "cat" / "x.jpg").symlink_to("gone.jpg")),
        "link-to-zero": ("taken", lambda source, room: (source / "cat" / "x.jpg").symlink_to("/dev/zero")),
        "folder-called-jpg": ("taken", lambda source, room: (source / "cat" / "x.jpg").mkdir()),
        "hidden": ("taken", lambda source, room: picture(room.rng).save(source / ".x.jpg")),
        "deep": ("taken", deep),
        "empty-class": ("taken", lambda source, room: (source / "bird").mkdir()),
        "same-twice": (
            "taken",
            lambda source, room: (source / "dog" / "y.jpg").write_bytes((source / "cat" / "0.jpg").read_bytes()),
        ),
        "no-suffix": ("taken", lambda source, room: picture(room.rng).save(source / "cat" / "photo", "JPEG")),
        "odd-names": (
            "taken",
            lambda source, room: [
                picture(room.rng).save(os.fsdecode(os.fsencode(source / "cat") + b"/" + name), "JPEG") for name in names
            ],
        ),
        "odd-class": ("taken", lambda source, room: (source / "cat").rename(source / os.fsdecode(b"c\xe9\x1b[31mt\n"))),
        "long-class": ("taken", lambda source, room: (source / "cat").rename(source / ("c" * 250))),
        "classes-by-case": ("taken", lambda source, room: (source / "cat").rename(source / "Dog")),
        "tar-in-folder": ("taken", lambda source, room: (source / "cat" / "x.tar").write_bytes(bytes(10240))),
    }
    found = [_case(f"folder-{name}", folder(fill), wants) for name, (wants, fill) in fills.items()]
    onto = [["shards", "pack", "source", "source", "--workers", "1"]]
    return [
        *found,
        _case("masks-missing", folder(masked, masks)),
        _case("masks-no-folder", folder(lambda source, room: None, masks), "refused", says="masks"),
        _case("onto-itself", folder(lambda source, room: None, onto), "refused", says="source"),
        _case("holdout-nan", folder(lambda s, r: None, [[*PACK[0], "--holdout", "nan"]]), "refused", says="holdout"),
        _case(
            "resize-10^9", folder(lambda s, r: None, [[*PACK[0], "--resize", "1000000000"]]), "either", says="resize"
        ),
        _case("workers-10^6", folder(lambda s, r: None, [[*PACK[0][:-1], "1000000"]]), "either", says="workers"),
        _case("seed-below-0", folder(lambda s, r: None, [[*PACK[0], "--seed", "-1"]]), "refused", says="seed"),
        _case("max-bytes-1", folder(lambda s, r: None, [[*PACK[0], "--max-bytes", "1"]]), "either", says="max.bytes"),
    ]


def _strips() -> list[Case]:
    """Images of odd sides, looked at and trained on."""

    def of_size(height: int, width: int, commands: Sequence[Words]) -> Any:
        def make(room: Room) -> Sequence[Words]:
            for name in ("cat", "dog"):
                (room / "source" / name).mkdir(parents=True)
                for number in range(24):
                    picture(room.rng).save(room / "source" / name / f"{number}.jpg")
                for number in range(2):
                    strip = np.resize(room.rng.integers(0, 256, 3000, dtype=np.uint8), (height, width, 3))
                    Image.fromarray(strip).save(room / "source" / name / f"strip{number}.png")
            return commands

        return make

    held = ["shards", "pack", "source", "shards", "--workers", "1", "--holdout", "0.3"]
    seen = [held, ["eval", "knn", "resnet10t", "shards", "--no-pretrained", "--image-size", "64", "--out", "judged"]]
    shown = [held, ["shards", "show", "shards", "--recipe", "mae_tiny"]]
    return [
        _case(f"strip-{height}x{width}-{name}", of_size(height, width, commands), lost=None, seconds=90)
        for height, width in ((1, 40_000), (40_000, 1), (2, 9_000))
        for name, commands in (("evaluated", seen), ("shown", shown))
    ]
