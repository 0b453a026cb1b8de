"""Archives of strangers: whole ones come out the same; every other is one line, and nothing is written elsewhere."""

import gzip
import io
import os
import resource
import stat
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from released_runs import content

from eyespot.data_pipeline.errors import UserError
from eyespot.eval.release import archive as archive_module
from eyespot.eval.release import layout
from eyespot.eval.release.archive import unpack

MAX_BYTES = 1 << 22


def tar_of(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def zip_of(path: Path, *members: tuple[str, bytes] | tuple[str, bytes, int]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, *kind in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind[0] if kind else stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
@pytest.mark.parametrize("top", ["", "./", "digits/"])
def test_a_whole_archive_comes_out_as_it_went_in(released: Path, tmp_path: Path, name: str, top: str):
    path = tmp_path / name
    members = [(f"{top}{file.name}", file.read_bytes()) for file in sorted(released.iterdir())]
    if name.endswith("zip"):
        zip_of(path, *([("digits/", b"")] if top == "digits/" else []), *members)
    else:
        folder = [special("./" if top == "./" else top.strip("/"), tarfile.DIRTYPE)] if top else []
        tar_of(path, *folder, *members, mode="w:gz" if name.endswith("gz") else "w")
    (tmp_path / "into").mkdir()
    unpack(path, tmp_path / "into", MAX_BYTES, "release")
    assert content(tmp_path / "into") == content(released)


HOSTILE = {
    "absolute": ([("/tmp/README.md", b"x")], "points outside"),
    "upwards": ([("../README.md", b"x")], "points outside"),
    "upwards inside": ([("a/../../README.md", b"x")], "points outside"),
    "backslashes": ([("..\\README.md", b"x")], "points outside"),
    "symbolic link": ([special("README.md", tarfile.SYMTYPE, "/etc/passwd")], "a link, a device or full of holes"),
    "hard link": ([special("README.md", tarfile.LNKTYPE, "/etc/passwd")], "a link, a device or full of holes"),
    "device": ([special("README.md", tarfile.CHRTYPE)], "a link, a device or full of holes"),
    "pipe": ([special("README.md", tarfile.FIFOTYPE)], "a link, a device or full of holes"),
    "link to a folder": ([special("a", tarfile.SYMTYPE, ".."), ("a/README.md", b"x")], "a link, a device"),
    "no file of a release": ([("README.md", b"x"), (".bashrc", b"x")], "'.bashrc' is no file of a release"),
    "deep": ([("a/b/README.md", b"x")], "no file of a release"),
    "twice": ([("README.md", b"x"), ("./README.md", b"y")], "is there twice"),
    "two releases": ([("a/README.md", b"x"), ("b/config.json", b"y")], "is there twice"),
    "too large": ([("README.md", bytes(MAX_BYTES)), ("config.json", b"x")], "too large to be unpacked"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_tar_is_refused(tmp_path: Path, what: str):
    members, words = HOSTILE[what]
    refuse(tar_of(tmp_path / "a.tar", *members), words)


def refuse(archive: Path, words: str) -> None:
    into = archive.parent / "room" / "into"
    into.mkdir(parents=True)
    with pytest.raises(UserError, match=words) as error:
        unpack(archive, into, MAX_BYTES, "release")
    assert "\n" not in str(error.value)
    assert {path.name for path in archive.parent.iterdir()} == {archive.name, "room"}
    assert [path.name for path in (archive.parent / "room").iterdir()] == ["into"]


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (("../README.md", b"x"), "points outside"),
        (("/README.md", b"x"), "points outside"),
        (("README.md", b"/etc/passwd", stat.S_IFLNK | 0o777), "a link or a device"),
        (("install.py", b"x"), "no file of a release"),
        (("model.safetensors", bytes(MAX_BYTES + 1)), "too large to be unpacked"),
    ],
)
def test_a_hostile_zip_is_refused(tmp_path: Path, member: tuple, words: str):
    refuse(zip_of(tmp_path / "a.zip", member), words)


def test_what_a_header_says_of_its_size_is_not_believed(tmp_path: Path):
    """A zip whose directory says one byte, and whose data are many more."""
    path = zip_of(tmp_path / "a.zip", ("README.md", bytes(1 << 20)))
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = (1).to_bytes(4, "little")
    path.write_bytes(data)
    refuse(path, "damaged or cut short")


def test_a_bomb_stops_at_the_limit(tmp_path: Path):
    path = tmp_path / "a.tar.gz"
    tar_of(tmp_path / "plain", ("model.safetensors", bytes(16 << 20)))
    path.write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    (tmp_path / "plain").unlink()
    assert path.stat().st_size < 100_000
    refuse(path, "too large to be unpacked")
    assert sum(file.stat().st_size for file in (tmp_path / "room" / "into").iterdir()) == 0


@pytest.mark.parametrize("kind", ["w", "w:gz"])
def test_a_tar_that_was_cut_short(tmp_path: Path, kind: str):
    path = tar_of(tmp_path / "a.tar", ("model.safetensors", os.urandom(100_000)), mode=kind)
    os.truncate(path, 50_000)
    refuse(path, "damaged or cut short")


def test_a_zip_that_was_cut_short_or_changed(tmp_path: Path):
    path = zip_of(tmp_path / "a.zip", ("model.safetensors", os.urandom(100_000)))
    data = path.read_bytes()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "b.zip").write_bytes(data[:50_000] + b"xx" + data[50_002:])
    refuse(tmp_path / "b" / "b.zip", "damaged or cut short")
    (tmp_path / "b" / "b.zip").rename(tmp_path / "kept")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "c.zip").write_bytes(data[:50_000])
    refuse(tmp_path / "c" / "c.zip", "damaged or cut short")


