"""Packing: right, deterministic, resumable, and never half done under a complete look."""

import fcntl
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes import levels

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.verify import verify


def picture(path: Path, height: int = 16, width: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels(height, width, 3)).save(path)


def content(folder: Path) -> dict[str, str]:
    """Digest of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,500 images in two classes, so that a pool of workers starts; some broken or odd."""
    root = tmp_path_factory.mktemp("many")
    for number in range(2500):
        picture(root / f"class{number % 2}" / f"{number}.jpg", 8, 8 + number % 5)
    for number in range(0, 2500, 250):
        (root / "class0" / f"broken{number}.jpg").write_bytes(b"\xff\xd8\xff broken")
        Image.new("CMYK", (9, 9), number % 200).save(root / "class1" / f"cmyk{number}.jpg")
    return root


@pytest.fixture(scope="module")
def packed(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, packed in one go by one process."""
    folder = tmp_path_factory.mktemp("packed")
    pack(str(many), folder, max_samples=300, workers=1, holdout=0.2)
    return folder


def test_counts_labels_and_statistics(many: Path, packed: Path):
    manifests = {split: ShardFolder(packed / split).manifest for split in ("train", "test")}
    assert [manifests[split].num_samples for split in ("train", "test")] == [2008, 502]
    assert sum(manifest.converted["cmyk"] for manifest in manifests.values()) == 10
    broken = [bad for manifest in manifests.values() for bad in manifest.quarantined]
    assert sorted(bad["source"] for bad in broken) == sorted(f"class0/broken{n}.jpg" for n in range(0, 2500, 250))
    assert all(bad["reason"] for bad in broken)
    for split, manifest in manifests.items():
        index = ShardFolder(packed / split).index
        assert manifest.classes == ["class0", "class1"] and manifest.num_labeled == len(index)
        assert max(shard.num_samples for shard in manifest.shards) <= 300
        pixels, sources = [], []
        for number, shard in enumerate(manifest.shards):
            with tarfile.open(packed / split / shard.tar) as archive:
                members = {member.name: archive.extractfile(member) for member in archive}
            ids = sorted(name[:-4] for name in members if name.endswith(".cls"))
            assert ids == [f"{row:08d}" for row in np.flatnonzero(index["tar"] == number)]
            with tarfile.open(packed / split / shard.tar) as archive:
                for key in ids:
                    source = json.load(archive.extractfile(f"{key}.json"))["source"]  # type: ignore[arg-type]
                    sources.append(source)
                    image = Image.open(archive.extractfile(f"{key}.jpg"))  # type: ignore[arg-type]
                    pixels.append(np.asarray(image.convert("RGB")).reshape(-1, 3) / 255)
                    row = index[int(key)]
                    assert (row["height"], row["width"]) == (image.height, image.width)
                    assert row["label"] == int(source.startswith("class1"))
        assert len(set(sources)) == len(index) and sources != sorted(sources)
        flat = np.concatenate(pixels)
        assert np.allclose(flat.mean(0), manifest.image_stats.mean, rtol=1e-10)
        assert np.allclose(flat.std(0), manifest.image_stats.std, rtol=1e-10)
        widths = index["width"]
        assert manifest.image_stats.width == (widths.min(), int(np.median(widths)), widths.max())


def test_the_shuffle_mixes_classes_evenly(packed: Path):
    index = ShardFolder(packed / "train").index
    for tar in range(6):
        assert 0.35 < index["label"][index["tar"] == tar].mean() < 0.65


def test_workers_do_not_change_a_byte(many: Path, packed: Path, tmp_path: Path):
    pack(str(many), tmp_path / "two", max_samples=300, workers=2, holdout=0.2)
    assert content(tmp_path / "two") == content(packed)
    assert verify(packed) == []


def test_another_seed_gives_another_order(many: Path, packed: Path, tmp_path: Path):
    pack(str(many), tmp_path / "other", max_samples=300, workers=1, holdout=0.2, seed=1)
    assert content(tmp_path / "other") != content(packed)


def test_the_source_may_stand_elsewhere_and_be_a_tar(tmp_path: Path):
    for number in range(30):
        picture(tmp_path / "set" / f"c{number % 3}" / f"{number}.png")
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        for path in sorted((tmp_path / "set").rglob("*.png"), reverse=True):
            archive.add(path, path.relative_to(tmp_path / "set"))
    pack(str(tmp_path / "set"), tmp_path / "a")
    pack(str(tmp_path / "set.tar.gz"), tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_max_bytes(tmp_path: Path):
    for number in range(40):
        picture(tmp_path / "set" / f"{number}.png")
    manifest = pack(str(tmp_path / "set"), tmp_path / "out", max_bytes=40_000)[""]
    assert all(shard.bytes <= 40_000 for shard in manifest.shards) and len(manifest.shards) > 2
    assert all(shard.bytes == (tmp_path / "out" / shard.tar).stat().st_size for shard in manifest.shards)
    assert manifest.num_labeled == 0 and manifest.classes == []
    single = pack(str(tmp_path / "set"), tmp_path / "tiny", max_bytes=1)[""]
    assert len(single.shards) == 40  # a sample that is too large stands alone


def test_splits_become_folders_and_share_their_classes(tmp_path: Path):
    for name in ("train/a/1.png", "train/b/1.png", "train/c/1.png", "val/c/1.png"):
        picture(tmp_path / "set" / name)
    manifests = pack(str(tmp_path / "set"), tmp_path / "out")
    assert sorted(manifests) == ["test", "train"]
    assert ShardFolder.find(tmp_path / "out", "test").manifest.classes == ["a", "b", "c"]
    assert ShardFolder(tmp_path / "out" / "test").index["label"].tolist() == [2]
    with pytest.raises(UserError, match="already has splits"):
        pack(str(tmp_path / "set"), tmp_path / "again", holdout=0.2)


def test_resize(tmp_path: Path):
    picture(tmp_path / "set" / "1.jpg", 40, 60)
    picture(tmp_path / "set" / "2.jpg", 10, 30)
    manifest = pack(str(tmp_path / "set"), tmp_path / "out", resize=20)[""]
    assert manifest.converted == {"resized": 1}
    index = ShardFolder(tmp_path / "out").index
    assert sorted(zip(index["height"].tolist(), index["width"].tolist(), strict=True)) == [(10, 30), (20, 30)]


def test_packing_again_changes_nothing(packed: Path, many: Path):
    before = content(packed)
    pack(str(many), packed, max_samples=300, workers=1, holdout=0.2)
    assert content(packed) == before
    with pytest.raises(UserError, match="other options"):
        pack(str(many), packed, max_samples=301, holdout=0.2)
    assert content(packed) == before


PROGRAM = """
import sys
from pathlib import Path
from eyespot.data_pipeline.shards.pack import pack
if __name__ == "__main__":
    pack(sys.argv[1], Path(sys.argv[2]), max_samples=300, workers=int(sys.argv[3]), holdout=0.2)
"""


def run(script: Path, source: Path, destination: Path, workers: int, **options: object) -> subprocess.Popen[str]:
    script.write_text(PROGRAM)
    words = [sys.executable, str(script), str(source), str(destination), str(workers)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("num_tars", [1, 5])
def test_kill_at_any_moment_then_go_on(many: Path, packed: Path, tmp_path: Path, num_tars: int):
    destination = tmp_path / "out"
    process = run(tmp_path / "program.py", many, destination, 2)
    while len(list(destination.glob("*/*.tar"))) < num_tars and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    wait_until_nobody_is_left(process.pid)
    with pytest.raises(UserError, match="no manifest"):
        ShardFolder.find(destination)
    assert verify(destination)
    if num_tars > 1:
        first, second = sorted(destination.glob("test/*.tar"))
        written = first.stat().st_mtime_ns
        with pytest.raises(UserError, match="unfinished pack of another"):
            pack(str(many), destination, max_samples=100, workers=1, holdout=0.2)
        second.write_bytes(second.read_bytes()[:-100])  # the crash took the end of a finished one, too
        (destination / ".packing" / "train-000000.json").write_text("[" * 100_000)  # and what was noted of another
        (destination / "test" / "shard-000009.tar.tmp").write_bytes(b"left behind")
    pack(str(many), destination, max_samples=300, workers=1, holdout=0.2)
    assert content(destination) == content(packed)
    if num_tars > 1:
        assert first.stat().st_mtime_ns == written  # what was finished and whole was not written again


def wait_until_nobody_is_left(leader: int) -> None:
    """The workers must not outlive their killed parent."""
    for _ in range(100):
        if not _session(leader):
            return
        time.sleep(0.1)
    raise AssertionError(f"left behind: {_session(leader)}")


def _session(leader: int) -> list[str]:
    """Living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(path.parent.name)
    return found


def test_two_at_once(many: Path, tmp_path: Path):
    work = tmp_path / "out" / ".packing"
    work.mkdir(parents=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another eyespot shards pack"):
            pack(str(many), tmp_path / "out")
    assert (work / "lock").exists()  # it belongs to the other one


def test_a_full_disk_is_one_line_and_nothing_looks_complete(many: Path, tmp_path: Path):
    def small_files() -> None:  # stands for the full disk: writing fails with an OSError in the middle of a tar
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    process = run(tmp_path / "program.py", many, tmp_path / "out", 1, preexec_fn=small_files)
    text = process.communicate()[1]
    assert (
        process.returncode == 1 and "UserError" in text.splitlines()[-1] and "File too large" in text.splitlines()[-1]
    )
    assert not list((tmp_path / "out").rglob("*.tar")) and not list((tmp_path / "out").rglob("manifest.json"))


def test_an_unwritable_destination(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/out.*Not a directory"):
        pack("digits", tmp_path / "file" / "out")
    picture(tmp_path / "set" / "1.png")
    with pytest.raises(UserError, match="holds other files"):
        pack(str(tmp_path / "set"), tmp_path / "set")


def test_nothing_but_broken_images(tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.jpg").write_bytes(b"")
    (tmp_path / "set" / "2.jpg").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"not one image could be packed.*empty file"):
        pack(str(tmp_path / "set"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no such file"):
        pack(str(tmp_path / "nowhere"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [{"max_samples": 0}, {"resize": 0}, {"holdout": 1.0}, {"workers": 0}, {"seed": -1}])
def test_wrong_options(tmp_path: Path, option: dict):
    with pytest.raises(UserError, match=next(iter(option))):
        pack("digits", tmp_path / "out", **option)


def test_hostile_names_are_kept_as_names(tmp_path: Path):
    names = ["a b/c.d é.png", "a b/" + "ü" * 100 + ".png", "-rf/--.png", "x/\n.png"]
    for name in names:
        picture(tmp_path / "set" / name)
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/set/x/\xff.png")
    picture(tmp_path / "set" / "x" / "2.png")
    (tmp_path / "set" / "x" / "2.png").rename(strange)
    (tmp_path / "set" / "x" / "broken \udcfe.png").write_bytes(b"")
    manifest = pack(str(tmp_path / "set"), tmp_path / "out")[""]
    assert manifest.classes == ["-rf", "a b", "x"]
    assert [bad["source"] for bad in manifest.quarantined] == ["x/broken \\xfe.png"]
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as archive:
        sources = {json.load(archive.extractfile(m))["source"] for m in archive if m.name.endswith("json")}  # type: ignore[arg-type]
    assert sources == {*names, "x/\\xff.png"}
    assert verify(tmp_path / "out") == []


def test_image_stats_are_exact_for_huge_counts():
    from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE, image_stats

    index = np.zeros(1000, INDEX_DTYPE)
    index["height"] = index["width"] = 60_000
    num_pixels = 1000 * 60_000**2
    stats = image_stats(index, [100 * num_pixels] * 3, [100**2 * num_pixels + num_pixels] * 3)
    assert stats.mean[0] == pytest.approx(100 / 255, rel=1e-15) and stats.std[0] == pytest.approx(1 / 255, rel=1e-12)


def test_real_photographs(real_data: Path, tmp_path: Path):
    manifests = pack(str(real_data / "caltech10-images.tar"), tmp_path / "out", holdout=0.2, max_bytes=10_000_000)
    assert sum(manifest.num_samples for manifest in manifests.values()) == 2708
    assert Counter(len(manifest.classes) for manifest in manifests.values()) == {10: 2}
    assert all(not manifest.quarantined and not manifest.converted for manifest in manifests.values())
    assert 130 < manifests["train"].image_stats.height[1] < 250


def test_the_bytes_are_those_of_earlier_versions(tmp_path: Path):
    """Tars, indexes and manifests: who packs the photographs of the package again gets what others have."""
    pack("caltech10", tmp_path / "out", max_samples=300, workers=1)
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(content(tmp_path / "out").items()))
    assert hashlib.sha256(lines.encode()).hexdigest() == PACKED_PHOTOGRAPHS


PACKED_PHOTOGRAPHS = "3f4fdf54c0fa2908ae258ec6f8162b457a6d13ce8583d57f99c1987cf05e4f35"
