"""Tables become sources: splits, classes, and one line where that is not possible. Readers run in their own process."""

import json
import shutil
from pathlib import Path

import pyarrow
import pyarrow.dataset
import pytest
from foreign_tables import arrow, jpeg, listed, opened, parquet, skipped, struct

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.outside.tables import saved_files
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

REAL = Path(__file__).with_name("hugging_face")
"""What datasets 5.2.0 wrote: ``saved`` by DatasetDict.save_to_disk, ``one`` by Dataset.save_to_disk, ``hub`` by
to_parquet, under the names that push_to_hub gives. Six pictures: labels 0, 1, 0, 1, none, 0 of zebra and ape."""
CLASSES = ["zebra", "ape", "zebra", "ape", None, "zebra"]


@pytest.mark.usefixtures("in_this_process")
def test_what_datasets_really_writes(tmp_path: Path):
    saved = listed(opened(REAL / "saved", tmp_path / "a"))
    hub = listed(opened(REAL / "hub", tmp_path / "b"))
    assert saved == hub and list(saved) == ["train", "test"]
    together = [*saved["train"], *saved["test"]]
    assert [(label, text) for _, label, text in together] == [
        (label, f"picture {number}\n".encode()) for number, label in enumerate(CLASSES)
    ]
    one = listed(opened(REAL / "one", tmp_path / "c"))
    assert one == {"": [together[3], together[1]]}
    source = opened(REAL / "saved" / "train", tmp_path / "d", caption="")
    assert source.classes == ["zebra", "ape"] and [text for *_, text in listed(source)[""]] == [None] * 4


@pytest.mark.usefixtures("in_this_process")
def test_a_saved_data_set_packs_like_any_other(tmp_path: Path):
    manifests = pack(str(REAL / "saved"), tmp_path / "out", columns={"image": "img", "label": "label"})
    assert {split: one.num_samples for split, one in manifests.items()} == {"test": 2, "train": 4}
    assert manifests["train"].packing["columns"] == {"image": "img", "label": "label"}
    assert manifests["train"].classes == ["zebra", "ape"] and manifests["train"].members["txt"].count == 4
    assert sorted(ShardFolder(tmp_path / "out" / "train").index["label"].tolist()) == [0, 0, 1, 1]
    again = pack(str(REAL / "saved"), tmp_path / "out", columns={"image": "img", "label": "label"})
    assert again == manifests
    with pytest.raises(UserError, match="another source or other options"):
        pack(str(REAL / "saved"), tmp_path / "out", columns={"label": ""})


def changed(folder: Path, file: str, **fields: object) -> Path:
    shutil.copytree(REAL, folder, dirs_exist_ok=True)
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


def test_a_saved_data_set_that_is_not_whole_or_hostile(tmp_path: Path):
    from eyespot.data_pipeline.shards.members.skipped import Tally

    for number, (fields, match) in enumerate(
        [
            ({"_data_files": [{"filename": "../../elsewhere.arrow"}]}, "does not list the data set's files"),
            ({"_data_files": [{"filename": "data-00001-of-00002.arrow"}]}, "data-00001-of-00002.arrow is not there"),
            ({"_data_files": 3}, "does not list the data set's files"),
            ({"_indices_data_files": [{"filename": "x"}]}, "old version of datasets"),
        ]
    ):
        folder = changed(tmp_path / str(number), "one/state.json", **fields)
        with pytest.raises(UserError, match=match):
            saved_files(folder / "one", Tally())
    folder = changed(tmp_path / "splits", "saved/dataset_dict.json", splits=["train", "../one"])
    with pytest.raises(UserError, match="does not list its splits"):
        saved_files(folder / "saved", Tally())
    folder = changed(tmp_path / "more", "saved/dataset_dict.json", splits=["train", "unlabeled\x1b"])
    found = Tally()
    _, splits = saved_files(folder / "saved", found) or ([], [])
    assert splits == [""] and [one.count for one in found.listed()] == [1]
    folder = changed(tmp_path / "none", "saved/dataset_dict.json", splits=["a", "b"])
    with pytest.raises(UserError, match="has the splits a, b, none of which"):
        saved_files(folder / "saved", Tally())