def test_no_archive_at_all(tmp_path: Path):
    (tmp_path / "a.tar").write_text("<html>Not found</html>")
    refuse(tmp_path / "a.tar", "damaged or cut short")


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def extended(data: bytes) -> bytes:
    """A pax header."""
    return header("././@PaxHeader", tarfile.XHDTYPE, len(data)) + padded(data)


FILE = header("README.md", tarfile.REGTYPE, 1) + padded(b"x")
LONG = 32 << 20
HUGE_HEADERS = {
    "a comment of 32 MB": header("x", tarfile.XHDTYPE, LONG) + padded(b"%d comment=" % LONG + bytes(LONG)) + FILE,
    "for all members": header("x", tarfile.XGLTYPE, LONG) + padded(b"%d comment=" % LONG + bytes(LONG)) + FILE,
    "a name of 32 MB": header("././@LongLink", tarfile.GNUTYPE_LONGNAME, LONG) + bytes(LONG) + FILE,
    "a link's name, said to have 8 EB": header("././@LongLink", tarfile.GNUTYPE_LONGLINK, 1 << 62) + FILE,
    "a name of less than nothing": header("././@LongLink", tarfile.GNUTYPE_LONGNAME, -512) + FILE,
    "a file of less than nothing": header("README.md", tarfile.REGTYPE, -1024) + FILE,
    "no end of headers": extended(b"13 comment=ab\n") * 5_000 + FILE,
    "no end of large headers": extended(b"8000 comment=" + bytes(7_986) + b"\n") * 500 + FILE,
    "digits that a pattern chokes on": extended(b"1" * 8_000) * 200 + FILE,
    "no end of folders": header("a", tarfile.DIRTYPE, 0) * 100_000 + FILE,
    "a map of holes without end": extended(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n")
    + header("README.md", tarfile.REGTYPE, LONG)
    + b"9999999\n"
    + b"1\n" * (LONG // 4),
    "more holes": header("README.md", tarfile.GNUTYPE_SPARSE, 0)[:482]
    + b"\1"
    + bytes(29)
    + (bytes(504) + b"\1" + bytes(7)) * 50_000,
}


@pytest.mark.parametrize("what", HUGE_HEADERS)
@pytest.mark.parametrize("squeezed", [False, True], ids=["tar", "gz"])
def test_huge_headers_cost_nothing(tmp_path: Path, what: str, squeezed: bool):
    data = HUGE_HEADERS[what]
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(data, 1) if squeezed else data)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refuse(path, "headers larger|impossible size|over 64 members|damaged|cannot be read|holes")
    assert time.process_time() - begin < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10


def test_a_directory_of_a_zip_without_end(tmp_path: Path):
    path = tmp_path / "a.zip"
    zip_of(path, *((f"{number}", b"") for number in range(20_000)))
    refuse(path, "headers larger")


def test_a_zip_that_needs_gigabytes_to_be_read(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("README.md", b"x")
    refuse(tmp_path / "a.zip", "exotic")


def test_texts_are_no_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(layout, "MAX_TEXT_BYTES", 1_000)
    refuse(tar_of(tmp_path / "a.tar", ("README.md", bytes(1_001))), "more than 1,000 out of README.md")


def test_little_that_becomes_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """4 MB of zeros, of 4 kB: below the limit of a release, and no weights."""
    monkeypatch.setattr(archive_module, "_FREE_OF_RATIO", 1 << 20)
    path = tmp_path / "a.tar.gz"
    tar_of(path, ("model.safetensors", bytes(MAX_BYTES - 1)), mode="w:gz")
    refuse(path, "too large to be unpacked")
