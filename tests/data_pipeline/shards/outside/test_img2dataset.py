"""What img2dataset writes, in each of its formats: its failures are counted, its folders are no classes."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from foreign_tables import jpeg, listed, opened, parquet, skipped

from eyespot.data_pipeline.shards.index_tars import index_folder
from eyespot.data_pipeline.shards.outside.img2dataset import numbered
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

STATUSES = ["success", "failed_to_download", "success", "failed_to_resize"]
FETCHED = {f"00000000{number}": jpeg(number) for number in (0, 2)}


def fetched(root: Path, how: str) -> Path:
    """Four rows in shard 00000, of which two were fetched, and one more in shard 00001."""
    for shard, keys, statuses in (("00000", FETCHED, STATUSES), ("00001", {"000010000": jpeg(9)}, ["success"])):
        names = [f"{shard[-4:]}0000{number}" if shard == "00000" else "000010000" for number in range(len(statuses))]
        files = {
            f"{key}.{extension}": data
            for key, image in keys.items()
            for extension, data in (("jpg", image), ("txt", f"picture {key}".encode()), ("json", b"{}"))
        }
        more = {}
        (root / shard).mkdir(parents=True)
        if how == "files":
            for name, data in files.items():
                (root / shard / name).write_bytes(data)
        else:
            (root / shard).rmdir()
        if how == "webdataset":
            with tarfile.open(root / f"{shard}.tar", "w") as archive:
                for name, data in files.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        if how == "parquet":
            more = {"jpg": [keys.get(name) for name in names]}
        captions = [f"picture {name}" for name in names]
        parquet(root / f"{shard}.parquet", key=names, status=statuses, caption=captions, **more)
        (root / f"{shard}_stats.json").write_text(json.dumps({"count": len(statuses)}))
    return root


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("how", ["files", "webdataset", "parquet"])
def test_every_format_holds_the_same(tmp_path: Path, how: str):
    source = opened(fetched(tmp_path / "laion", how), tmp_path / "spool")
    assert source.classes == []
    texts = [b"picture 000000000", b"picture 000000002", b"picture 000010000"]
    expected = [(image, None, text) for image, text in zip([*FETCHED.values(), jpeg(9)], texts, strict=True)]
    assert [(image, label, text and text.strip()) for image, label, text in listed(source)[""]] == expected
    found = skipped(source)
    assert found.pop("not an image (.json)", 3) == 3
    assert found == {"img2dataset: failed_to_download": 1, "img2dataset: failed_to_resize": 1}


def test_failures_are_counted_where_tars_are_indexed_in_place(tmp_path: Path):
    root = fetched(tmp_path / "laion", "webdataset")
    (root / "00001.parquet").write_bytes(b"PAR1 cut")
    manifest = index_folder(root, workers=1)
    found = {one.reason: one.count for one in manifest.skipped if "img2dataset" in one.reason}
    assert found == {
        "img2dataset: failed_to_download": 1,
        "img2dataset: failed_to_resize": 1,
        "a table of img2dataset that cannot be read": 1,
    }
    assert manifest.num_samples == 3 and len(ShardFolder(root).index) == 3


def test_statistics_name_the_shards():
    assert numbered(["00000_stats.json", "a/00012_stats.json", "x_stats.json", "00000.json"]) == {"00000", "a/00012"}
