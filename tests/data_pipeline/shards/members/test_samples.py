"""Members become samples as in WebDataset's own reader, and where two readings are possible, nothing is guessed."""

import io
import tarfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import webdataset

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.manifest import Reading
from eyespot.data_pipeline.shards.members import samples
from eyespot.data_pipeline.shards.members.samples import check_plain, samples_of
from eyespot.data_pipeline.shards.members.skipped import Tally
from eyespot.data_pipeline.shards.members.tar_members import Member, scan

Found = list[tuple[str, str | None, bool]]


def write(path: Path, names: Sequence[str], text: str = "3") -> Path:
    """Each member holds its own number, labels ``text``."""
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            data = text.encode() if name.lower().endswith("cls") else f"{number}:{name}".encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def read(path: Path, names: Sequence[str], **how: object) -> tuple[Found, dict[str, list[str]]]:
    """(image, label, has a mask) of each sample with an image, and what was skipped."""
    tally = Tally()
    reading = Reading(**how)  # pyright: ignore[reportArgumentType]
    scanned = scan(write(path / "a.tar", names))
    found = samples_of(path / "a.tar", path / "a.tar", scanned.files, reading, tally)
    images = [(sample.name, text, sample.mask is not None) for sample, text in found if sample.image]
    return images, {one.reason: one.examples for one in tally.listed()}


ORDINARY = {
    "img2dataset": ["0.jpg", "0.json", "0.txt", "1.jpg", "1.json", "1.txt"],
    "folders": ["./a/1.png", "./a/1.cls", "./b/1.png", "./b/1.cls"],
    "uppercase": ["DSC1.JPG", "DSC1.CLS", "DSC2.Jpeg", "DSC2.cls"],
    "a label before the image": ["1.cls", "1.webp", "2.cls", "2.webp"],
    "keys that repeat later": ["1.jpg", "1.cls", "2.jpg", "2.cls", "1.jpg", "1.cls"],
    "hidden, notes, no extension": ["._1.jpg", "1.jpg", "1.cls", "README", "__index__/1.jpg", "2.jpg"],
    "without a label": ["1.jpg", "2.jpg", "2.cls", "3.cls"],
    "dots in folders": ["v1.5/1.jpg", "v1.5/1.cls", "v1.5/2.jpg"],
    "one dot more": ["a.rgb.jpg", "a.cls", "b.rgb.jpg", "b.cls"],
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_the_same_samples_as_webdataset(tmp_path: Path, kind: str):
    images, skipped = read(tmp_path, ORDINARY[kind])
    theirs = []
    for sample in webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False, empty_check=False):
        data = [value for name, value in sample.items() if name.split(".")[-1] in ("jpg", "jpeg", "png", "webp")]
        if data:
            theirs.append((data[0], sample.get("cls", b"").decode() or None))
    content = (tmp_path / "a.tar").read_bytes()
    files = {f"{offset}": content[offset : offset + size] for _, offset, size in scan(tmp_path / "a.tar").files}
    by_name = {name: files[f"{offset}"] for name, offset, _ in scan(tmp_path / "a.tar").files}
    at = [name.rpartition(" (at byte ")[2].rstrip(")") for name, _, _ in images]
    ours = [files.get(place) or by_name[name] for place, (name, _, _) in zip(at, images, strict=True)]
    assert list(zip(ours, [label for _, label, _ in images], strict=True)) == theirs
    labels = [label for _, label, _ in images if label]
    texts = 2 * (kind == "img2dataset")
    assert len(scan(tmp_path / "a.tar").files) == len(images) + len(labels) + texts + sum(map(len, skipped.values()))


def test_labels_apart_from_their_images_still_belong_to_them(tmp_path: Path):
    assert read(tmp_path, ["1.jpg", "2.jpg", "1.cls", "2.cls"])[0] == [("1.jpg", "3", False), ("2.jpg", "3", False)]