@pytest.mark.usefixtures("in_this_process")
def test_a_folder_of_parquet_files_and_what_lies_beside_them(tmp_path: Path):
    for split, count in (("train", 3), ("test", 2)):
        images = pyarrow.array([jpeg(number) for number in range(count)])
        parquet(tmp_path / "set" / split / "0000.parquet", image=images, label=list(range(count)))
    (tmp_path / "set" / "README.md").write_text("")
    (tmp_path / "set" / ".cache.parquet").write_text("")
    source = opened(tmp_path / "set", tmp_path / "spool")
    assert {split: len(items) for split, items in source.splits.items()} == {"test": 2, "train": 3}
    assert source.classes == ["0", "1", "2"] and skipped(source)["not an image (.md)"] == 1
    parquet(tmp_path / "set" / "more.parquet", image=pyarrow.array([jpeg(1)]))
    with pytest.raises(UserError, match="the files are of several splits"):
        opened(tmp_path / "set", tmp_path / "spool")
    (tmp_path / "set" / "photo.jpg").write_bytes(jpeg(1))
    source = opened(tmp_path / "set", tmp_path / "spool")  # of images, as ever
    assert len(source.splits[""]) == 1 and skipped(source)["not an image (.parquet)"] == 3


@pytest.mark.usefixtures("in_this_process")
def test_labels_that_are_folders(tmp_path: Path):
    """As Spark, Polars and Arrow partition a table: the column is in no file any more."""
    table = pyarrow.table({"image": [jpeg(n) for n in range(5)], "kind of": ["a b", "c/d", "a b", None, "c/d"]})
    for name, key in (("label", "label"), ("Class", "Class"), ("kind of", "kind of")):
        schema = pyarrow.schema([(key, pyarrow.string())])
        partitions = pyarrow.dataset.partitioning(schema, flavor="hive")
        root = str(tmp_path / name)
        pyarrow.dataset.write_dataset(
            table.rename_columns(["image", key]), root, format="parquet", partitioning=partitions
        )
        asked = {"label": "kind of"} if name == "kind of" else {}
        source = opened(tmp_path / name, tmp_path / f"{name}.spool", **asked)
        assert source.classes == ["a b", "c/d"]
        assert sorted(item.label for item in source.splits[""]) == [-1, 0, 0, 1, 1]
    source = opened(tmp_path / "label", tmp_path / "spool", label="")
    assert source.classes == [] and {item.label for item in source.splits[""]} == {-1}
    with pytest.raises(UserError, match="has no column 'sort'"):
        opened(tmp_path / "label", tmp_path / "spool", label="sort")


@pytest.mark.usefixtures("in_this_process")
def test_a_column_is_the_label_before_a_folder_is(tmp_path: Path):
    parquet(tmp_path / "set" / "label=x" / "0.parquet", image=pyarrow.array([jpeg(0)]), label=["y"])
    assert opened(tmp_path / "set", tmp_path / "spool").classes == ["y"]


@pytest.mark.usefixtures("in_this_process")
def test_bad_tables_are_one_line(tmp_path: Path):
    path = parquet(tmp_path / "a\x1b.parquet", image=struct([jpeg(1)]))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\\x1b.parquet: cut or damaged") as caught:
        opened(path, tmp_path / "spool")
    assert "\n" not in str(caught.value)
    empty = parquet(tmp_path / "b.parquet", image=struct([None, None]))
    with pytest.raises(UserError, match=r"no images inside: 2 no image \(null\)"):
        opened(empty, tmp_path / "spool")
    (tmp_path / "old.feather").write_bytes(b"FEA1" + bytes(60) + b"FEA1")
    with pytest.raises(UserError, match="is of Feather's first version"):
        opened(tmp_path / "old.feather", tmp_path / "spool")
    with pytest.raises(UserError, match="no column holds the bytes of images"):
        opened(parquet(tmp_path / "c.parquet", x=[1.5]), tmp_path / "spool")
    features = [{"info": {"features": {"label": {"_type": "ClassLabel", "names": [name]}}}} for name in "ab"]
    (tmp_path / "set").mkdir()
    for name, feature in zip("xy", features, strict=True):
        table = pyarrow.table({"image": struct([jpeg(1)]), "label": [0]})
        arrow(tmp_path / "set" / f"{name}.arrow", table.replace_schema_metadata({"huggingface": json.dumps(feature)}))
    with pytest.raises(UserError, match=r"x\.arrow and y\.arrow have other classes"):
        opened(tmp_path / "set", tmp_path / "spool")
    for source in ("digits", str(tmp_path)):
        with pytest.raises(UserError, match=r"^(columns|source)"):
            pack(source, tmp_path / "out", columns={"image": "x"})


@pytest.mark.thorough
def test_tables_are_read_in_processes_of_their_own(tmp_path: Path):
    assert listed(opened(REAL / "hub", tmp_path / "a")) == listed(opened(REAL / "saved", tmp_path / "b"))
