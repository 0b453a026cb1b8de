"""What is compressed is unpacked once; what a zip holds beside images is counted."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.archives import plain_tar, zip_files
from eyespot.data_pipeline.shards.members.skipped import Tally
from eyespot.data_pipeline.shards.members.tar_members import scan


def test_a_plain_tar_is_read_where_it_lies_and_a_compressed_one_unpacked(tmp_path: Path):
    for name, mode in (("a.tar", "w"), ("b.tgz", "w:gz"), ("c.tar.xz", "w:xz")):
        with tarfile.open(tmp_path / name, mode) as archive:
            member = tarfile.TarInfo(f"{name}.jpg")
            member.size = 5
            archive.addfile(member, io.BytesIO(b"image"))
    assert plain_tar(tmp_path / "a.tar", tmp_path) == tmp_path / "a.tar"
    (tmp_path / "spool").mkdir()
    for _ in range(2):  # a pack that was killed goes on: what it unpacked is replaced
        packed = (tmp_path / "b.tgz", tmp_path / "c.tar.xz")
        unpacked = [plain_tar(path, tmp_path / "spool", number) for number, path in enumerate(packed)]
        assert [scan(path).files[0].name for path in unpacked] == ["b.tgz.jpg", "c.tar.xz.jpg"]
        assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == ["source.tar", "source1.tar"]


def test_links_folders_and_notes_in_a_zip_are_named(tmp_path: Path):
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(link, "photo.jpg")
        for name in ("photo.jpg", "a/", "._photo.jpg", "b.txt", "\udce4.png".encode("utf-8", "replace").decode()):
            archive.writestr(name, name)
    tally = Tally()
    found = zip_files(tmp_path / "a.zip", tmp_path, tally)
    assert [(name, place.read()) for name, place in found] == [("photo.jpg", b"photo.jpg"), ("?.png", b"?.png")]
    assert tally.total == 4 and {one.count for one in tally.listed()} == {1}


def test_an_encrypted_zip_is_one_line(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("1.jpg", b"image")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + flags] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"cannot be read .*encrypted.*unpack it"):
        zip_files(tmp_path / "a.zip", tmp_path, Tally())


class Pipe(io.BytesIO):
    """Takes no seeking, as the standard output: a zip's sizes then follow each file."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise OSError("a pipe")


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_is_read_where_it_lies(tmp_path: Path, kind: int):
    files = {"a.jpg": bytes(100_000), "b.jpg": b"image" * 999, "c.jpg": b""}
    stream = Pipe()
    for target in (tmp_path / "a.zip", stream):
        with zipfile.ZipFile(target, "w", kind) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    (tmp_path / "b.zip").write_bytes(b"a program that unpacks itself" + stream.getvalue())
    for name in ("a.zip", "b.zip"):
        found = zip_files(tmp_path / name, tmp_path, Tally())
        assert {name: place.read() for name, place in found} == files
        assert (tmp_path / "source.zip.raw").stat().st_size == (kind == zipfile.ZIP_BZIP2) * sum(
            map(len, files.values())
        )
        places = pickle.loads(pickle.dumps([place for _, place in found]))  # to workers
        assert [place.read() for place in places] == list(files.values())


def test_a_zip_that_changes_gives_no_other_bytes(tmp_path: Path):
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as archive:
            archive.writestr("a.jpg", bytes(range(256)) * 9)
        ((_, place),) = zip_files(tmp_path / "a.zip", tmp_path, Tally())
        whole = (tmp_path / "a.zip").read_bytes()
        for place_of_flip in range(35, 300, 24):
            data = bytearray(whole)
            data[place_of_flip] ^= 8
            (tmp_path / "a.zip").write_bytes(data)
            with pytest.raises(OSError, match="changed while it was packed"):
                place.read()
        (tmp_path / "a.zip").write_bytes(whole[:20])
        with pytest.raises(OSError, match="changed while it was packed"):
            place.read()
