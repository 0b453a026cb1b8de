"""Reading samples out of damaged tars."""

import io
import logging
import os
import shutil
import tarfile
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from in_pieces import in_pieces
from PIL import Image

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.loading import reader as reader_file
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


@pytest.fixture
def shards(digit_shards, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(digit_shards, tmp_path / "shards"))


def open_reader(shards: Path, substitute: bool = True) -> Reader:
    return Reader(ShardFolder(shards), substitute=substitute)


def damage(shards: Path, sample: int, count: int = 1) -> str:
    """Flips a bit of each of some neighbouring samples; returns the first one's tar."""
    folder = ShardFolder(shards)
    for row in folder.index[sample : sample + count]:
        path = folder.tar_path(int(row["tar"]))
        with path.open("r+b") as file:
            file.seek(int(row["offset"]) + int(row["size"]) // 2)
            byte = file.read(1)[0]
            file.seek(-1, io.SEEK_CUR)
            file.write(bytes([byte ^ 4]))
    return path.name


def read(reader: Reader, ids) -> tuple[list[int], list[bytes]]:
    found, files = reader.start(np.array(ids)).result()
    return found.tolist(), [bytes(file) for file in files]


def test_files_are_those_in_the_tars(shards):
    inside = []
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            inside += [tar.extractfile(member).read() for member in tar if member.name.endswith(".png")]
    ids = np.random.default_rng(0).permutation(len(inside)).tolist()
    reader = open_reader(shards)
    assert read(reader, ids) == (ids, [inside[sample] for sample in ids])
    reader.close()


def forget(shards: Path) -> None:
    """Drops the tars from the system's memory, so that they have to come from the disk."""
    os.sync()
    for path in shards.glob("*.tar"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("forgotten", ["all", "some"])
def test_what_is_not_in_memory_comes_from_the_disk(shards, forgotten):
    reader = open_reader(shards, substitute=False)
    ids = np.random.default_rng(0).permutation(len(reader.index)).tolist()
    expected = read(reader, ids)
    forget(shards)
    if forgotten == "some":
        for path in sorted(shards.glob("*.tar"))[::2]:
            path.read_bytes()
    assert read(reader, ids) == expected
    reader.close()


class SlowReader(Reader):
    """From storage that takes 5 ms to answer and never has anything in memory."""

    def _read(self, number, row, flags=0):
        if flags:
            raise BlockingIOError
        time.sleep(0.005)
        return super()._read(number, row)


def test_slow_storage_is_asked_for_many_files_at_once(shards):
    reader = SlowReader(ShardFolder(shards), substitute=False)
    began = time.perf_counter()
    readings = [reader.start(np.arange(start, start + 64)) for start in range(0, 640, 64)]
    found = [sample for reading in readings for sample in reading.result()[0].tolist()]
    assert found == list(range(640))
    assert 640 / (time.perf_counter() - began) > 700  # a second; one after another gives 200
    reader.close()


def test_many_threads_share_few_open_tars(shards, monkeypatch):
    monkeypatch.setattr(reader_file, "NUM_OPEN_TARS", 1)
    reader = open_reader(shards, substitute=False)
    ids = np.random.default_rng(0).permutation(1400).tolist()
    for _ in range(5):
        assert read(reader, ids)[0] == ids
    reader.close()


def test_a_flipped_bit_brings_the_neighbour_and_a_line_in_the_log(shards, caplog):
    tar = damage(shards, 50)
    reader = open_reader(shards)
    with caplog.at_level(logging.WARNING, "eyespot"):
        ids, files = read(reader, [49, 50, 51])
    assert ids == [49, 51, 51]
    assert files[1] == files[2]
    assert caplog.text.count("sample 50 ") == 1
    assert tar in caplog.text
    assert "crc32" in caplog.text
    reader.close()


def test_substitutes_stand_ever_farther_away_and_wrap_around(shards):
    last = ShardFolder(shards).manifest.num_samples - 1
    damage(shards, 50, count=4)
    damage(shards, last)
    reader = open_reader(shards)
    assert read(reader, [50, 51, 52, 53, last])[0] == [54, 55, 54, 54, 0]
    reader.close()


def test_where_samples_are_chosen_others_of_them_stand_in(shards):
    damage(shards, 50)
    damage(shards, 900)
    reader = Reader(ShardFolder(shards), substitute=True, among=np.array([3, 50, 700, 900]))
    assert read(reader, [3, 50, 700, 900])[0] == [3, 700, 700, 3]
    reader.close()


LOSSES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:512]),
    "removed": lambda path: path.unlink(),
    "moved to a lost mount": lambda path: path.parent.rename(path.parent.with_name("away")),
    "a folder in its place": lambda path: (path.unlink(), path.mkdir()),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
}


