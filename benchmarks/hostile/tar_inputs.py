"""Tars of other people, for ``shards index`` and ``shards pack``: names, keys, and kinds of archive."""

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hostile.accounts import indexed, packed_tar, tar_of
from hostile.case import Case, Room, Wants, Words
from hostile.fixtures import photo_folder, picture
from hostile.tar_entries import INDEX, PACK, VERIFIED, Entries, jpeg, link, named, of_bytes, of_entries, pax, png, sound
from hostile.tar_labels import label_cases


def cases() -> list[Case]:
    """All of this file, and those of labels."""
    return [*_names(), *_archives(), *_headers(), *_places(), *_packed(), *label_cases()]


def _case(name: str, wants: Wants, make: Any, says: str = "", **options: Any) -> Case:
    return Case(kind="tars", name=name, wants=wants, make=make, says=says, **({"lost": indexed()} | options))


def _names() -> list[Case]:
    many = range(12)
    wide = [f"b\xe9b\xe9-{number}.jpg".encode("latin-1").decode("utf-8", "surrogateescape") for number in many]
    long = "/".join(["folder" * 10] * 6)
    table: dict[str, tuple[Wants, Entries]] = {
        "dots-in-names": ("either", named(*(f"IMG_2022.05.{number:02d}.jpg" for number in many))),
        "dots-of-versions": ("either", named(*(f"v1.{number}/shot.final.jpg" for number in many))),
        "dots-in-folders": ("taken", named(*(f"set.v1/{number}.jpg" for number in many))),
        "depth-maps-beside": (
            "either",
            lambda room: [(f"{n}.{e}", jpeg(room)) for n in many for e in ("depth.jpg", "jpg")],
        ),
        "thumbnails-beside": (
            "either",
            lambda room: [(f"{n}.{e}", jpeg(room)) for n in many for e in ("jpg", "thumb.jpg")],
        ),
        "two-cameras": ("either", named(*(f"{n}.{side}.jpg" for n in many for side in ("left", "right")))),
        "jpg-and-png-of-each": (
            "either",
            lambda room: [(f"{n}.{e}", jpeg(room) if e == "jpg" else png(room)) for n in many for e in ("jpg", "png")],
        ),
        "frames": ("either", named(*(f"clip{n // 4}.{n % 4:03d}.jpg" for n in many))),
        "same-name-twice": ("either", named("a.jpg", "b.jpg", "a.jpg")),
        "same-key-not-adjacent": ("either", named("a.jpg", "b.jpg", "a.png.jpg", "c.jpg")),
        "same-key-in-folders": ("taken", named("x/1.jpg", "y/1.jpg", "x/2.jpg", "y/2.jpg")),
        "uppercase-suffixes": ("taken", named("A.JPG", "B.JPEG", "C.Jpg", "D.JPE")),
        "names-of-latin1": ("taken", named(*wide)),
        "names-with-newlines": ("taken", named("a\nb.jpg", "c\r\nd.jpg", "e\tf.jpg")),
        "names-with-escapes": ("taken", named("\x1b[31mred.jpg", "\x1b]0;title\x07.jpg", "\x9b2J.jpg")),
        "names-with-spaces": ("taken", named("a photo.jpg", " lead.jpg", "trail .jpg", "two  spaces.jpg")),
        "names-very-long": ("taken", named(f"{long}/a.jpg", f"{long}/{'b' * 200}.jpg")),
        "names-absolute": ("taken", named("/etc/a.jpg", "/tmp/b.jpg")),
        "names-going-up": ("taken", named("../../a.jpg", "../b.jpg")),
        "names-with-dot-slash": ("taken", named("./cat/1.jpg", "./cat/2.jpg", "./dog/3.jpg")),
        "names-of-quotes": ("taken", named('a"b.jpg', "c'd.jpg", "e\\f.jpg", "$(touch evil).jpg", "%s.jpg")),
        "names-composed-and-not": ("taken", named("caf\u00e9.jpg", "cafe\u0301.jpg")),
        "names-of-markup": ("taken", named("[bold]a[/bold].jpg", "[/]b.jpg", "<script>c.jpg")),
        "a-suffix-alone": ("either", named(".jpg", "a/.jpg", "b.jpg")),
        "mac-files": ("taken", named("a.jpg", "._a.jpg", "__MACOSX/._a.jpg", ".DS_Store", "b.jpg")),
        "no-suffix": ("either", named("a", "b", "c.jpg")),
        "heic-among-them": ("either", lambda room: [*sound(room), ("x.heic", b"\0\0\0\x18ftypheic" + bytes(60))]),
        "png-called-jpg": ("either", lambda room: [("a.jpg", png(room)), ("b.jpg", jpeg(room))]),
        "text-called-jpg": ("either", lambda room: [*sound(room), ("x.jpg", b"<html>404 not found</html>")]),
        "empty-images": ("either", lambda room: [*sound(room), ("x.jpg", b""), ("y.jpg", b"")]),
        "json-beside": ("taken", lambda room: [e for n, c in sound(room) for e in ((n, c), (f"{n[:4]}.json", b"{"))]),
        "captions-beside": (
            "taken",
            lambda room: [e for n, c in sound(room) for e in ((n, c), (f"{n[:4]}.txt", b"x"))],
        ),
        "only-captions": ("refused", lambda room: [(f"{n}.txt", b"words") for n in range(2000)]),
        "webp-images": (
            "either",
            lambda room: [("a.webp", _webp(room)), ("b.webp", _webp(room)), ("c.jpg", jpeg(room))],
        ),
        "only-webp-images": ("either", lambda room: [("a.webp", _webp(room)), ("b.webp", _webp(room))]),
        "masks-for-some": ("taken", lambda room: [*sound(room), ("0001.seg.png", _mask(40, 48))]),
        "mask-of-another-size": ("either", lambda room: [*sound(room), ("0001.seg.png", _mask(7, 7))]),
        "a-mask-without-image": ("either", lambda room: [*sound(room), ("lonely.seg.png", _mask(40, 48))]),
    }
    return [_case(name, wants, of_entries(entries)) for name, (wants, entries) in table.items()]


