"""How many classes a batch holds: counted, against a shuffle's closed form, against the eye of who sorted the tars."""

import io
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyespot.cluster.commands.shards import main
from eyespot.data_pipeline.loading.class_mixing import (
    FEW,
    Mixing,
    _lanes_to_try,
    _mixing,
    class_mixing,
    distinct_in_shuffle,
)
from eyespot.data_pipeline.order.orders import make_order
from eyespot.data_pipeline.order.sample_order import SampleOrder
from eyespot.data_pipeline.shards.paged.piece_writer import Cut, write_index
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def mixing(kinds: np.ndarray, batch_size: int, window: int = 2048) -> Mixing | None:
    return _mixing("classes", kinds, batch_size, 0, window)


@pytest.mark.parametrize(("sizes", "unlabeled"), [([5, 5, 5], 0), ([1, 2, 30], 10), ([100, 1, 1], 0), ([7], 7)])
def test_the_closed_form_is_the_average_of_many_draws(sizes, unlabeled):
    kinds = np.repeat(np.arange(-1, len(sizes)), [unlabeled, *sizes])
    draw, count = np.random.default_rng(0), 6
    drawn = [len(np.unique((got := draw.permutation(kinds)[:count])[got >= 0])) for _ in range(20_000)]
    assert distinct_in_shuffle(np.array(sizes), len(kinds), count) == pytest.approx(np.mean(drawn), abs=0.02)


def test_a_batch_as_large_as_the_data_holds_every_class():
    assert distinct_in_shuffle(np.array([3, 4]), 7, 7) == pytest.approx(2)


