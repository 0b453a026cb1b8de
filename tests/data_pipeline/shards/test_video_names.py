"""Videos are called as where they come from."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from films import pack_films
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.index_tars import index_folder
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.video_names import video_names


def test_of_packed_videos_the_names_they_were_packed_under(tmp_path):
    shards = ShardFolder(pack_films(tmp_path / "films", count=12))
    names = video_names(shards)
    assert sorted(names) == sorted(f"film {number}" for number in range(12))
    for sample, name in enumerate(names):
        with tarfile.open(shards.tar_path(int(shards.index["tar"][sample]))) as tar:
            said = json.loads(tar.extractfile(f"{sample:08d}.json").read())
        assert said["source"] == name
    shards.tar_path(0).unlink()
    with pytest.raises(UserError, match="is missing"):
        video_names(ShardFolder(shards.path))


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("notes", "name"),
    [
        (b'{"source": "a walk"}', "a walk"),
        (b'{"source": 3}', "walk"),
        (b'["source"]', "walk"),
        (b"[" * 100_000, "walk"),
        (b"\xff{", "walk"),
        (None, "walk"),
    ],
)
def test_of_other_tars_their_keys_where_nothing_else_is_said(notes, name, tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(3):
            add(tar, f"walk.{number:03d}.png", png())
        if notes is not None:
            add(tar, "walk.json", notes)
        for number in range(2):
            add(tar, f"run.{number:03d}.png", png())
    index_folder(tmp_path, workers=1)
    assert video_names(ShardFolder(tmp_path)) == [name, "run"]
