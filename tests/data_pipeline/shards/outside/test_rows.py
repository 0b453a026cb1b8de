"""What readers hand on: places inside of their file, or in the spool; bounded."""

from pathlib import Path

import pytest

from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.outside import rows
from eyespot.data_pipeline.shards.outside.rows import Found, Job, NotReadable, Spool, spool_file


def test_bytes_go_where_their_place_says(tmp_path: Path):
    (tmp_path / "table").write_bytes(b"0123456789")
    found, job = Found(), Job(str(tmp_path / "table"), "t", spool_file(tmp_path, 7), {})
    spool = Spool(job, found)
    spool.add("a", b"first", label="x", captions=["one\ntwo", ""])
    spool.add("b", Place(job.path, 3, 4))
    spool.skip("nothing", "c")
    spool.close()
    first, second = found.files
    assert (first.place.read(), first.members[0][1].read(), first.text) == (b"first", b"one two\n", "x")
    assert (second.name, second.place.read(), second.members) == ("t/b", b"3456", ())
    assert [one.examples for one in found.skipped.listed()] == [["t/c"]]


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "table").write_bytes(b"012")
    monkeypatch.setattr(rows, "ROOM", 100)
    spool = Spool(Job(str(tmp_path / "table"), "t", str(tmp_path / "raw"), {}), Found())
    with pytest.raises(NotReadable, match="a bomb"):
        spool.add("a", bytes(401))
    for number in range(3):
        spool.add(str(number), bytes(100))
    with pytest.raises(NotReadable, match="more rows than bytes"):
        spool.add("3", b"")
    spool.close()
    assert (tmp_path / "raw").stat().st_size == 300
