"""Frames of files: read one after another, and a plan that changes when they would."""

import pickle
from pathlib import Path

import pytest

from eyespot.data_pipeline.shards.image_check import BadImage
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.members.footage import Footage, FrameFile, FrameFiles, Refused, of_same_streams
from eyespot.data_pipeline.shards.members.items import Item


def files(folder: Path) -> FrameFiles:
    """Two cameras of two frames."""
    found: dict[str, list[FrameFile]] = {}
    for stream in ("right", "left"):
        for number in range(2):
            path = folder / "in" / stream / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{stream}{number}".encode())
            place = Place(str(path), 0, path.stat().st_size)
            found.setdefault(stream, []).append(FrameFile(f"{stream}/{number}.jpg", place))
    return FrameFiles(files=found, rate=8.0)


def test_frames_come_in_order_also_from_another_process(tmp_path: Path):
    frames = pickle.loads(pickle.dumps(files(tmp_path)))
    footage = frames.read()
    assert frames.streams == footage.streams == ("left", "right") and footage.rate == 8.0 and not footage.masks
    assert list(footage.frames["right"]) == [b"right0", b"right1"] and frames.size == 2 * 5 + 2 * 6


def test_masks_lie_at_the_same_path(tmp_path: Path):
    (tmp_path / "masks" / "left").mkdir(parents=True)
    (tmp_path / "masks" / "left" / "1.png").write_bytes(b"mask")
    frames = files(tmp_path).with_masks(tmp_path / "masks")
    assert frames.has_masks and not files(tmp_path).has_masks
    assert list(frames.read().masks["left"]) == [None, b"mask"] and list(frames.read().masks["right"]) == [None, None]
    assert frames.plan != files(tmp_path).plan


def test_a_file_that_is_gone_is_named(tmp_path: Path):
    frames = files(tmp_path)
    (tmp_path / "in" / "left" / "1.jpg").unlink()
    with pytest.raises(BadImage, match=r"left/1.jpg: unreadable: No such file"):
        list(frames.read().frames["left"])


def test_a_plan_changes_with_the_frames(tmp_path: Path):
    before = files(tmp_path)
    other_rate = FrameFiles(files=before.files, rate=9.0)
    shorter = FrameFiles(files={name: frames[:1] for name, frames in before.files.items()}, rate=8.0)
    memory = [Footage(rate=1.0, frames={"": [data, b"b"]}) for data in (b"a", b"c")]
    plans = [frames.plan for frames in (before, other_rate, shorter, *memory, Refused("x"))]
    assert len(set(plans)) == len(plans) and files(tmp_path).plan == before.plan


def test_a_refused_one_says_why_and_has_no_say():
    with pytest.raises(BadImage, match="frame 3 is missing"):
        Refused("frame 3 is missing").read()
    one = Item("one", -1, "", 0, 0, frames=Footage(rate=0.0, frames={"a": [], "b": []}))
    refused = [Item(str(n), -1, "", 0, 0, frames=Refused("bad")) for n in range(3)]
    odd = Item("odd", -1, "", 0, 0, frames=Footage(rate=0.0, frames={"": []}))
    items = of_same_streams({"train": [one, *refused], "test": [one, odd]})
    assert items["train"] == [one, *refused] and items["test"][0] == one
    assert items["test"][1].frames == Refused("its cameras are one, and most samples have a, b")
