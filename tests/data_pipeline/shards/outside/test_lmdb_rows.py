"""LMDBs of images and labels; pickles in them are never opened."""

import pickle
from pathlib import Path

import lmdb
import pytest
from foreign_tables import jpeg, listed, opened, skipped

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.outside.lmdb_rows import read_lmdb
from eyespot.data_pipeline.shards.outside.rows import Found, Job


def database(path: Path, subdir: bool = True, **values: bytes) -> Path:
    with lmdb.open(str(path), map_size=2**24, subdir=subdir) as environment, environment.begin(write=True) as written:
        for key, value in values.items():
            written.put(key.replace("_", "-").encode("latin-1"), value)
    return path


def read(path: Path, tmp_path: Path) -> Found:
    return read_lmdb(Job(str(path / "data.mdb"), "x", str(tmp_path / "spool.raw"), {}), lambda: None)


VALUES = {
    "image_000000001": jpeg(1),
    "label_000000001": b"dog",
    "image_000000002": jpeg(2, 300),
    "3": jpeg(3),
    "label_3": b" cat\n",
    "label_9": b"nobody",
    "num_samples": b"3",
    "\0\0\0\x07": jpeg(7),
}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("subdir", [True, False])
def test_images_and_labels(tmp_path: Path, subdir: bool):
    path = database(tmp_path / "words.lmdb", subdir, **VALUES)
    source = opened(path, tmp_path / "spool")
    assert source.classes == ["cat", "dog"] and not list((tmp_path / "spool").iterdir())  # they are read where they lie
    assert listed(source)[""] == [
        (jpeg(7), None, None),
        (jpeg(3), "cat", None),
        (jpeg(1), "dog", None),
        (jpeg(2, 300), None, None),
    ]
    assert [item.name.rpartition("/")[2] for item in source.splits[""]][:2] == ["00000007", "3"]
    assert skipped(source) == {"a label without an image": 1, "a note of whoever wrote the LMDB": 1}
    with pytest.raises(UserError, match="an LMDB has none"):
        opened(path, tmp_path / "spool", image="x")


def test_pickles_are_refused_and_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Program:
        def __reduce__(self):
            return open, ("ran-code", "w")

    monkeypatch.chdir(tmp_path)
    for protocol in (2, 3, 4, 5):
        path = database(tmp_path / f"x{protocol}", a=jpeg(1), b=pickle.dumps((jpeg(2), Program()), protocol))
        assert "holds pickles (under the key 'b')" in read(path, tmp_path).problem
    assert not (tmp_path / "ran-code").exists()
    notes = database(tmp_path / "notes", a=jpeg(1))
    with lmdb.open(str(notes), map_size=2**24) as environment, environment.begin(write=True) as written:
        written.put(b"__keys__", pickle.dumps(["a"]))
    found = read(notes, tmp_path)
    assert (found.problem, len(found.files)) == ("", 1)


@pytest.mark.parametrize("some", [slice(0, 1), pytest.param(slice(1, 4), marks=pytest.mark.thorough)])
def test_what_is_no_whole_lmdb_is_one_line(tmp_path: Path, some: slice):
    path = database(tmp_path / "x", **{str(number): jpeg(number, 200) for number in range(200)})
    whole = (path / "data.mdb").read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"no database" * 1000, whole[:5000])[some]:
        (path / "data.mdb").write_bytes(data)
        with pytest.raises(UserError, match=r"^source .*(LMDB|reader|no images)") as caught:
            opened(path, tmp_path / "spool")
        assert "\n" not in str(caught.value)
