"""Parquet and Arrow files of every kind give the images that were put in, and hostile ones a line."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from foreign_tables import arrow, jpeg, parquet, struct

from eyespot.data_pipeline.shards.outside import rows
from eyespot.data_pipeline.shards.outside.apart import Lost, each
from eyespot.data_pipeline.shards.outside.arrow_tables import fetch_rows, read_statuses, read_table
from eyespot.data_pipeline.shards.outside.fetching import Rows, Wanted
from eyespot.data_pipeline.shards.outside.rows import Found, Job

IMAGES = [jpeg(number) for number in range(150)]


def read(path: Path, **columns: str) -> Found:
    """In this process."""
    return read_table(Job(str(path), path.name, str(path.with_suffix(".raw")), columns), lambda: None)


def images(found: Found) -> list[bytes]:
    assert found.problem == ""
    places = [file.place for file in found.files]
    rows_of = places[0].path
    if not isinstance(rows_of, Rows):
        return [place.read() for place in places]
    target = Path(f"{rows_of}.fetched")
    wanted, sizes = (np.array([getattr(place, name) for place in places]) for name in ("offset", "size"))
    assert fetch_rows(Wanted(rows_of, rows_of.column, wanted, sizes, str(target)), lambda: None) == ""
    stream = io.BytesIO(target.read_bytes())
    return [stream.read(size) for size in sizes.tolist()]


def kinds(folder: Path) -> dict[str, Path]:
    """The same images in every way in which they can be stored."""
    plain = pyarrow.table({"image": struct(IMAGES)})
    large = pyarrow.table({"image": pyarrow.array(IMAGES, pyarrow.large_binary())})
    file = folder / "file.arrow"
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_file(sink, large.schema) as stream:
        stream.write_table(large, max_chunksize=40)
    coded = pyarrow.table({"image": pyarrow.array(IMAGES).dictionary_encode()})
    viewed = pyarrow.table({"image": pyarrow.array(IMAGES, pyarrow.binary_view())})
    sliced = pyarrow.table({"image": struct([b"before", *IMAGES])}).slice(1)
    return {
        "stream": arrow(folder / "stream.arrow", plain),
        "zstd": arrow(folder / "zstd.arrow", plain, "zstd"),
        "file": file,
        "views": arrow(folder / "views.arrow", viewed),
        "dictionary": arrow(folder / "dictionary.arrow", coded),
        "sliced": arrow(folder / "sliced.arrow", sliced),
        "parquet": parquet(folder / "a.parquet", image=struct(IMAGES)),
        "binary": parquet(folder / "b.parquet", image=pyarrow.array(IMAGES)),
    }


def test_every_way_of_storing_them(tmp_path: Path):
    for name, path in kinds(tmp_path).items():
        found = read(path)
        assert images(found) == IMAGES, name
        assert [file.name for file in found.files][:2] == [f"{path.name}/00000000", f"{path.name}/00000001"]
        assert {str(file.place.path) for file in found.files} == {str(path)} and not path.with_suffix(".raw").exists()
        in_place = not any(isinstance(file.place.path, Rows) for file in found.files)
        assert in_place == (name in ("stream", "file", "sliced"))


def test_labels_captions_and_what_is_left_out(tmp_path: Path):
    path = parquet(
        tmp_path / "a.parquet",
        image=struct([IMAGES[0], None, IMAGES[2], IMAGES[3]], ["x/one.jpg", "/etc/passwd", None, "..\x1b"]),
        label=pyarrow.array(["dog", "cat", None, "x" * 2000]),
        caption=pyarrow.array([["A dog.\nIt runs.", ""], ["?"], None, ["  "]]),
    )
    found = read(path)
    assert images(found) == [IMAGES[0], IMAGES[2], IMAGES[3]]
    assert [file.text for file in found.files] == ["dog", "", None]
    assert found.files[0].name == "a.parquet/00000000/one.jpg"
    assert [file.members and file.members[0][1].read() for file in found.files] == [b"A dog. It runs.\n", (), ()]
    assert {one.reason: one.count for one in found.skipped.listed()} == {
        "an image that lies elsewhere (a path without bytes)": 1,
        "a label of more than 1,024 characters (the image is taken)": 1,
        "an empty caption (the image is taken)": 2,
    }
    nothing = read(parquet(tmp_path / "b.parquet", image=pyarrow.array([None, IMAGES[0]], pyarrow.binary())))
    assert {one.reason: one.examples for one in nothing.skipped.listed()} == {"no image (null)": ["b.parquet/00000000"]}


def test_labels_of_pandas_where_one_is_missing(tmp_path: Path):
    path = parquet(tmp_path / "a.parquet", image=struct(IMAGES[:4]), label=[3.0, float("nan"), None, 12.0])
    assert [file.text for file in read(path).files] == ["3", "", "", "12"]


def test_the_classes_of_a_label_and_one_beyond_them(tmp_path: Path):
    features = {"y": {"_type": "ClassLabel", "names": ["zebra", "ape"]}, "i": {"_type": "Image"}}
    table = pyarrow.table({"i": struct(IMAGES[:4]), "y": [1, -1, 2, None]}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert found.classes == ("zebra", "ape") and [file.text for file in found.files] == ["1", "-1", ""]
    assert [one.reason for one in found.skipped.listed()] == ["a label beyond the 2 classes"]
    odd = table.replace_schema_metadata({"huggingface": "[" * 100_000})
    pyarrow.parquet.write_table(odd, tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet", label="y").classes == ()


@pytest.mark.parametrize("kind", ["parquet", "stream", "zstd"])
def test_a_file_that_is_cut_is_one_line(tmp_path: Path, kind: str):
    path = kinds(tmp_path)[kind]
    whole = path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        problem = read(path).problem
        assert problem and "\n" not in problem and len(problem) < 400


@pytest.mark.parametrize("count", [3, pytest.param(25, marks=pytest.mark.thorough)])
def test_flipped_bytes_never_give_other_bytes_of_memory(tmp_path: Path, count: int):
    """Whatever is read, each image lies inside of the files; nothing else is promised of a damaged file."""
    rng, jobs = np.random.default_rng(0), list[Job]()
    for path in (kinds(tmp_path)["stream"], tmp_path / "a.parquet"):
        for number in range(count):
            data = bytearray(path.read_bytes())
            for place in rng.integers(0, len(data), 3):
                data[place] ^= int(rng.integers(1, 256))
            flipped = tmp_path / f"{number}-{path.name}"
            flipped.write_bytes(data)
            jobs.append(Job(str(flipped), flipped.name, f"{flipped}.raw", {}))
    for job, found in each(jobs, read_table, 1):
        if not isinstance(found, Lost) and not found.problem:
            for file in found.files:
                inside = isinstance(file.place.path, Rows) or sum(file.place[1:]) <= Path(job.path).stat().st_size
                assert inside and file.place.offset >= 0 and file.place.size >= 0


def test_bombs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    many = pyarrow.array([jpeg(1, 64)] * 50_000).dictionary_encode()
    path = parquet(tmp_path / "rows.parquet", image=many)
    assert path.stat().st_size < 20_000
    assert "more rows than bytes" in read(path).problem
    monkeypatch.setattr(rows, "ROOM", 0)
    table = pyarrow.table({"image": pyarrow.array([bytes(2**16)] * 300)})
    pyarrow.parquet.write_table(table, path := tmp_path / "large.parquet", compression="zstd")
    assert "a bomb" in read(path).problem
    assert not path.with_suffix(".raw").exists()


class _Program:
    def __reduce__(self):
        return open, ("ran-code", "w")


def test_no_program_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(_Program()),
    }
    hostile = pyarrow.field("image", pyarrow.binary(), metadata=metadata)
    table = pyarrow.table([pyarrow.array(IMAGES[:3])], schema=pyarrow.schema([hostile]))
    for path in (arrow(tmp_path / "a.arrow", table), tmp_path / "b.parquet"):
        if not path.exists():
            pyarrow.parquet.write_table(table, path)
        assert images(read(path)) == IMAGES[:3]
    assert not (tmp_path / "ran-code").exists()


def test_what_img2dataset_could_not_fetch_is_counted(tmp_path: Path):
    path = parquet(
        tmp_path / "00000.parquet",
        key=["000000000", "000000001", "000000002"],
        status=["success", "failed_to_download", "success"],
        jpg=pyarrow.array([IMAGES[0], None, IMAGES[2]]),
        caption=["a dog", "gone", None],
    )
    found = read(path)
    assert [file.name for file in found.files] == ["00000.parquet/000000000", "00000.parquet/000000002"]
    reasons = {one.reason: one.count for one in found.skipped.listed()}
    assert reasons == {"img2dataset: failed_to_download": 1, "an empty caption (the image is taken)": 1}
    job = Job(str(path), path.name, "", {})
    assert read_statuses(job, lambda: None) == {"failed_to_download": 1}
    path.write_bytes(path.read_bytes()[:200])
    assert read_statuses(job, lambda: None) is None


def test_columns_of_one_name_are_refused(tmp_path: Path):
    table = pyarrow.Table.from_arrays([pyarrow.array(IMAGES[:2])] * 2, ["image", "image"])
    assert "several columns called 'image'" in read(arrow(tmp_path / "a.arrow", table)).problem
