"""Offsets inside tars of every dialect point at the bytes."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.shards.members.archives import plain_tar
from eyespot.data_pipeline.shards.members.tar_members import (
    IDX_BLOCK,
    IdxText,
    Member,
    Members,
    all_damaged,
    idx_text,
    scan,
)

NAMES = ["a.jpg", "folder/b c.jpg", "ünï/ç.jpg", "long/" + "x" * 180 + ".jpg", "very/" * 60 + "deep.jpg", "empty.jpg"]
CONTENT = {name: (name * 50).encode() if name != "empty.jpg" else b"" for name in NAMES}


def write(path: Path, dialect: int, names: list[str] = NAMES) -> Path:
    with tarfile.open(path, "w", format=dialect) as archive:
        archive.addfile(tarfile.TarInfo("folder/") if dialect == tarfile.USTAR_FORMAT else _folder("folder"))
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(CONTENT[name])
            member.mtime = 0.5 if dialect == tarfile.PAX_FORMAT else 0  # makes a PAX header for every member
            archive.addfile(member, io.BytesIO(CONTENT[name]))
    return path


def _folder(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_offsets_are_of_the_bytes_also_behind_long_headers(tmp_path: Path, dialect: int):
    path = write(tmp_path / "a.tar", dialect)
    found = scan(path)
    data = path.read_bytes()
    assert found.problem is None
    assert [member.name for member in found.files] == NAMES
    assert {name: data[offset : offset + size] for name, offset, size in found.files} == CONTENT


def test_offsets_in_what_the_tar_program_writes(tmp_path: Path):
    for name in NAMES[:4]:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(CONTENT[name])
    path = tmp_path / "a.tar"
    subprocess.run(["tar", "--sort=name", "-C", tmp_path / "in", "-cf", path, "."], check=True)
    data = path.read_bytes()
    found = {name.removeprefix("./"): data[offset : offset + size] for name, offset, size in scan(path).files}
    assert found == {name: CONTENT[name] for name in NAMES[:4]}


@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_cut_anywhere_is_found(tmp_path: Path, dialect: int):
    data = write(tmp_path / "whole.tar", dialect).read_bytes()
    end = data.rstrip(b"\0")
    for length in [*range(513, len(end), 311), *range(512, len(end), 512)]:
        (tmp_path / "cut.tar").write_bytes(data[:length])
        assert scan(tmp_path / "cut.tar").problem, length


def test_tars_that_were_appended_are_read_too(tmp_path: Path):
    parts = [write(tmp_path / "part.tar", tarfile.GNU_FORMAT, [name]).read_bytes() for name in NAMES[:3]]
    (tmp_path / "all.tar").write_bytes(b"".join(parts) + bytes(5000))
    data, found = b"".join(parts), scan(tmp_path / "all.tar")
    assert found.problem is None
    assert {name: data[offset : offset + size] for name, offset, size in found.files} == {
        name: CONTENT[name] for name in NAMES[:3]
    }
    (tmp_path / "all.tar").write_bytes(data[: -len(parts[2]) + 1500])
    assert "truncated" in str(scan(tmp_path / "all.tar").problem)


def test_bytes_behind_the_end_are_named(tmp_path: Path):
    path = write(tmp_path / "a.tar", tarfile.GNU_FORMAT)
    path.write_bytes(path.read_bytes() + bytes(3 << 20) + b"a signature, say")
    found = scan(path)
    assert [member.name for member in found.files] == NAMES and found.problem is None
    assert [one.reason for one in found.skipped.listed()] == ["a folder", "bytes behind the end of the tar"]


def test_what_is_no_plain_file_is_named(tmp_path: Path):
    kinds = {
        tarfile.SYMTYPE: "a link",
        tarfile.LNKTYPE: "a link",
        tarfile.FIFOTYPE: "a device",
        tarfile.DIRTYPE: "a folder",
    }
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, kind in enumerate(kinds):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.type, member.linkname = kind, "elsewhere.jpg"
            archive.addfile(member)
    (tmp_path / "sparse.jpg").touch()
    os.truncate(tmp_path / "sparse.jpg", 1 << 20)
    for dialect in ("gnu", "pax"):
        words = ["tar", "-S", f"--format={dialect}", "-C", tmp_path, "-cf", tmp_path / f"{dialect}.tar", "sparse.jpg"]
        subprocess.run(words, check=True)
        assert [one.reason for one in scan(tmp_path / f"{dialect}.tar").skipped.listed()] == ["a sparse file"]
    found = scan(tmp_path / "a.tar")
    assert not len(found.files) and {one.reason.split(",")[0]: one.examples for one in found.skipped.listed()} == {
        "a link": ["0.jpg", "1.jpg"],
        "a device": ["2.jpg"],
        "a folder": ["3.jpg"],
    }


@pytest.mark.parametrize(("mode", "word"), [("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")])
def test_a_compressed_tar_is_called_so(tmp_path: Path, mode: str, word: str):
    with tarfile.open(tmp_path / "a.tar", mode) as archive:
        archive.addfile(_folder("a"))
    with pytest.raises(UserError, match=rf"compressed \({word}\); unpack it first"):
        scan(tmp_path / "a.tar")


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-0000000100\0"])
def test_hostile_sizes_are_one_line(tmp_path: Path, size: bytes):
    data = bytearray(write(tmp_path / "a.tar", tarfile.USTAR_FORMAT, NAMES[:2]).read_bytes())
    data[512 + 124 : 512 + 136] = size
    header = data[512:1024]
    header[148:156] = b" " * 8
    data[512 + 148 : 512 + 156] = f"{sum(header):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(data)
    assert "truncated or damaged" in str(scan(tmp_path / "a.tar").problem)


def test_what_is_no_tar_is_refused(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(b"not a tar" * 200)
    with pytest.raises(UserError, match="not a plain tar"):
        scan(tmp_path / "a.tar")


def test_idx_text_is_what_dalis_own_tool_writes(tmp_path: Path):
    names = ["0.cls", "0.jpg", "1.cls", "1.jpg", "1.seg.png"]
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for size, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = 300 * size
            archive.addfile(member, io.BytesIO(bytes(300 * size)))
    tool = Path(sys.executable).with_name("wds2idx")
    subprocess.run([tool, tmp_path / "a.tar", tmp_path / "theirs.idx"], check=True, capture_output=True)
    members = [(name.partition(".")[2], offset, size, name) for name, offset, size in scan(tmp_path / "a.tar").files]
    assert idx_text([members[:2], members[2:]]) == (tmp_path / "theirs.idx").read_text()


def test_an_idx_that_is_deflated_as_it_comes_is_the_same_text():
    rng = np.random.default_rng(0)
    name = [f"{number}/{word:x}.jpg" for number, word in enumerate(rng.integers(0, 2**62, 4000).tolist())]
    samples = [[("jpg", 512 * number, number, each)] for number, each in enumerate(name)]
    deflated = IdxText()
    assert b"".join(deflated.blocks()) == b"v1.2 0\n"
    for number, sample in enumerate(samples):
        deflated.add(sample)
        if number == 10:
            assert b"".join(deflated.blocks()).decode() == idx_text(samples[:11])
    deflated.add([])
    blocks = list(deflated.blocks())
    assert len(blocks) > 3 and max(map(len, blocks)) < 100 * IDX_BLOCK
    assert b"".join(blocks).decode() == idx_text(samples)


def test_packed_members_are_what_was_put_in():
    name = ["a/1.jpg", "\udcff\udc80 odd.jpg", "ünï.png", ""] * 40
    put = [Member(each, 512 * row * row, 2**33 - row) for row, each in enumerate(name)]
    members = Members()
    for member in put:
        members.append(member)
    assert list(members) == put and members[7] == put[7] and members[3:9:2] == put[3:9:2]


def test_a_chain_of_long_names_is_damage(tmp_path: Path):
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 4
    path = write(tmp_path / "a.tar", tarfile.GNU_FORMAT)
    path.write_bytes((name.tobuf(tarfile.GNU_FORMAT) + b"abc\0".ljust(512, b"\0")) * 3000 + path.read_bytes())
    with pytest.raises(UserError, match="not a plain tar"):
        scan(path)


def test_a_tar_that_the_disk_does_not_give_is_named(tmp_path: Path):
    """A file of the kernel's that answers every read at its beginning with an I/O error."""
    (tmp_path / "b.tar").symlink_to("/proc/self/mem")
    for read in (scan, lambda path: plain_tar(path, tmp_path)):
        with pytest.raises(Outage, match=r"b\.tar: cannot be read \(Input/output error\)"):
            read(tmp_path / "b.tar")


def test_all_damaged_tars_are_counted_and_some_named():
    one = [("a.tar", "truncated")]
    assert all_damaged(one, "fetch it again") == "a.tar: truncated; fetch it again"
    several = [*one, *((f"{number}.tar", "cut") for number in range(30))]
    assert all_damaged(several[:2], "x") == "a.tar: truncated; x; 1 tar more damaged: 0.tar"
    assert all_damaged(several, "x").endswith(
        "30 tars more damaged: " + "".join(f"{n}.tar, " for n in range(10)) + "..."
    )