AMBIGUOUS = {
    "dots in names": (["IMG.05.01.jpg", "IMG.05.02.jpg"], "--key last-dot"),
    "a smaller one": (["1.small.png", "1.jpg", "2.small.png", "2.jpg"], "--image-extension jpg"),
    "frames": (["1.000.jpg", "1.001.jpg", "1.cls"], "--image-extension 000.jpg"),
    "thumbnails of the same kind": (["1.thumb.jpg", "1.full.jpg"], "--image-extension thumb.jpg"),
    "two labels": (["1.jpg", "1.fine.cls", "1.coarse.cls"], "--label-extension"),
    "a label of other dots": (["a.05.jpg", "a.06.cls"], "--key last-dot"),
    "two masks": (["1.jpg", "1.a.seg.png", "1.b.seg.png"], "--key last-dot"),
    "twice in a row": (["1.jpg", "1.cls", "1.jpg", "1.cls"], "with a key for each"),
    "twice, and labels later": (["1.jpg", "2.jpg", "1.jpg", "2.jpg", "1.cls", "2.cls"], "with a key for each"),
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_two_readings_stop_and_name_the_flag(tmp_path: Path, kind: str):
    names, flag = AMBIGUOUS[kind]
    with pytest.raises(UserError, match=flag) as caught:
        read(tmp_path, names)
    assert "\n" not in str(caught.value) and "a.tar" in str(caught.value)


def test_the_flags_decide(tmp_path: Path):
    small = ["1.small.png", "1.jpg", "2.small.png", "2.jpg", "3.small.png"]
    images, skipped = read(tmp_path, small, image_extension=(".JPG",))
    assert [name for name, _, _ in images] == ["1.jpg", "2.jpg"]
    assert skipped == {"not the image asked for (.small.png)": [f"a.tar/{number}.small.png" for number in (1, 2, 3)]}
    assert [name for name, _, _ in read(tmp_path, small, image_extension=("jpg,small.png",))[0]] == [
        "1.jpg", "2.jpg", "3.small.png",
    ]  # fmt: skip
    dots = ["IMG.05.01.jpg", "IMG.05.01.cls", "IMG.05.01.seg.png", "IMG.05.02.jpg"]
    assert read(tmp_path, dots, key="last-dot")[0] == [("IMG.05.01.jpg", "3", True), ("IMG.05.02.jpg", None, False)]
    labels = ["1.jpg", "1.fine.cls", "1.coarse.cls"]
    images, skipped = read(tmp_path, labels, label_extension="fine.cls")
    assert images == [("1.jpg", "3", False)] and skipped == {"not an image (.cls)": ["a.tar/1.coarse.cls"]}
    frames = ["1.000.jpg", "1.001.jpg", "1.cls"]
    assert read(tmp_path, frames, image_extension=("000.jpg",))[0] == [("1.000.jpg", "3", False)]
    images, skipped = read(tmp_path, frames, key="last-dot")
    assert len(images) == 2 and skipped == {"a label without an image": ["a.tar/1.cls"]}
    assert read(tmp_path, ["1.img", "1.cls"], image_extension=("img",))[0] == [("1.img", "3", False)]


def test_a_huge_label_is_none(tmp_path: Path):
    path, tally = write(tmp_path / "a.tar", ["1.jpg", "1.cls"], "7" * 2000), Tally()
    assert [text for _, text in samples_of(path, path, scan(path).files, Reading(), tally)] == [None]
    assert tally.listed()[0].reason == "a label of more than 1,024 bytes"


def test_a_plain_tar_asks_only_where_an_image_has_a_companion(tmp_path: Path):
    check_plain(tmp_path, scan(write(tmp_path / "a.tar", ["IMG.1.jpg", "IMG.2.jpg", "x.jpg"])).files)
    with pytest.raises(UserError, match="--image-extension jpg"):
        check_plain(tmp_path, scan(write(tmp_path / "b.tar", ["1.jpg", "1.mask.png"])).files)


def grouped(names: Sequence[str]) -> list[list[str]]:
    """The members of each sample, plainly: a name that is there already begins the next sample of its key."""
    runs: list[list[str]] = []
    last: dict[str, list[str]] = {}
    for name in names:
        key = name.partition(".")[0]
        if name in last.get(key, [name]):
            runs.append([])
            last[key] = runs[-1]
        last[key].append(name)
    return runs


@pytest.mark.parametrize("num_hashes", [1, 2, 2**60])
@pytest.mark.parametrize("seed", range(4))
def test_samples_of_scattered_members(monkeypatch: pytest.MonkeyPatch, seed: int, num_hashes: int):
    """Also where the hashes of different keys are equal; each key repeats as a single image, which may be."""
    rng = np.random.default_rng(seed)
    names = [f"{number}.{extension}" for number in range(20) for extension in ("jpg", "cls", "txt")]
    names = [names[row] for row in rng.permutation(len(names))]
    for place in sorted(rng.integers(0, len(names), 12).tolist(), reverse=True):
        names.insert(place, f"again{place % 5}.jpg")
        names.insert(place, f"between{place}.jpg")
    monkeypatch.setattr(samples, "hash", lambda key: hash(key) % num_hashes, raising=False)
    found = samples.group(Path("a.tar"), [Member(name, 0, 1) for name in names], Reading(), Tally())
    assert [[member.name for _, member in sample.members] for sample in found] == grouped(names)


def test_a_tar_of_many_images_takes_little_memory(tmp_path: Path):
    """As members, runs and samples in lists it took 1,500 bytes for each image, and more with a label."""
    count = 500
    path = write(tmp_path / "a.tar", [f"{number:06d}.{end}" for number in range(count) for end in ("jpg", "cls")])
    files = scan(path).files
    tracemalloc.start()
    try:
        found = sum(text == "3" for _, text in samples_of(path, path, files, Reading(), Tally()))
        assert found == count and tracemalloc.get_traced_memory()[1] < 400 * count
    finally:
        tracemalloc.stop()
