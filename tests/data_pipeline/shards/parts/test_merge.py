"""Parts of many tasks, merged, are one pack byte for byte, whatever was damaged, killed or done twice."""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed_parts import content, killed_at, pack_part, write_images
from PIL import Image

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.parts.merge import merge
from eyespot.data_pipeline.shards.parts.task_part import PARTS
from eyespot.data_pipeline.shards.verify import verify


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 70)


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    pack(str(images), folder, workers=1, max_samples=5)
    return folder


@pytest.fixture(scope="module")
def parts(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three tasks."""
    folder = tmp_path_factory.mktemp("parts")
    for number in range(3):
        pack_part(images, folder, number, 3, max_samples=5)
    return folder


@pytest.mark.parametrize("count", [1, 2, 7])
def test_merged_parts_are_one_pack(images: Path, whole: Path, tmp_path: Path, count: int):
    for number in reversed(range(count)):
        pack_part(images, tmp_path, number, count, max_samples=5)
    merged = merge(tmp_path, 2)
    assert content(tmp_path) == content(whole)
    assert merged.num_renamed + merged.num_copied == len(merged.manifests[""].shards) > 10
    assert merged.num_renamed >= 1 and (merged.num_copied == 0) == (count == 1)
    assert verify(tmp_path) == []
    assert merge(tmp_path, 2).manifests == merged.manifests  # a second time, there is nothing to do
    pack_part(images, tmp_path, 0, count, max_samples=5)  # as if SLURM had queued it again
    assert content(tmp_path) == content(whole)


OPTIONS = [{"max_bytes": 40_000, "holdout": 0.3}, {"max_samples": 11, "resize": 9, "seed": 3}, {}]


@pytest.mark.parametrize("options", OPTIONS, ids=["bytes", "resized", "one-shard"])
def test_however_the_shards_are_cut(images: Path, tmp_path: Path, options: dict):
    pack(str(images), tmp_path / "whole", workers=1, **options)
    for number in range(3):
        pack_part(images, tmp_path / "parts", number, 3, **options)
    merge(tmp_path / "parts", 1)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_masks_come_along(tmp_path: Path):
    for number in range(20):
        for folder, pixels in (("images", 255 - number), ("masks", number % 4)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.full((9, 9 + number), pixels, np.uint8)).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "masks" / "3.png").write_bytes(b"broken")
    options = {"masks": tmp_path / "masks", "max_samples": 3}
    pack(str(tmp_path / "images"), tmp_path / "whole", workers=1, **options)  # type: ignore[arg-type]
    for number in range(2):
        pack_part(tmp_path / "images", tmp_path / "parts", number, 2, **options)
    assert merge(tmp_path / "parts").manifests[""].masks is not None
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_without_a_damaged_image_nothing_is_copied(tmp_path: Path):
    source = write_images(tmp_path / "source", 48, first=1)
    for path in [*source.rglob("broken*"), *source.rglob("cmyk*")]:
        path.unlink()
    for options in ({"max_samples": 5}, {"max_bytes": 20_000}):
        root = tmp_path / next(iter(options))
        for number in range(2):
            pack_part(source, root, number, 2, **options)
        merged = merge(root)
        assert merged.num_copied == 0 and merged.num_renamed > 7


def test_a_merge_killed_before_any_of_its_renames_goes_on(parts: Path, whole: Path, tmp_path: Path):
    killed = 0
    for rename in range(1, 200, 13):
        root = shutil.copytree(parts, tmp_path / f"killed-{rename}")
        if not killed_at(rename, merge, root, 1):
            break
        killed += 1
        if not (root / "manifest.json").exists():
            assert any("not merged" in line for line in verify(root))
        killed_at(3, merge, root, 1)
        merge(root, 2)
        assert content(root) == content(whole)
    assert killed > 2


def test_what_a_killed_merge_wrote_is_read_again_before_it_counts(parts: Path, whole: Path, tmp_path: Path):
    root = shutil.copytree(parts, tmp_path / "root")
    assert killed_at(25, merge, root, 1)
    copied = [path for path in root.glob("*.tar") if (root / PARTS / "merged" / f"all-{path.stem[6:]}.json").exists()]
    data = bytearray(copied[0].read_bytes())
    data[700] ^= 1
    copied[0].write_bytes(data)
    merge(root, 1)
    assert content(root) == content(whole)


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        merge(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_together_is_named(images: Path, parts: Path, tmp_path: Path):
    assert "no parts there" in refusal(tmp_path)
    root = shutil.copytree(parts, tmp_path / "root")
    (root / PARTS / "0001-of-0003" / "part.json").unlink()
    assert "of 3 tasks, 1 not finished (1); run the same eyespot shards pack with --task 1/3" in refusal(root)
    shutil.rmtree(root / PARTS / "0001-of-0003")
    assert "1 not finished (1)" in refusal(root)
    pack_part(images, tmp_path / "other", 1, 3, max_samples=6)
    shutil.copytree(tmp_path / "other" / PARTS / "0001-of-0003", root / PARTS / "0001-of-0003")
    assert "task 1 packed another source or other options than task 0" in refusal(root)
    (root / PARTS / "0001-of-0003" / "part.json").write_text("{")
    assert "part.json: unreadable (not JSON" in refusal(root)
    (root / PARTS / "0000-of-0002").mkdir()
    shutil.rmtree(root / PARTS / "0001-of-0003")
    assert "holds parts of 2 and of 3 tasks" in refusal(root)


LIES = {
    "names no split": {"splits": {}},
    "has a split '../x', which is none": {"splits": {"../x": {"first": 0, "stop": 1, "num_items": 1, "num_tables": 0}}},
    "says no max_samples or max_bytes": {"options": {}},
    "task 1 packed another source": {"classes": ["z"]},
}


@pytest.mark.parametrize("said", LIES)
def test_a_part_that_says_what_cannot_be_is_named(parts: Path, tmp_path: Path, said: str):
    root = shutil.copytree(parts, tmp_path / "root")
    record = root / PARTS / "0000-of-0003" / "part.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **LIES[said]}))
    assert said in refusal(root) and record.exists()


def test_parts_beside_other_shards_are_not_thrown_away(parts: Path, tmp_path: Path):
    root = shutil.copytree(parts, tmp_path / "root")
    pack(str(write_images(tmp_path / "other", 4)), tmp_path / "packed", workers=1)
    shutil.copytree(tmp_path / "packed", root, dirs_exist_ok=True)
    before = content(root)
    assert "holds shards of another source or other options beside the parts" in refusal(root)
    assert content(root) == before | {f"{PARTS}/lock": content(root)[f"{PARTS}/lock"]}


def test_a_damaged_part_is_named(parts: Path, tmp_path: Path):
    root = shutil.copytree(parts, tmp_path / "root")
    tar = root / PARTS / "0002-of-0003" / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    assert f"{tar}: is cut short; pack that task again: rm -r {tar.parent}" in refusal(root)
    tar.unlink()
    assert str(tar) in refusal(root)
    assert not (root / "manifest.json").exists()


TABLE = "tables/all-000000"


def rewrite(name: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    """Of a part's file of JSON or rows, changed."""

    def spoil(part: Path) -> None:
        path = part / name
        if path.suffix == ".npy":
            np.save(path, change(np.load(path)))
        else:
            path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return spoil


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "copy": (lambda part: shutil.copy(part.parent / "0000-of-0003" / "part.json", part), "is of task 0/3, copied here"),
    "tables lost": (
        rewrite("part.json", lambda told: told | {"splits": {"": told["splits"][""] | {"num_tables": 1}}}),
        "its tables do not tell of all items",
    ),
    "row lost": (rewrite(f"{TABLE}.npy", lambda rows: rows[1:]), "another kind or length"),
    "other rows": (rewrite(f"{TABLE}.npy", lambda rows: np.zeros(len(rows))), "of another kind or length"),
    "sums": (rewrite(f"{TABLE}.json", lambda told: told | {"sums": [1]}), "different numbers of channels"),
    "left out": (rewrite(f"{TABLE}.json", lambda told: told | {"quarantined": [{"a": "b"}]}), "what was left out"),
    "begins": (rewrite(f"{TABLE}.begins.npy", lambda begins: begins[::-1].copy()), "do not follow each other"),
    "begins of another": (rewrite(f"{TABLE}.begins.npy", lambda begins: begins[1:]), "another kind or length"),
    "pipe": (lambda part: ((part / f"{TABLE}.npy").unlink(), os.mkfifo(part / f"{TABLE}.npy")), "not a plain file"),
    "members": (lambda part: np.savez(part / f"{TABLE}.members.npz", txt=np.zeros(2)), "no whole archive of arrays"),
    "idx": (lambda part: (part / "shard-000000.idx").write_text("v1.2 5\njpg x y\n"), r"000\.idx: is damaged; pack"),
    "idx cut": (lambda part: (part / "shard-000000.idx").write_text(""), r"000\.idx: is damaged; pack that"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_part_loses_nothing_silently(parts: Path, tmp_path: Path, kind: str):
    spoil, said = DAMAGE[kind]
    root = shutil.copytree(parts, tmp_path / "root")
    spoil(root / PARTS / "0001-of-0003")
    told = refusal(root)
    assert re.search(said, told) and f"rm -r {root / PARTS / '0001-of-0003'}" in told
    assert not (root / "manifest.json").exists()


def test_what_is_called_otherwise_is_no_part(images: Path, parts: Path, whole: Path, tmp_path: Path):
    root = shutil.copytree(parts, tmp_path / "root")
    for name in ("0001-of-0003 (copy)", "9-of-2x"):
        shutil.copytree(root / PARTS / "0001-of-0003", root / PARTS / name)
    pack_part(images, root, 1, 3, max_samples=5)
    merge(root)
    assert content(root) == content(whole)


def test_two_merges_at_once(parts: Path, tmp_path: Path):
    root = shutil.copytree(parts, tmp_path / "root")
    with (root / PARTS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another eyespot shards merge is at work" in refusal(root)
