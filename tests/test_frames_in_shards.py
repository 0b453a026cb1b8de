"""Folders, zips and tars of frames become the same samples, in pack and in index; verify finds what is wrong."""

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from eyespot.cluster.commands.shards import main
from eyespot.data_pipeline import atomic_files
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.index_tars import index_folder
from eyespot.data_pipeline.shards.manifest import Manifest, Reading
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.shard_writer import ShardWriter
from eyespot.data_pipeline.shards.verify import verify

VIDEOS = {"cat/v1": 4, "cat/v2": 2, "dog/v1": 3}


def picture(number: int, size: tuple[int, int] = (12, 10)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (number * 7 % 256,) * 3).save(stream, "JPEG")
    return stream.getvalue()


def names(how: str) -> dict[str, bytes]:
    """Frames of some videos, called in one of the ways."""
    found = {}
    for place, (video, count) in enumerate(VIDEOS.items()):
        for n in range(count):
            for camera in ("left", "right") if how == "camera" else ("",):
                name = {
                    "dot": f"{video}.{n:03d}.jpg",
                    "folder": f"{video}/frame_{n:05d}.jpg",
                    "camera": f"{video}/{camera}/{n}.jpg",
                    "underscore": f"{video}_{n + 1:05d}.jpg",
                }[how]
                found[name] = picture(20 * place + n + 5 * (camera == "right"))
    return found