def _webp(room: Room) -> bytes:
    file = io.BytesIO()
    picture(room.rng).save(file, "WEBP", lossless=True)
    return file.getvalue()


def _mask(height: int, width: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (width, height), 1).save(file, "PNG")
    return file.getvalue()


def _zip(room: Room) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in sound(room):
            archive.writestr(name, content)
    return file.getvalue()


def _flipped(data: bytes) -> bytes:
    """One bit of the second header."""
    place = data.index(b"0001.jpg")
    return data[:place] + b"\x20" + data[place + 1 :]


def _archives() -> list[Case]:
    def written(name: str, content: Callable[[Room], bytes]) -> Callable[[Room], Any]:
        def make(room: Room) -> Sequence[Words]:
            (room / "data").mkdir()
            (room / "data" / name).write_bytes(content(room))
            return VERIFIED

        return make

    twice = written("a.tar", lambda room: tar_of(sound(room)) + tar_of([("late.jpg", jpeg(room))]))
    return [
        _case("zip-called-tar", "refused", written("a.tar", _zip), "a.tar"),
        _case("zip", "refused", written("a.zip", _zip), "zip|pack"),
        _case("gzip-called-tar", "refused", of_bytes(gzip.compress), "a.tar"),
        _case("gzip", "refused", of_bytes(gzip.compress, "a.tar.gz"), "a.tar.gz"),
        _case("tgz", "refused", of_bytes(gzip.compress, "a.tgz"), "data"),
        _case("cut-after-a-member", "refused", of_bytes(lambda data: data[: 512 * 6]), "a.tar"),
        _case("cut-in-a-member", "refused", of_bytes(lambda data: data[: 512 * 6 + 700]), "a.tar"),
        _case("cut-in-a-header", "refused", of_bytes(lambda data: data[: len(data) // 2 // 512 * 512 + 200]), "a.tar"),
        _case("without-its-end", "either", of_bytes(lambda data: data.rstrip(b"\0")), "a.tar"),
        _case("empty-file", "refused", written("a.tar", lambda room: b""), "a.tar"),
        _case("empty-tar", "refused", written("a.tar", lambda room: tar_of([])), "data"),
        _case("noise", "refused", written("a.tar", lambda room: room.rng.bytes(50_000)), "a.tar"),
        _case("two-in-one-file", "either", twice, "a.tar"),
        _case("garbage-behind", "either", of_bytes(lambda data: data + b"garbage" * 1000), "a.tar"),
        _case("a-flipped-header-byte", "refused", of_bytes(_flipped), "a.tar"),
        _case("ustar", "taken", of_entries(sound, format=tarfile.USTAR_FORMAT)),
        _case("gnu", "taken", of_entries(sound, format=tarfile.GNU_FORMAT)),
        _case("web-page-called-tar", "refused", written("a.tar", lambda room: b"<html>" + b"x" * 20_000), "a.tar"),
    ]


def sparse(room: Room) -> list[tuple[Any, bytes]]:
    info = pax("holes.jpg", **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "4000"})
    info.pax_headers["GNU.sparse.name"] = "holes.jpg"
    return [*sound(room), (info, b"1\n0\n512\n".ljust(512, b"\0") + bytes(512))]


def chain(room: Room) -> bytes:
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 4
    return (name.tobuf(tarfile.GNU_FORMAT) + b"abc\0".ljust(512, b"\0")) * 3000 + tar_of(sound(room))


def sized(text: bytes) -> Callable[[bytes], bytes]:
    """The first member's size replaced, its checksum made right."""

    def spoil(data: bytes) -> bytes:
        head = bytearray(data[:512])
        head[124:136] = text.ljust(12, b"\0")[:12]
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        return bytes(head) + data[512:]

    return spoil


def _headers() -> list[Case]:

    def raw(content: Callable[[Room], bytes]) -> Callable[[Room], Any]:
        def make(room: Room) -> Sequence[Words]:
            (room / "data").mkdir()
            (room / "data" / "a.tar").write_bytes(content(room))
            return VERIFIED

        return make

    def comment(room: Room) -> bytes:
        return tar_of(sound(room), pax_headers={"comment": "0" * 40})

    def bad_pax(record: bytes) -> Callable[[Room], Any]:
        def content(room: Room) -> bytes:
            head = tarfile.TarInfo("PaxHeader")
            head.type, head.size = tarfile.XHDTYPE, len(record)
            padded = record.ljust(-len(record) % 512 + len(record), b"\0")
            return head.tobuf(tarfile.USTAR_FORMAT) + padded + tar_of(sound(room))

        return raw(content)

    return [
        _case("sparse", "either", of_entries(sparse)),
        _case(
            "hard-link", "either", of_entries(lambda r: [*sound(r), (link("x.jpg", "0001.jpg", tarfile.LNKTYPE), b"")])
        ),
        _case(
            "symbolic-link",
            "either",
            of_entries(lambda r: [*sound(r), (link("x.jpg", "/etc/passwd", tarfile.SYMTYPE), b"")]),
        ),
        _case("device", "either", of_entries(lambda r: [*sound(r), (link("null.jpg", "", tarfile.CHRTYPE), b"")])),
        _case("pipe", "either", of_entries(lambda r: [*sound(r), (link("pipe.jpg", "", tarfile.FIFOTYPE), b"")])),
        _case(
            "folder-called-jpg", "taken", of_entries(lambda r: [(link("x.jpg", "", tarfile.DIRTYPE), b""), *sound(r)])
        ),
        _case("comment-of-git-archive", "taken", raw(comment)),
        _case("a-chain-of-long-names", "either", raw(chain), "a.tar"),
        _case("size-of-gigabytes", "refused", of_bytes(sized(b"\x80\0\0\0\0\0\0\x10\0\0\0\0")), "a.tar"),
        _case("size-below-zero", "refused", of_bytes(sized(b"\xff" * 11 + b"\0")), "a.tar"),
        _case("size-of-2^90", "refused", of_bytes(sized(b"\x80" + b"\x7f" * 11)), "a.tar"),
        _case("size-that-is-text", "refused", of_bytes(sized(b"zzzzzzzzzzz")), "a.tar"),
        _case("pax-size-that-is-text", "either", bad_pax(b"17 size=abcdefgh\n"), "a.tar"),
        _case("pax-time-nan", "either", of_entries(lambda r: [(pax("a.jpg", mtime="nan"), jpeg(r)), *sound(r)])),
        _case("pax-time-1e400", "either", of_entries(lambda r: [(pax("a.jpg", mtime="1e400"), jpeg(r)), *sound(r)])),
        _case("pax-length-lies", "either", bad_pax(b"9999999999 path=x\n"), "a.tar"),
        _case("pax-length-0", "either", bad_pax(b"0 path=x\n"), "a.tar"),
        _case("pax-not-utf8", "either", bad_pax(b"14 path=\xff\xfe.jp\n"), "a.tar"),
        _case("pax-of-80-mb", "either", bad_pax(b"80000013 path=%s\n" % (b"x" * 79_999_998)), megabytes=400),
    ]


def folder(fill: Callable[[Path, Room], None], commands: Sequence[Words] = VERIFIED) -> Callable[[Room], Any]:
    def make(room: Room) -> Sequence[Words]:
        (room / "data").mkdir()
        fill(room / "data", room)
        return commands

    return make


def good(data: Path, room: Room, name: str = "a.tar") -> None:
    (data / name).write_bytes(tar_of(sound(room)))


def train_and_val(data: Path, room: Room) -> None:
    for name in ("train-0000.tar", "train-0001.tar", "val-0000.tar"):
        (data / name).write_bytes(tar_of(sound(room)))


def both(room: Path, said: str) -> str:
    merged = (room / "data" / "manifest.json").exists() and "val" in (room / "data" / "manifest.json").read_text()
    return "train-*.tar and val-*.tar became one data set" if merged else ""


def nested(data: Path, room: Room) -> None:
    names = [f"{where}/{number}.jpg" for where in ("a/abbey", "a/alley", "b/bar") for number in range(3)]
    content = tar_of([(name, jpeg(room)) for name in names])
    (data / "a.tar").write_bytes(content)
    (room / "source.tar").write_bytes(content)


def same_classes(room: Path, said: str) -> str:
    import json

    found = [json.loads((room / name / "manifest.json").read_bytes())["classes"] for name in ("data", "out")]
    return "" if found[0] == found[1] else f"index finds the classes {found[0]}, pack {found[1]}"


def stale(text: str) -> Callable[[Path, Room], None]:
    return lambda data, room: (good(data, room), (data / "manifest.json").write_text(text))[0]


def _places() -> list[Case]:

    inside = "data/class/images"
    return [
        _case("train-and-val-together", "either", folder(train_and_val, INDEX), lost=both),
        _case("classes-of-nested-folders", "either", folder(nested, [*INDEX, *PACK]), lost=same_classes),
        _case("photos-not-tars", "refused", lambda room: (photo_folder(room / "data", room.rng), INDEX)[1], "pack"),
        _case("no-folder", "refused", lambda room: INDEX, "data"),
        _case("a-file-as-folder", "refused", lambda room: ((room / "data").write_text("x"), INDEX)[1], "data"),
        _case("empty-folder", "refused", folder(lambda data, room: None), "data"),
        _case("folder-called-tar", "refused", folder(lambda data, room: (data / "a.tar").mkdir()), "a.tar"),
        _case("pipe-called-tar", "refused", folder(lambda data, room: os.mkfifo(data / "a.tar")), "a.tar", seconds=30),
        _case("link-to-nothing", "refused", folder(lambda data, room: (data / "a.tar").symlink_to("gone")), "a.tar"),
        _case("link-to-itself", "refused", folder(lambda data, room: (data / "a.tar").symlink_to("a.tar")), "a.tar"),
        _case(
            "deeper-than-asked",
            "either",
            lambda room: ((room / inside).mkdir(parents=True), good(room / inside, room), INDEX)[2],
        ),
        _case("a-name-with-escapes", "either", folder(lambda data, room: good(data, room, "\x1b[31ma.tar"))),
        _case("a-name-of-latin1", "either", folder(lambda data, room: good(data, room, os.fsdecode(b"b\xe9.tar")))),
        _case(
            "an-empty-tar-beside",
            "either",
            folder(lambda data, room: (good(data, room), (data / "b.tar").write_bytes(tar_of([])))[0]),
        ),
        _case("old-manifest-garbage", "taken", folder(stale("{]"))),
        _case("old-manifest-a-list", "taken", folder(stale("[1]"))),
        _case("old-manifest-deep", "taken", folder(stale("[" * 100_000))),
        _case(
            "manifest-is-a-folder",
            "either",
            folder(lambda data, room: (good(data, room), (data / "manifest.json").mkdir())[0]),
        ),
        _case(
            "index-is-a-folder",
            "either",
            folder(lambda data, room: (good(data, room), (data / "index.npy").mkdir())[0]),
        ),
    ]


def _packed() -> list[Case]:
    return [
        _case(
            "packed-names-with-dots",
            "taken",
            of_entries(named("a/x.1.jpg", "a/x.2.jpg", "b/x.1.jpg"), PACK),
            lost=packed_tar("source.tar"),
        ),
        _case(
            "packed-odd-suffixes",
            "taken",
            of_entries(named("a/1.jpg", "a/2", "b/3.heic", "b/4.raw"), PACK),
            lost=packed_tar("source.tar"),
        ),
        _case(
            "packed-names-twice",
            "taken",
            of_entries(named("a/1.jpg", "a/1.jpg", "b/2.jpg"), PACK),
            lost=packed_tar("source.tar"),
        ),
        _case(
            "packed-latin1",
            "taken",
            of_entries(named(os.fsdecode(b"a/\xe91.jpg"), os.fsdecode(b"\xe9/2.jpg")), PACK),
            lost=packed_tar("source.tar"),
        ),
        _case(
            "packed-hard-link",
            "either",
            of_entries(lambda r: [*sound(r), (link("x.jpg", "0001.jpg", tarfile.LNKTYPE), b"")], PACK),
            lost=_named_in("x.jpg"),
        ),
    ]


def _named_in(name: str) -> Callable[[Path, str], str]:
    def lost(room: Path, said: str) -> str:
        texts = [said, *(path.read_text() for path in (room / "out").rglob("manifest.json"))]
        return "" if any(name in text for text in texts) else f"{name} is neither packed nor named"

    return lost
