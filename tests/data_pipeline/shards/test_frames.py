"""Tables of frames: what packing writes, what opening refuses."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyespot.data_pipeline import atomic_files
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.frames import CLIP_DTYPE, Frames, frame_names, is_stream, motion_of
from eyespot.data_pipeline.shards.manifest import Manifest
from eyespot.data_pipeline.shards.members.footage import Footage
from eyespot.data_pipeline.shards.members.items import Item, Source
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

COUNTS = (5, 1, 3, 12)


def image(level: int, size: tuple[int, int] = (20, 16), kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(stream, kind)
    return stream.getvalue()


def mask(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (20, 16), value).save(stream, "PNG")
    return stream.getvalue()


def films(streams: tuple[str, ...] = ("",), masks: bool = False) -> list[Item]:
    """Films of gray frames, each 10 levels lighter than the one before; every second frame has a mask."""
    items = []
    for number, count in enumerate(COUNTS):
        frames = {
            stream: [image(10 * n + 3 * number + place) for n in range(count)] for place, stream in enumerate(streams)
        }
        masked = {stream: [mask(1 + n) if n % 2 == 0 else None for n in range(count)] for stream in streams}
        film = Footage(rate=4.0 + number, frames=frames, masks=masked if masks else {}, sound=("flac", b"la la"))
        items.append(Item(f"film {number}", number % 2, "", 0, 0, frames=film))
    return items


def packed(folder: Path, items: list[Item], **options: int) -> ShardFolder:
    pack(lambda _: Source(name="films", splits={"": items}, classes=["a", "b"]), folder, **options)  # type: ignore[arg-type]
    return ShardFolder(folder)


@pytest.mark.parametrize("streams", [("",), ("left", "left-2", "right")])
def test_what_packing_writes(tmp_path: Path, streams: tuple[str, ...]):
    shards = packed(tmp_path / "out", films(streams, masks=True), max_samples=2)
    index, frames, clips, motion, masks = shards.index, shards.frames, shards.clips, shards.motion, shards.frame_masks
    told = shards.manifest.frames
    assert told is not None and told.streams == streams and told.num_frames == len(frames) == 21 * len(streams)
    assert (told.count, told.rate) == ((1, 4, 12), (4.0, 5.5, 7.0)) and len(shards.manifest.shards) == 2
    sources = {}
    for row in range(len(COUNTS)):
        with tarfile.open(shards.tar_path(int(index["tar"][row]))) as tar:
            notes = json.load(tar.extractfile(f"{row:08d}.json"))  # type: ignore[arg-type]
            number = sources[row] = int(notes["source"].split()[1])
            assert notes["rate"] == clips["rate"][row, 0] == 4 + number
            assert tar.extractfile(f"{row:08d}.flac").read() == b"la la"  # type: ignore[union-attr]
            for place, stream in enumerate(streams):
                clip = clips[row, place]
                assert clip["count"] == COUNTS[number]
                for n in range(COUNTS[number]):
                    at = int(clip["first"]) + n
                    name = f"{stream}.{n:03d}" if stream else f"{n:03d}"
                    member = tar.getmember(f"{row:08d}.{name}.jpg")
                    expected = image(10 * n + 3 * number + place)
                    assert (member.offset_data, member.size) == (frames["offset"][at], frames["size"][at])
                    assert tar.extractfile(member).read() == expected  # type: ignore[union-attr]
                    if n % 2 == 0:
                        member = tar.getmember(f"{row:08d}.{name}.seg.png")
                        assert (member.offset_data, member.size) == (masks["offset"][at], masks["size"][at])
                    else:
                        assert masks["size"][at] == 0
                    assert motion[at] == pytest.approx(10 if n + 1 < COUNTS[number] else 0, abs=0.01)
        assert index[row] == frames[clips["first"][row, 0]] and index["label"][row] == number % 2
        assert shards.masks[row] == masks[clips["first"][row, 0]]
    assert sorted(sources.values()) == [0, 1, 2, 3]
    levels = [10 * n + 3 * k + p for k, count in enumerate(COUNTS) for n in range(count) for p in range(len(streams))]
    assert shards.manifest.image_stats.mean[0] == pytest.approx(np.mean(levels) / 255)
    assert shards.manifest.masks is not None and shards.manifest.masks.num_masks == len(COUNTS)


def test_same_films_same_bytes_also_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def content(folder: Path) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}

    whole = packed(tmp_path / "whole", films(masks=True), max_samples=1)
    items = films(masks=True)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("eyespot.data_pipeline.shards.parts.goal.commit", stop)
        packed(tmp_path / "again", items, max_samples=1)
    packed(tmp_path / "again", items, max_samples=1)
    assert content(tmp_path / "again") == content(whole.path)


@pytest.mark.parametrize(
    "frames, reason",
    [
        ({"": []}, "no frames"),
        ({"": [image(1), b"\xff\xd8\xff broken"]}, "frame 1: "),
        ({"": [image(1), image(1, (16, 20))]}, "frame 1 is 16 x 20 pixels where frame 0 is 20 x 16"),
        ({"": [image(1)] * 40 + [image(1)[:-30]] * 3}, "frame 40: "),
    ],
)
def test_one_bad_frame_leaves_the_sample_out_by_name(tmp_path: Path, frames: dict[str, list[bytes]], reason: str):
    bad = Item("bad film", 0, "", 0, 0, frames=Footage(rate=0.0, frames=frames))
    shards = packed(tmp_path / "out", [*films(), bad])
    (left_out,) = shards.manifest.quarantined
    assert left_out["source"] == "bad film" and left_out["reason"].startswith(reason)
    assert shards.manifest.num_samples == len(COUNTS)


def test_cameras_must_agree(tmp_path: Path):
    odd = Item("odd", 0, "", 0, 0, frames=Footage(rate=0.0, frames={"left": [image(1)]}))
    short = {"left": [image(1)], "right": [image(1)] * 2}
    uneven = Item("uneven", 0, "", 0, 0, frames=Footage(rate=0.0, frames=short))
    shards = packed(tmp_path / "out", [*films(("left", "right")), odd, uneven])
    reasons = {bad["source"]: bad["reason"] for bad in shards.manifest.quarantined}
    assert reasons == {
        "odd": "its cameras are left, and most samples have left, right",
        "uneven": "its cameras differ in length: 1 frames left, 2 frames right",
    }


def test_images_beside_films_are_refused(tmp_path: Path):
    (tmp_path / "1.jpg").write_bytes(image(1))
    single = Item("1.jpg", 0, str(tmp_path / "1.jpg"), 0, len(image(1)))
    with pytest.raises(UserError, match="single images beside samples of many frames"):
        packed(tmp_path / "out", [*films(), single])


def test_image_shards_have_no_frames(tmp_path: Path):
    for n in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{n}.jpg").write_bytes(image(n))
    pack(str(tmp_path / "in"), tmp_path / "out")
    shards = ShardFolder(tmp_path / "out")
    for name in ("frames", "clips", "motion", "frame_masks"):
        with pytest.raises(UserError, match="have no frames; "):
            getattr(shards, name)
    assert "frames" not in json.loads((tmp_path / "out" / "manifest.json").read_text())
    film = packed(tmp_path / "films", films())
    with pytest.raises(UserError, match="have no masks of frames; "):
        _ = film.frame_masks


def test_names_sort_as_time_does():
    for count in (1, 999, 1000, 1001, 20_000):
        names = frame_names(("left", "right"), count)
        assert len(set(names)) == 2 * count and names == sorted(names)
    assert frame_names(("",), 3) == ["000", "001", "002"] and frame_names(("",), 1001)[-1] == "1000"
    assert is_stream("left") and is_stream("0a") and not any(map(is_stream, ("", "12", "a.b", "a b", "seg", "Ä")))


def test_motion_is_the_mean_difference_in_levels():
    a, b = np.array([[0, 255], [10, 10]], np.uint8), np.array([[255, 0], [10, 14]], np.uint8)
    assert motion_of(a, b) == motion_of(b, a) == (255 + 255 + 0 + 4) / 4


HOSTILE: dict[str, tuple[str, Callable[[np.ndarray], object], str]] = {
    "count of 0": ("clips", lambda t: t["count"].__setitem__((1, 0), 0), "count .* of sample 1: no clip is so short"),
    "too many": (
        "clips",
        lambda t: t["count"].__setitem__((3, slice(None)), 2**32 - 1),
        "the manifest lists 42 frames",
    ),
    "too few": (
        "clips",
        lambda t: t["count"].__setitem__((3, slice(None)), 1),
        "some belong to no sample|end elsewhere",
    ),
    "uneven": ("clips", lambda t: t["count"].__setitem__((0, 1), 77), "sample 0: its streams differ in length"),
    "first": ("clips", lambda t: t["first"].__setitem__((2, 0), 2**63), "sample 2: the frames before it end elsewhere"),
    "rate": ("clips", lambda t: t["rate"].__setitem__((0, 0), np.nan), "rate .* of sample 0: no rate is so large"),
    "slow": ("clips", lambda t: t["rate"].__setitem__((0, 0), -1), "rate .* of sample 0: no rate is so large"),
    "tar": ("frames", lambda t: t["tar"].__setitem__(5, 9), "frames.npy: tar 9 of frame 5: the manifest lists 1 shard"),
    "place": ("frames", lambda t: t["offset"].__setitem__(5, 2**63), "of frame 5: its bytes lie beyond the end"),
    "size": ("frames", lambda t: t["size"].__setitem__(5, 0), "size 0 of frame 5: no image is so small"),
    "height": ("frames", lambda t: t["height"].__setitem__(-1, 17), "height 17 of frame 41: the first frame"),
    "label": ("frames", lambda t: t["label"].__setitem__(-1, 1 - t["label"][-1]), "label . of frame 41: the first"),
    "image": ("frames", lambda t: t["crc32"].__setitem__(0, 0), "first .* of sample 0: that frame is not the sample's"),
    "still": ("motion", lambda t: t.__setitem__(3, np.nan), "motion.npy: nan of frame 3: must lie between 0 and 255"),
    "motion": ("motion", lambda t: t.__setitem__(3, 256), "256.0 of frame 3: must lie between 0 and 255"),
    "masks": ("frame_masks", lambda t: t["offset"].__setitem__(0, 2**60), "frame_masks.npy: offset .* of frame 0: its"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    return packed(tmp_path_factory.mktemp("sound"), films(("left", "right"), masks=True))


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_tables_are_refused_in_one_line(sound: ShardFolder, tmp_path: Path, what: str):
    name, spoil, reason = HOSTILE[what]
    tables = {table: getattr(sound, table).copy() for table in ("frames", "clips", "motion", "frame_masks")}
    spoil(tables[name])
    shards = rewritten(sound, tmp_path, {table: atomic_files.npy_bytes(rows) for table, rows in tables.items()})
    with pytest.raises(UserError, match=reason) as error:
        _ = shards.clips, shards.motion, shards.frame_masks
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"no table", atomic_files.npy_bytes(np.zeros((4, 2), np.float64)), "fortran", "flat", "short"],
)
def test_tables_of_another_shape_are_refused(sound: ShardFolder, tmp_path: Path, data: bytes | str):
    tables = {
        "fortran": np.asfortranarray(sound.clips),
        "flat": sound.clips.ravel(),
        "short": sound.clips[:-1],
    }
    content = atomic_files.npy_bytes(tables[data]) if isinstance(data, str) else data
    with pytest.raises(UserError, match=r"clips\.npy: "):
        _ = rewritten(sound, tmp_path, {"clips": content}).clips


def rewritten(shards: ShardFolder, folder: Path, tables: dict[str, bytes]) -> ShardFolder:
    """The same shards with other tables, whose checksums the manifest was made to tell."""
    for path in shards.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    manifest = shards.manifest
    digests = {}
    for name, data in tables.items():
        (folder / f"{name}.npy").write_bytes(data)
        digests["masks_sha256" if name == "frame_masks" else f"{name}_sha256"] = hashlib.sha256(data).hexdigest()
    assert manifest.frames is not None
    told = replace(manifest, frames=replace(manifest.frames, **digests))
    (folder / "manifest.json").write_text(told.to_json())
    return ShardFolder(folder)


def test_a_changed_table_is_found_by_its_checksum(sound: ShardFolder, tmp_path: Path):
    shards = rewritten(sound, tmp_path, {})
    clips = sound.clips.copy()
    clips["rate"] += 1
    np.save(tmp_path / "clips.npy", clips)
    with pytest.raises(UserError, match=r"clips\.npy: changed since it was written"):
        _ = shards.clips
    assert clips.dtype == CLIP_DTYPE


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("num_frames", 3, "frames.num_frames 3: too few for 4 samples"),
        ("num_frames", -1, "frames.num_frames -1"),
        ("streams", ["right", "left"], "must be sorted, each there once"),
        ("streams", ["left", "left"], "must be sorted, each there once"),
        ("streams", ["", "left"], "'' is no name of a stream"),
        ("streams", ["../x", "y"], "'../x' is no name of a stream"),
        ("streams", [], "frames.streams"),
        ("rate", [0, 1, float("nan")], "not JSON|frames.rate|rate"),
        ("count", [0, 1, 2], "frames.count"),
        ("clips_sha256", None, "clips_sha256"),
    ],
)
def test_what_a_manifest_may_not_say(sound: ShardFolder, field: str, value: object, said: str):
    fields = json.loads(sound.manifest.to_json())
    fields["frames"][field] = value
    with pytest.raises(UserError, match=said):
        Manifest.from_json(json.dumps(fields).encode(), Path("manifest.json"))


def test_a_manifest_comes_back_as_it_was(sound: ShardFolder):
    text = sound.manifest.to_json()
    assert Manifest.from_json(text.encode(), Path("manifest.json")).to_json() == text
    assert isinstance(sound.manifest.frames, Frames)