def write(files: dict[str, bytes], path: Path, how: str) -> Path:
    if how == "folder":
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if how == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def frames_by_video(shards: ShardFolder) -> dict[tuple[str, int], list[bytes]]:
    """The bytes of the frames, by class and number of frames (no two videos share both)."""
    found = {}
    for row, streams in enumerate(shards.clips):
        with shards.tar_path(int(shards.index["tar"][row])).open("rb") as file:
            tar = file.read()
        rows = [shards.frames[clip["first"] + n] for clip in streams for n in range(clip["count"])]
        label = shards.manifest.classes[shards.index["label"][row]]
        found[label, len(rows) // len(streams)] = [tar[one["offset"] : one["offset"] + one["size"]] for one in rows]
    return found


def expected(how: str) -> dict[tuple[str, int], list[bytes]]:
    found = {}
    for place, (video, count) in enumerate(VIDEOS.items()):
        cameras = (0, 5) if how == "camera" else (0,)
        found[video.split("/")[0], count] = [picture(20 * place + n + more) for more in cameras for n in range(count)]
    return found


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
@pytest.mark.parametrize("how", ["dot", "folder", "camera", "underscore"])
def test_pack(tmp_path: Path, how: str, form: str):
    source = write(names(how), tmp_path / f"in.{form}", form)
    pack(str(source), tmp_path / "out", reading=Reading(frames=how, rate=24.0))  # type: ignore[arg-type]
    shards = ShardFolder(tmp_path / "out")
    assert frames_by_video(shards) == expected(how) and set(shards.clips["rate"].ravel()) == {24.0}
    assert not shards.manifest.skipped and not shards.manifest.quarantined
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize("how", ["dot", "folder", "camera", "underscore"])
def test_index(tmp_path: Path, how: str):
    write(names(how), tmp_path / "t" / "0.tar", "tar")
    before = (tmp_path / "t" / "0.tar").read_bytes()
    said = Reading() if how == "dot" else Reading(frames=how)  # type: ignore[arg-type]
    manifest = index_folder(tmp_path / "t", reading=said)
    shards = ShardFolder(tmp_path / "t")
    assert frames_by_video(shards) == expected(how) and (tmp_path / "t" / "0.tar").read_bytes() == before
    assert manifest.reading is not None and manifest.reading.frames == how and not manifest.skipped
    assert bool(manifest.notes) == (how == "dot") and verify(tmp_path / "t") == []
    assert Manifest.from_json(manifest.to_json().encode(), Path("m")).to_json() == manifest.to_json()


def test_what_eyespot_packed_is_indexed_alike(tmp_path: Path):
    tone = io.BytesIO()
    soundfile.write(tone, np.ones(800) / 2, 8000, format="FLAC")
    source = write(names("camera") | {"cat/v1/sound.flac": tone.getvalue()}, tmp_path / "in", "folder")
    reading = Reading(frames="camera", rate=5.0)
    pack(str(source), tmp_path / "out", reading=reading, max_samples=2)
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    told = ShardFolder(tmp_path / "out").manifest.members["flac"]
    assert told.count == 1 and verify(tmp_path / "out") == []
    index_folder(tmp_path / "out")
    table = (tmp_path / "out" / "members" / "flac.npy").read_bytes()
    assert told.sha256 == hashlib.sha256(table).hexdigest(), "indexing finds each sound where packing put it"
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == files
    with tarfile.open(min((tmp_path / "out").glob("*.tar"))) as tar:
        assert json.load(tar.extractfile("00000000.json"))["rate"] == 5.0  # type: ignore[arg-type]
    pack(str(tmp_path / "out"), tmp_path / "again")
    again = ShardFolder(tmp_path / "again")
    assert len(again.clips) == 3 and again.manifest.frames is not None and again.manifest.frames.rate[1] == 5.0
    with tarfile.open(next((tmp_path / "again").glob("*.tar"))) as tar:
        assert sum(name.endswith(".flac") for name in tar.getnames()) == 1


def test_a_sound_that_cannot_be_used_is_left_out_and_named(tmp_path: Path):
    source = write(names("folder") | {"dog/v1/sound.flac": b"la"}, tmp_path / "in", "folder")
    manifest = pack(str(source), tmp_path / "out", reading=Reading(frames="folder"))[""]
    told = manifest.members["flac"]
    assert (told.count, told.left_out) == (0, [{"source": "dog/v1", "reason": "its sound cannot be decoded"}])
    assert verify(tmp_path / "out") == []
    with tarfile.open(next((tmp_path / "out").glob("*.tar"))) as tar:
        assert not any(name.endswith(".flac") for name in tar.getnames())


def test_a_frame_that_changes_while_it_is_packed_is_named_and_leaves_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = write(names("folder"), tmp_path / "in", "folder")
    add = ShardWriter.add

    def change(writer: ShardWriter, image: Any, item: Any) -> None:
        Path(item.frames.places[1].path).write_bytes(picture(99))
        add(writer, image, item)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", change)
        with pytest.raises(
            UserError, match=r"frame_00001\.jpg: changed while it was packed; mend that and run the same"
        ):
            pack(str(source), tmp_path / "out", reading=Reading(frames="folder"))
    assert not list((tmp_path / "out").rglob("shard-*")) and not (tmp_path / "out" / "manifest.json").exists()


def test_one_frame_a_sample_stays_one_when_indexed(tmp_path: Path):
    source = write({f"v{n}/0.jpg": picture(n) for n in range(3)}, tmp_path / "in", "folder")
    pack(str(source), tmp_path / "out", reading=Reading(frames="folder"))
    assert verify(tmp_path / "out") == []
    assert index_folder(tmp_path / "out").frames is not None


def test_images_do_not_become_clips_without_a_word(tmp_path: Path):
    for form in ("folder", "zip"):
        source = write(names("folder"), tmp_path / f"in.{form}", form)
        pack(str(source), tmp_path / f"out {form}")
        manifest = ShardFolder(tmp_path / f"out {form}").manifest
        assert manifest.frames is None and manifest.num_samples == 9 and manifest.classes == ["cat", "dog"]
    write(names("folder"), tmp_path / "t" / "0.tar", "tar")
    assert index_folder(tmp_path / "t").frames is None
    assert "frames" not in json.loads((tmp_path / "t" / "manifest.json").read_text())["reading"]
    source = write(names("dot"), tmp_path / "dot.tar", "tar")
    pack(str(source), tmp_path / "said none", reading=Reading(frames="none"))
    assert ShardFolder(tmp_path / "said none").manifest.num_samples == 9
    pack(str(source), tmp_path / "said nothing")
    (note,) = ShardFolder(tmp_path / "said nothing").manifest.notes
    assert note.startswith("3 samples have frames (KEY.000.jpg")


def test_numbered_images_of_a_tar_stay_images_and_what_they_look_like_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    source = write(
        {f"v{key}.{n}.jpg": picture(3 * key + n) for key in (1, 2) for n in (1, 2)}, tmp_path / "a.tar", "tar"
    )
    assert main(["pack", str(source), str(tmp_path / "images")]) == 0
    (said,) = caplog.messages
    assert said == (
        f"source {source}: its images look like frames (KEY.1.jpg, KEY.2.jpg); each is a sample, and with --frames dot"
        " they are clips"
    )
    images = ShardFolder(tmp_path / "images").manifest
    assert images.num_samples == 4 and images.frames is None and not images.notes
    caplog.clear()
    assert main(["pack", str(source), str(tmp_path / "clips"), "--frames", "dot"]) == 0
    assert ShardFolder(tmp_path / "clips").manifest.num_samples == 2
    assert main(["pack", str(source), str(tmp_path / "said"), "--frames", "none"]) == 0
    assert not caplog.messages
    with pytest.raises(UserError, match="--frames dot, where they are numbered frames"):
        index_folder(tmp_path)


@pytest.mark.parametrize(
    "members",
    [["v.005.jpg", "v.006.jpg"], ["v.0.jpg", "v.2.jpg"], ["v.0.jpg", "v.1.jpg", "v.jpg"], ["v.0.jpg", "v.0.png"]],
)
def test_what_may_be_frames_is_asked_about(tmp_path: Path, members: list[str]):
    write({name: picture(1) for name in members}, tmp_path / "0.tar", "tar")
    with pytest.raises(UserError, match=r"holds several images .*--frames dot, where they are numbered frames"):
        index_folder(tmp_path)


def test_nothing_is_dropped_without_count_and_name(tmp_path: Path):
    files = names("folder") | {
        "cat/v1/cover.jpg": picture(1),
        "cat/v1/notes.txt": b"",
        "top.jpg": picture(1),
        "dog/v3/1.jpg": picture(1),
        "dog/v3/frame_1.jpg": picture(2),
        "dog/v4/1.jpg": picture(1),
        "dog/v4/2.jpg": b"no image",
    }
    source = write(files, tmp_path / "in", "folder")
    pack(str(source), tmp_path / "out", reading=Reading(frames="folder"))
    manifest = ShardFolder(tmp_path / "out").manifest
    assert {bad["source"]: bad["reason"] for bad in manifest.quarantined} == {
        "dog/v3": "two frames have one number: dog/v3/1.jpg, dog/v3/frame_1.jpg",
        "dog/v4": "frame 1: not an image of a known format",
    }
    skipped = {one.reason: sorted(one.examples) for one in manifest.skipped}
    assert skipped == {
        "not named like a frame (--frames folder)": ["cat/v1/cover.jpg", "top.jpg"],
        "not an image (.txt)": ["cat/v1/notes.txt"],
    }
    files |= {"dog/v3/frame_1.jpg": b""}
    del files["dog/v3/frame_1.jpg"], files["cat/v1/notes.txt"]
    write(files, tmp_path / "t" / "0.tar", "tar")
    manifest = index_folder(tmp_path / "t", reading=Reading(frames="folder"))
    assert [bad["source"] for bad in manifest.quarantined] == ["0.tar/dog/v4"] and manifest.num_samples == 4
    assert {one.reason for one in manifest.skipped} == {"not named like a frame (--frames folder)"}
    assert verify(tmp_path / "t") == []


def test_masks_of_frames(tmp_path: Path):
    source = write(names("folder"), tmp_path / "in", "folder")
    stream = io.BytesIO()
    Image.new("L", (12, 10), 1).save(stream, "PNG")
    masked = [name for name in names("folder") if not name.startswith("dog") and "00001" not in name]
    masks = write({f"{name[:-4]}.png": stream.getvalue() for name in masked}, tmp_path / "masks", "folder")
    pack(str(source), tmp_path / "out", masks=masks, reading=Reading(frames="folder"))
    shards = ShardFolder(tmp_path / "out")
    assert [bad["source"] for bad in shards.manifest.quarantined] == ["dog/v1"]
    assert int((shards.frame_masks["size"] > 0).sum()) == len(masked) == 4 and (shards.masks["size"] > 0).all()
    assert shards.manifest.masks is not None and shards.manifest.masks.pixels == [0, 4 * 120]
    assert verify(tmp_path / "out") == []
    with pytest.raises(UserError, match=r"holds the mask of no image; that of cat/v1/frame_00000.jpg would be "):
        pack(str(source), tmp_path / "none", masks=source, reading=Reading(frames="folder"))


@pytest.mark.parametrize("table", ["frames", "clips", "motion", "frame_masks"])
def test_verify_finds_a_table_that_lies(tmp_path: Path, table: str):
    import hashlib

    source = write(names("folder"), tmp_path / "in", "folder")
    stream = io.BytesIO()
    Image.new("L", (12, 10), 1).save(stream, "PNG")
    masks = write({f"{name[:-4]}.png": stream.getvalue() for name in names("folder")}, tmp_path / "masks", "folder")
    pack(str(source), tmp_path / "out", masks=masks, reading=Reading(frames="folder"))
    shards = ShardFolder(tmp_path / "out")
    rows = getattr(shards, table).copy()
    if table == "motion":
        rows += 1
    else:
        column = {"frames": "crc32", "clips": "rate", "frame_masks": "crc32"}[table]
        rows[column][1] += 1
    data = atomic_files.npy_bytes(rows)
    (shards.path / f"{table}.npy").write_bytes(data)
    field = "masks_sha256" if table == "frame_masks" else f"{table}_sha256"
    assert shards.manifest.frames is not None
    told = replace(shards.manifest.frames, **{field: hashlib.sha256(data).hexdigest()})
    (shards.path / "manifest.json").write_text(replace(shards.manifest, frames=told).to_json())
    problems = verify(shards.path)
    assert (
        problems and any(f"{table}.npy: " in line for line in problems) and all("\n" not in line for line in problems)
    )


def test_verify_names_the_frame_that_changed(tmp_path: Path):
    source = write(names("folder"), tmp_path / "in", "folder")
    pack(str(source), tmp_path / "out", reading=Reading(frames="folder"))
    shards = ShardFolder(tmp_path / "out")
    with shards.tar_path(0).open("r+b") as file:
        file.seek(int(shards.frames["offset"][2]) + 300)
        file.write(b"\0\0\0")
    problems = verify(tmp_path / "out")
    assert any("frame 2 (offset" in line for line in problems)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = write(names("camera"), tmp_path / "in", "folder")
    assert main(["pack", str(source), str(tmp_path / "out"), "--frames", "camera", "--rate", "12.5"]) == 0
    assert main(["info", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "3 samples" in said and "  frames       18, 2 to 4 a sample, median 3, 12.5 per second\n" in said
    assert "  cameras      left, right\n" in said
    for wrong in ("-1", "nan", "1e9"):
        with pytest.raises(UserError, match="rate"):
            main(["pack", str(source), str(tmp_path / "out 2"), "--frames", "camera", f"--rate={wrong}"])
    assert np.all(ShardFolder(tmp_path / "out").motion >= 0)
