"""Archives of strangers: whole ones come out the same; every other is one line, and nothing is written elsewhere."""

import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from released_runs import content

from eyespot.data_pipeline.errors import UserError
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
