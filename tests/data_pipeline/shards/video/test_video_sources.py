import importlib.util
import os
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from moving_pictures import film, levels
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards import pack as packing
from eyespot.data_pipeline.shards.manifest import Reading
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.video import video_sources
from eyespot.data_pipeline.shards.video.video_sources import cut, holds_videos, open_videos


def pack_videos(source: Path, destination: Path, *, workers: int = 2, holdout: float | None = None, **wanted):
    def opened(work: Path):
        return open_videos(str(source), work / "videos", cut(**wanted), workers, Reading())

    return pack(opened, destination, workers=1, holdout=holdout)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Two classes, five videos, of which two are bad."""
    folder = tmp_path_factory.mktemp("films")
    for name in ("run", "jump"):
        (folder / name).mkdir()
    film(folder / "run" / "a.mp4", 48, rate=12, sound=4.0)
    film(folder / "run" / "b.webm", 12, rate=12, size=(96, 64))
    film(folder / "jump" / "c.gif", 6, rate=5)
    (folder / "jump" / "text.mp4").write_text("no video at all")
    (folder / "run" / "empty.mkv").touch()
    (folder / "run" / "notes.srt").write_text("1")
    return folder


def test_videos_become_clips_that_say_where_they_come_from(films, tmp_path):
    manifest = pack_videos(films, tmp_path / "out", fps=6.0, segment=2.0, sound=True)[""]
    assert manifest.classes == ["jump", "run"] and manifest.num_samples == 4
    assert {bad["source"]: bad["reason"] for bad in manifest.quarantined} == {
        "jump/text.mp4": "no video of a known container: its bytes are not mp4, mov, mkv, webm, avi or gif",
        "run/empty.mkv": "empty file",
    }
    assert [one.reason for one in manifest.skipped] == ["no video (.srt)"]
    assert manifest.notes == [
        "1 of 3 videos are longer than 2 s, and were cut into 2 samples (--segment)",
        "2 of 3 videos have no sound",
    ]
    assert {name: manifest.packing[name] for name in ("fps", "segment", "sound")} == {
        "fps": 6.0, "segment": 2.0, "sound": True,
    }  # fmt: skip
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        names = tar.getnames()
        sources = sorted(tar.extractfile(name).read().decode() for name in names if name.endswith(".json"))
        assert [text.split('"')[3] for text in sources] == [
            "jump/c.gif", "run/a.mp4#t=0.000,2.000", "run/a.mp4#t=2.000,4.000", "run/b.webm",
        ]  # fmt: skip
        assert sum(name.endswith(".flac") for name in names) == 2
        (first,) = [
            name.partition(".")[0] for name in names if name.endswith(".json") and b"t=0.000" in read(tar, name)
        ]
        frames = [read(tar, name) for name in names if name.startswith(f"{first}.0") and name.endswith(".jpg")]
    assert levels(frames) == list(range(0, 24, 2))
    clips = ShardFolder(tmp_path / "out").clips
    assert sorted(clips["count"].ravel().tolist()) == [6, 8, 12, 12] and set(clips["rate"].ravel().tolist()) == {6}


def read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def test_a_killed_pack_goes_on_with_the_videos_that_it_has_and_writes_the_same(films, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(packing, "_pack_splits", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack_videos(films, tmp_path / "killed")
    spooled = sorted((tmp_path / "killed" / ".packing" / "videos").glob("*.frames"))
    before = {path: path.stat().st_mtime_ns for path in spooled}
    assert len(spooled) == 3
    with monkeypatch.context() as patch:
        patch.setattr(packing, "_pack_splits", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack_videos(films, tmp_path / "killed")
    assert {path: path.stat().st_mtime_ns for path in spooled} == before
    pack_videos(films, tmp_path / "killed")
    pack_videos(films, tmp_path / "whole", workers=1)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes(), path.name
    assert not (tmp_path / "killed" / ".packing").exists()


def test_tars_and_single_files(films, tmp_path):
    with tarfile.open(tmp_path / "films.tar.gz", "w:gz") as tar:
        tar.add(films, "films")
    manifest = pack_videos(tmp_path / "films.tar.gz", tmp_path / "tar")[""]
    assert manifest.num_samples == 3 and manifest.classes == ["jump", "run"] and len(manifest.quarantined) == 2
    assert pack_videos(films / "run" / "a.mp4", tmp_path / "one")[""].frames.num_frames == 48


def test_parts_of_a_video_are_never_on_both_sides(films, tmp_path):
    manifests = pack_videos(films, tmp_path / "out", segment=1.0, holdout=0.5)
    sides: list[set[str]] = []
    for split in manifests:
        with tarfile.open(tmp_path / "out" / split / "shard-000000.tar") as tar:
            texts = [read(tar, name).decode() for name in tar.getnames() if name.endswith(".json")]
        sides.append({text.split('"')[3].partition("#")[0] for text in texts})
    assert not sides[0] & sides[1] and sides[0] | sides[1] == {"run/a.mp4", "run/b.webm", "jump/c.gif"}
    assert sum(manifest.num_samples for manifest in manifests.values()) == 4 + 1 + 2


def test_what_is_packed_already_is_not_decoded_again(films, tmp_path, monkeypatch):
    first = pack_videos(films, tmp_path / "out")
    monkeypatch.setattr(video_sources, "decode_all", lambda *_: 1 / 0)
    assert pack_videos(films, tmp_path / "out") == first
    with pytest.raises(UserError, match="holds shards of another source or other options"):
        pack_videos(films, tmp_path / "out", fps=3.0)


def test_masks_of_videos_are_refused(films, tmp_path):
    (tmp_path / "masks" / "run").mkdir(parents=True)
    Image.new("L", (64, 48)).save(tmp_path / "masks" / "run" / "a.png")
    opened = partial(open_videos, str(films), wanted=cut(), workers=1, reading=Reading())
    with pytest.raises(UserError, match="masks: videos take none"):
        pack(lambda work: opened(spool=work / "videos"), tmp_path / "out", masks=tmp_path / "masks")


def test_images_stay_images_where_nobody_asks_for_videos(films, tmp_path):
    assert holds_videos(str(films)) and holds_videos(str(films / "run" / "a.mp4"))
    assert not holds_videos(str(films / "run" / "notes.srt")) and not holds_videos(str(tmp_path / "nothing"))
    photos = tmp_path / "photos"
    photos.mkdir()
    film(photos / "a.gif", 3)
    assert not holds_videos(str(photos))
    film(photos / "b.mp4", 3)
    assert holds_videos(str(photos))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(photos / "c.png")
    assert not holds_videos(str(photos))
    manifest = pack_videos(photos, tmp_path / "out")[""]
    assert manifest.num_samples == 2 and [one.reason for one in manifest.skipped] == ["an image beside the videos"]


def test_links_and_hidden_files_decide_as_they_are_packed(tmp_path):
    real, source = tmp_path / "real", tmp_path / "in"
    (source / ".thumbnails").mkdir(parents=True)
    real.mkdir()
    Image.new("L", (8, 8)).save(source / ".thumbnails" / "a.png")
    (source / "link").symlink_to(real)
    (real / "up").symlink_to(source)
    film(real / "a.mp4", 2)
    assert holds_videos(str(source))
    assert pack_videos(source, tmp_path / "out")[""].num_samples == 1
    Image.new("L", (8, 8)).save(real / "b.png")
    assert not holds_videos(str(source))


def test_pipes_and_links_to_nothing_are_counted_and_none_is_waited_for(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    film(source / "a.mp4", 2)
    os.mkfifo(source / "pipe.mp4")
    (source / "gone.mp4").symlink_to("nowhere")
    (source / "self.mkv").symlink_to("self.mkv")
    manifest = pack_videos(source, tmp_path / "out")[""]
    assert manifest.num_samples == 1 and {one.reason: sorted(one.examples) for one in manifest.skipped} == {
        "a device, a pipe or the like": ["pipe.mp4"],
        "a link to nothing": ["gone.mp4", "self.mkv"],
    }
    assert not holds_videos(str(source / "pipe.mp4"))
    with pytest.raises(UserError, match=r"pipe\.mp4: no such file or folder"):
        pack_videos(source / "pipe.mp4", tmp_path / "none")


def test_what_is_wrong_with_a_source_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").touch()
    for source, said in (("nothing", "no such file or folder"), ("empty", r"no videos inside.*1 no video \(.txt\)")):
        with pytest.raises(UserError, match=said):
            pack_videos(tmp_path / source, tmp_path / "out")
    film(tmp_path / "empty" / "a.mp4", 2).write_bytes(b"\0\0\0\x18ftypisom")
    with pytest.raises(UserError, match=r"not one image could be packed; a.mp4: cut or damaged"):
        pack_videos(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for wrong in ({"fps": 0.0}, {"fps": 1e9}, {"segment": -1.0}, {"max_frames": 0}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} .*must"):
            cut(**wrong)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'eyespot\[video\]'"):
        pack_videos(tmp_path / "empty", tmp_path / "out")


def test_videos_of_a_compressed_tar_are_decoded_once(tmp_path):
    film(tmp_path / "a.mkv", 3)
    with tarfile.open(tmp_path / "films.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "a.mkv", "a.mkv")
    spool, decoded = tmp_path / "spool", []
    for _ in range(2):
        source = open_videos(str(tmp_path / "films.tar.gz"), spool, cut(), 1, Reading())
        assert source.prepare is not None
        source.prepare(source)
        assert [path.name for path in spool.glob("*.tar")] == ["source.tar"]
        decoded.append({path.name: path.stat().st_mtime_ns for path in spool.glob("*.frames")})
    assert len(decoded[0]) == 1 and decoded[0] == decoded[1]