def test_imagenet_sorted_by_class_has_ten_where_a_shuffle_has_640():
    labels = np.arange(1_281_167) // 1282
    found = mixing(labels, 1024)
    assert found is not None and found.is_poor
    assert 5 < found.found < 20 and 630 < found.shuffled < 650
    assert "a batch of 1,024 holds" in str(found) and f"--data.shuffle-window from 2,048 to {found.wider:,}" in str(
        found
    )
    order = SampleOrder(len(labels), 0, window=found.wider // 256)
    held = [len(np.unique(labels[order.ids(start, 1024)[0]])) for start in range(0, 1_000_000, 300_000)]
    assert np.mean(held) >= FEW * found.shuffled  # the flag that it names helps
    assert not mixing(labels, 1024, found.wider).is_poor


def test_imagenet_sorted_by_class_is_mixed_by_lanes():
    """From 64 lanes a batch of 1,024 holds 60 % of a shuffle's classes; from as many as are advised, more than 80 %."""
    labels = np.arange(1_281_000) // 1281
    found = _mixing("classes", labels, 1024, 0, 2048, 64, 1024)
    assert found.found >= 0.6 * found.shuffled
    order = make_order(len(labels), 0, lanes=64, frame=1024)
    held = [len(np.unique(labels[order.ids(1024 * batch, 1024)[0]])) for batch in range(0, 1251, 125)]
    assert np.mean(held) >= 0.6 * found.shuffled and min(held) > 0.5 * found.shuffled
    found = _mixing("classes", labels, 1000, 0, 2048)
    assert found.is_poor and 1000 % found.more_lanes == 0
    assert f"set --data.lanes {found.more_lanes} (then {found.with_more:.0f}, 8" in str(found)
    better = _mixing("classes", labels, 1000, 0, 2048, found.more_lanes, 1000)
    assert better.found == found.with_more >= FEW * found.shuffled and not better.is_poor


def test_lanes_that_no_batch_has_are_not_advised():
    found = _mixing("classes", np.arange(100_000) // 1000, 7, 0, 256, 1, 7)
    assert found.more_lanes in (1, 7)
    assert _lanes_to_try(2, 96, 1000) == [4, 8, 16, 32, 96]
    assert _lanes_to_try(2, 96, 20) == [4, 8, 16]
    assert _lanes_to_try(7, 7, 1000) == []


@pytest.mark.parametrize("num_classes", [2, 10, 100, 1000])
def test_shuffled_shards_are_well_mixed(num_classes):
    labels = np.random.default_rng(0).integers(0, num_classes, 200_000)
    for batch_size in (64, 256, 1024):
        found = mixing(labels, batch_size)
        assert found is not None and not found.is_poor
        assert found.found == pytest.approx(found.shuffled, rel=0.05)


@pytest.mark.parametrize("kinds", [np.zeros(5000, np.int64), np.full(5000, -1), np.array([3])])
def test_where_there_are_no_two_classes_there_is_nothing_to_say(kinds):
    assert mixing(kinds, 256) is None


def test_what_fits_in_one_window_is_mixed():
    assert not mixing(np.arange(2000) // 200, 256).is_poor
    few = np.random.default_rng(0).integers(0, 2, (50, 24))
    assert not any(mixing(labels, 2).is_poor for labels in few), "whatever a handful of small batches holds"


def test_samples_without_label_are_of_no_class():
    labels = np.where(np.arange(100_000) % 10 == 0, np.arange(100_000) // 1000, -1)
    found = mixing(labels, 256)
    assert found.is_poor and found.shuffled < 26


def test_only_the_chosen_samples_count(digit_shards):
    shards = ShardFolder(digit_shards)
    ids = np.flatnonzero(shards.index["label"] < 3)
    assert class_mixing(shards, 64, ids=ids).shuffled == pytest.approx(3, abs=0.01)
    assert class_mixing(shards, 64, ids=np.flatnonzero(shards.index["label"] == 3)) is None


@pytest.mark.parametrize("is_sorted", [False, True])
def test_of_pieces_some_blocks_say_how_many_classes_batches_hold(is_sorted, digit_shards, tmp_path, monkeypatch):
    """As the whole index does; here of 512 of 4,000 blocks, 40 classes."""
    rows = np.resize(ShardFolder(digit_shards).index, 1_024_000)
    rows["label"] = np.arange(len(rows)) * 40 // len(rows)
    if not is_sorted:
        rows["label"] = np.random.default_rng(0).permutation(rows["label"])
    manifest = replace(ShardFolder(digit_shards).manifest, num_samples=len(rows), num_labeled=len(rows))
    manifest.classes = [str(number) for number in range(40)]
    found = []
    for number, cut in enumerate((Cut(), Cut(above=0, piece_rows=2**17))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "manifest.json").write_text(write_index(folder, manifest, rows, cut).to_json())
        found.append(class_mixing(ShardFolder(folder), 1024))
    whole, blocks = found
    assert whole.is_poor == blocks.is_poor == is_sorted
    assert blocks.found == pytest.approx(whole.found, rel=0.25) and blocks.shuffled == pytest.approx(whole.shuffled)


def sorted_tars(folder: Path, names: list[str]) -> Path:
    image = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).save(image, "PNG")
    folder.mkdir()
    for part in range(4):
        with tarfile.open(folder / f"{part}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for name in names[part * 1500 :][:1500]:
                member = tarfile.TarInfo(name)
                member.size = len(image.getvalue())
                tar.addfile(member, io.BytesIO(image.getvalue()))
    return folder


@pytest.mark.thorough
def test_index_and_verify_warn_of_sorted_tars_and_of_nothing_else(tmp_path, capsys):
    names = [f"class{k // 300:02d}/{k:05d}.png" for k in range(6000)]
    folder = sorted_tars(tmp_path / "sorted", names)
    shuffled = [names[k] for k in np.random.default_rng(0).permutation(6000)]
    mixed = sorted_tars(tmp_path / "mixed", shuffled)
    for command in ("index", "verify"):
        assert main([command, str(folder), "--workers", "1"]) == 0
        said = capsys.readouterr().out
        assert (
            len(re.findall(r"the tars are sorted: a batch of 256 holds \d+ classes, where a shuffle has 20", said)) == 1
        )
        assert "set --data.lanes 2 (then 1" in said
        assert main([command, str(mixed), "--workers", "1"]) == 0
        assert "sorted" not in capsys.readouterr().out.replace(str(tmp_path), "")