@pytest.mark.parametrize("substitute", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_tar_that_is_lost_is_waited_for_and_never_called_damage(shards, loss, substitute, caplog):
    reader = Reader(ShardFolder(shards), substitute=substitute, patience_seconds=0.3)
    LOSSES[loss](shards / "shard-000003.tar")
    inside = np.flatnonzero(reader.index["tar"] == 3)
    with caplog.at_level(logging.INFO, "eyespot"), pytest.raises(Outage, match=r"shard-000003\.tar: cannot be read"):
        read(reader, inside)
    assert "damaged" not in caplog.text
    assert caplog.text.count("waiting up to 0 s for the file system") == 1
    assert not reader.num_rejected
    reader.close()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_tar_that_comes_back_is_read_as_if_nothing_had_been(shards, loss, tmp_path, caplog):
    reader = open_reader(shards, substitute=True)
    ids = np.flatnonzero(reader.index["tar"] == 3).tolist()
    expected = read(reader, ids)
    shutil.copytree(shards, tmp_path / "copy")
    LOSSES[loss](shards / "shard-000003.tar")
    reader._source.close()

    def mend() -> None:
        shutil.rmtree(shards, ignore_errors=True)
        (tmp_path / "copy").rename(shards)

    timer = threading.Timer(0.5, mend)
    with caplog.at_level(logging.INFO, "eyespot"):
        timer.start()
        assert read(reader, ids) == expected
    assert caplog.text.count("waiting up to 300 s") == caplog.text.count("can be read again, after") == 1
    timer.join()
    reader.close()


def test_who_waits_is_let_go_when_the_reader_closes(shards):
    reader = open_reader(shards)
    reading_of = np.flatnonzero(reader.index["tar"] == 3)
    (shards / "shard-000003.tar").unlink()
    reading = reader.start(reading_of)
    time.sleep(0.3)
    began = time.perf_counter()
    reader.close()
    assert time.perf_counter() - began < 2
    with pytest.raises((Outage, CancelledError)):
        reading.result()


def lie(shards: Path, height: int, width: int) -> np.ndarray:
    index = np.load(shards / "index.npy")
    index["height"], index["width"] = height, width
    return index


@pytest.mark.parametrize(("height", "width"), [(16, 8), (8, 7), (300, 200), (65_535, 4096), (1, 65_535)])
def test_a_size_that_is_not_the_images_is_damage(shards, height, width, caplog):
    manifest = ShardFolder(shards).manifest
    np.save(shards / "index.npy", lie(shards, height, width))
    reader = Reader(ShardFolder(shards, hashes=False), substitute=True)
    with (
        caplog.at_level(logging.INFO, "eyespot"),
        pytest.raises(UserError, match="no readable sample near 7") as caught,
    ):
        read(reader, [7])
    assert "8 x 8 pixels where the index says" in caplog.text or "an image of" in caplog.text
    assert "\n" not in str(caught.value) and f"{manifest.num_samples.bit_length() + 1} are damaged" in str(caught.value)
    reader.close()


def test_a_handful_of_damaged_samples_is_named_at_the_terminal_and_all_in_the_log(shards, caplog):
    damage(shards, 100, count=40)
    reader = open_reader(shards)
    with caplog.at_level(logging.INFO, "eyespot"):
        for _ in range(3):
            read(reader, range(100, 140))
    shown = [record for record in caplog.records if not getattr(record, "file_only", False)]
    assert len(shown) == reader_file.MAX_NAMED + 1
    named = [record for record in caplog.records if "is damaged" in record.message]
    assert sorted(int(record.message.split()[1]) for record in named) == list(range(100, 140))
    reader.close()


def test_when_nothing_is_readable_one_line_says_so(shards):
    damage(shards, 0, count=1438)
    reader = open_reader(shards)
    with pytest.raises(
        UserError, match=r"no readable sample near 7, 12 are damaged or incomplete; run: eyespot shards verify"
    ):
        read(reader, [7])
    reader.close()


def test_for_evaluation_damage_is_an_error_that_names_the_sample(shards):
    damage(shards, 50)
    reader = open_reader(shards, substitute=False)
    assert read(reader, [49])[0] == [49]
    with pytest.raises(UserError, match=r"sample 50 \(.*shard-.*\) is damaged: .*crc32"):
        read(reader, [50])
    reader.close()


@pytest.mark.parametrize(("change", "message"), [("cut", "bytes where the manifest says"), ("removed", "is missing")])
def test_tars_are_checked_at_the_start(shards, change, message):
    path = shards / "shard-000002.tar"
    path.unlink() if change == "removed" else path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(UserError, match=f"shard-000002.tar.*{message}"):
        open_reader(shards)


def test_absurd_sizes_are_never_decoded(shards):
    index = np.load(shards / "index.npy")
    index["height"][5], index["width"][5] = 60_000, 60_000
    index["width"][9] = 0
    reader = Reader(ShardFolder(shards), substitute=True, index=index)
    assert read(reader, [5, 9])[0] == [6, 10]
    reader.close()


def test_rejected_samples_are_replaced_from_then_on(shards):
    reader = open_reader(shards)
    reader.reject(20, 20, "not an image")
    assert read(reader, [20, 19]) == (read(reader, [21, 19]))
    assert reader.num_rejected == 1
    assert Image.open(io.BytesIO(read(reader, [20])[1][0])).size == (8, 8)
    reader.close()


def test_a_tar_of_format_2_that_is_cut_later_is_an_outage_and_one_that_was_is_damage(digit_shards, tmp_path):
    folder = ShardFolder(in_pieces(digit_shards, tmp_path / "pieces"))
    tar, whole = folder.tar_path(0), folder.tar_path(0).read_bytes()
    reader = Reader(folder, substitute=False, patience_seconds=0.3)
    (_, expected) = read(reader, [0, 5])
    os.truncate(tar, 700)
    with pytest.raises(Outage, match=r"cannot be read for 0 s \(its tar has 700 bytes where the manifest says"):
        read(reader, [5])
    tar.write_bytes(whole)
    assert read(reader, [0, 5])[1] == expected
    reader.close()
    os.truncate(tar, 700)
    reader = Reader(folder, substitute=False, patience_seconds=0.3)
    with pytest.raises(UserError, match=r"sample 5 .* is damaged: its tar has 700 bytes where the manifest says"):
        read(reader, [5])
    reader.close()
