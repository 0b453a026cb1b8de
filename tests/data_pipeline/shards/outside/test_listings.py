"""What one task writes down of a table is what another one would have read of it itself."""

import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from foreign_tables import jpeg, parquet, struct

from eyespot.data_pipeline.shards.outside import arrow_tables
from eyespot.data_pipeline.shards.outside.arrow_tables import read_table
from eyespot.data_pipeline.shards.outside.listings import keep, kept
from eyespot.data_pipeline.shards.outside.rows import Found, Job, Shared, listing_file


def alive() -> None:
    """Nobody waits."""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A table with labels, captions, nulls, and a name that is no UTF-8."""
    count = 50
    images = struct([jpeg(number) if number % 9 else None for number in range(count)], ["ä/1.jpg"] * count)
    captions = [["one", "two"] if number % 2 else [] for number in range(count)]
    path = parquet(tmp_path / "a.parquet", image=images, caption=captions, label=[n % 3 for n in range(count)])
    shared = Shared(tmp_path / "listed", 0.0)
    return Job(str(path), "a\udcff.parquet", str(tmp_path / "table.raw"), {}, listing_file(shared, 3))


def content(found: Found) -> list[tuple[object, ...]]:
    """All that is known of each file, with its captions."""
    return [(*file[:6], [(end, place.read()) for end, place in file.members]) for file in found.files]


def test_it_gives_back_what_was_found(job: Job):
    assert kept(job, alive) is None
    first = read_table(job, alive)
    expected = content(first)
    assert len(expected) == 44 and first.skipped.total == 6 + 22, "images that are null, captions that are empty"
    again = kept(job._replace(spool=f"{job.spool}.again"), alive)
    assert again is not None and content(again) == expected
    assert (again.classes, again.skipped.listed()) == (first.classes, first.skipped.listed())
    assert {file.place.path.column for file in again.files} == {"image"}
    assert [path.name for path in Path(job.listing).parent.iterdir()] == ["table-000003.arrow"]


def test_a_table_that_is_another_one_by_now_is_read(job: Job):
    read_table(job, alive)
    assert kept(job._replace(columns={"label": ""}), alive) is None
    assert kept(job._replace(shown="b.parquet"), alive) is None
    os.utime(job.path, (1, 1))
    assert kept(job, alive) is None
    assert len(read_table(job, alive).files) == 44 and kept(job, alive) is not None


@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 0.999])
def test_a_listing_that_is_damaged_or_something_else_is_not_used(job: Job, part: float):
    expected = content(read_table(job, alive))
    whole = Path(job.listing).read_bytes()
    for damaged in (whole[: int(part * len(whole))], b"", b"ARROW1" + bytes(100)):
        Path(job.listing).write_bytes(damaged)
        assert kept(job, alive) is None
    with pyarrow.OSFile(job.listing, "wb") as file:
        table = pyarrow.table({"name": [b"x"]})
        with pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    assert kept(job, alive) is None
    assert content(read_table(job, alive)) == expected


def test_nothing_is_written_where_looking_is_cheap_or_failed(job: Job, tmp_path: Path):
    keep(job, Found())
    Path(job.path).write_bytes(b"PAR1 is cut")
    assert read_table(job, alive).problem and not Path(job.listing).exists()
    assert not Path(job.listing).parent.exists()


def test_a_task_that_finds_a_listing_reads_no_image(job: Job, monkeypatch: pytest.MonkeyPatch):
    expected = content(read_table(job, alive))

    def refused(*_: object) -> None:
        raise AssertionError("it was read again")

    monkeypatch.setattr(arrow_tables, "_Table", refused)
    assert content(read_table(job, alive)) == expected
