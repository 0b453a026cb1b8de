"""Images of compressed tables are brought in stretches, used, and deleted; what is packed of them stays the same."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from foreign_tables import jpeg, opened, parquet

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.items import read_item
from eyespot.data_pipeline.shards.outside import arrow_tables, fetching
from eyespot.data_pipeline.shards.outside.fetching import Fetched, done_with, in_reach
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.parts.merge import merge
from eyespot.data_pipeline.shards.parts.task import Task
from eyespot.data_pipeline.shards.parts.task_part import Share


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    for name, first in (("a", 0), ("b", 30)):
        images = pyarrow.array([jpeg(number) for number in range(first, first + 30)])
        captions = [f"picture {number}" for number in range(first, first + 30)]
        parquet(tmp_path / "set" / f"{name}.parquet", image=images, caption=captions)
    return tmp_path / "set"


@pytest.mark.usefixtures("in_this_process")
def test_no_more_lies_there_than_is_used_next(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "STRETCH_BYTES", 1)
    source, spool = opened(tables, tmp_path / "spool"), tmp_path / "spool"
    items = source.splits[""]
    order = [items[row * 7 % 60] for row in range(60)]
    there = in_reach(order, spool, source.fetch)
    assert [item.path for item in there] == [item.path for item in order]
    chunks = (there[start : start + 5] for start in range(0, 60, 5))
    results = done_with(there, (read_item(item) for chunk in chunks for item in chunk))
    seen = list[bytes]()
    for result in results:
        seen.append(result)
        raw = list(spool.glob("rows-*.raw"))
        assert sum(path.stat().st_size for path in raw) <= 2 * sum(len(jpeg(number)) for number in range(8))
    assert seen == [jpeg(row * 7 % 60) for row in range(60)]


@pytest.mark.usefixtures("in_this_process")
def test_a_table_that_changes_is_one_line(tables: Path, tmp_path: Path):
    source = opened(tables, tmp_path / "spool")
    parquet(tables / "b.parquet", image=pyarrow.array([jpeg(1, 64)] * 29), caption=["x"] * 29)
    with pytest.raises(UserError, match=r"b\.parquet: was changed while it was packed"):
        Fetched(source.splits[""], tmp_path / "spool", source.fetch)[:60]


def packed(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("in_this_process")
def test_shards_do_not_depend_on_the_stretches(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pack(str(tables), tmp_path / "one", workers=1, max_samples=8)
    monkeypatch.setattr(fetching, "STRETCH_BYTES", 1)
    pack(str(tables), tmp_path / "some", workers=1, max_samples=8)
    for number in range(2):
        share = Share(tmp_path / "tasks", Task(number, 2))
        pack(str(tables), share.folder, workers=1, max_samples=8, goal=share)
    merge(tmp_path / "tasks")
    assert packed(tmp_path / "one") == packed(tmp_path / "some") == packed(tmp_path / "tasks")


@pytest.mark.usefixtures("in_this_process")
def test_tasks_together_list_each_table_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "set").mkdir()
    for table in range(4):
        images = pyarrow.table({"image": [jpeg(20 * table + number) for number in range(20)]})
        pyarrow.parquet.write_table(images, tmp_path / "set" / f"{table}.parquet", row_group_size=8)
    listed, batches = list[int](), arrow_tables._Table.batches

    def counted(self, names):
        for batch in batches(self, names):
            listed.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(arrow_tables._Table, "batches", counted)
    pack(str(tmp_path / "set"), tmp_path / "one", workers=1, max_samples=3)
    assert sum(listed) == 80
    for number in (2, 0, 3, 1):
        listed.clear()
        share = Share(tmp_path / "tasks", Task(number, 4))
        pack(str(tmp_path / "set"), share.folder, workers=1, max_samples=3, goal=share)
        assert sum(listed) == (80 if number == 2 else 0), "the first task lists for all"
    merge(tmp_path / "tasks")
    assert packed(tmp_path / "one") == packed(tmp_path / "tasks")
    late = Share(tmp_path / "tasks", Task(0, 4))
    pack(str(tmp_path / "set"), late.folder, workers=1, max_samples=3, goal=late)
    assert packed(tmp_path / "one") == packed(tmp_path / "tasks"), "a task that comes after all leaves nothing"
