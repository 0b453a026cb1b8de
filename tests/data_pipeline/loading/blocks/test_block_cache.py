"""Files out of blocks: the same as out of the tars, in few requests, whatever comes over the wire."""

import errno
import itertools
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from eyespot.data_pipeline.errors import Outage
from eyespot.data_pipeline.loading.blocks import block_cache, block_fetch, block_layout
from eyespot.data_pipeline.loading.blocks.block_bytes import BytesInFile
from eyespot.data_pipeline.loading.blocks.block_cache import BlockCache
from eyespot.data_pipeline.loading.blocks.block_folder import BlockFolder
from eyespot.data_pipeline.loading.blocks.block_layout import BlockLayout
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.patience import Patience
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.stores.folder_store import FolderStore

KEY = "0" * 24
COUNT = 1438
EVERY = np.random.default_rng(0).permutation(COUNT)


class Wire(FolderStore):
    """A store whose answers may be others than what it holds, and are counted.

    Args:
        store: what it holds.
        spoil: the number of the request and its bytes in, other bytes out.
    """

    def __init__(self, store: FolderStore, spoil: Callable[[int, bytes], bytes] | None = None):
        super().__init__(store.location)
        self._spoil = spoil
        self.lengths: list[int] = []
        self._lock = threading.Lock()

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        content = super().read(key, start, end)
        with self._lock:
            number = len(self.lengths)
            self.lengths.append(len(content))
        return self._spoil(number, content) if self._spoil else content


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


@pytest.fixture
def shards(digit_shards, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(digit_shards, tmp_path / "shards"))


@pytest.fixture
def opened(digit_shards, tmp_path) -> Iterator[Callable[..., tuple[Reader, BlockCache, Wire]]]:
    """Makes readers, which are closed at the end."""
    made: list[Reader] = []

    def make(
        path: Path = digit_shards, folder: Path | None = tmp_path / "cache", substitute: bool = False, **options
    ) -> tuple[Reader, BlockCache, Wire]:
        spoil, seconds = options.pop("spoil", None), options.pop("seconds", 30.0)
        shards = ShardFolder(path)
        wire = shards.store = Wire(shards.store, spoil)
        blocks = None if folder is None else BlockFolder(folder, KEY, options.pop("budget", 10**9), seconds)
        layout = BlockLayout(shards.index, [COUNT])
        cache = BlockCache(shards, layout, folder=blocks, patience=Patience(seconds), **options)
        made.append(Reader(shards, substitute=substitute, source=cache, patience_seconds=seconds))
        return made[-1], cache, wire

    yield make
    for reader in made:
        reader.close()


def read(reader: Reader, ids: np.ndarray = EVERY, cache: BlockCache | None = None, batch: int = 64):
    """What comes of ids that are read in batches, the ids and the bytes; with a cache, known 500 before."""
    plan = ((some, np.zeros_like(some)) for some in np.split(ids, range(batch, len(ids), batch)))
    if cache is not None:
        plan = cache.ahead(plan, lambda ids, epochs: ids[:, None], 500)
    found = [reader.start(some, epochs).result() for some, epochs in plan]
    return np.concatenate([ids for ids, _ in found]).tolist(), [bytes(file) for _, files in found for file in files]


@pytest.fixture(scope="module")
def expected(digit_shards):
    """Out of the tars."""
    reader = Reader(ShardFolder(digit_shards), substitute=False)
    yield read(reader)
    reader.close()


def test_files_are_those_of_the_tars_cold_and_warm(opened, expected):
    reader, cache, wire = opened()
    assert read(reader, cache=cache) == expected
    assert len(wire.lengths) == cache.counts["requests"] == 12 + 5  # of each tar, and five blocks that lie in two
    reader, cache, wire = opened()
    assert read(reader, cache=cache) == expected
    assert wire.lengths == []


def test_files_are_those_of_the_tars_out_of_memory(opened, expected):
    reader, cache, wire = opened(folder=None)
    assert read(reader, cache=cache) == expected
    assert len(wire.lengths) == 17


def test_blocks_are_let_go_when_their_last_file_has_been_read(opened, monkeypatch):
    monkeypatch.setattr(block_cache, "BEHIND", 1)
    reader, cache, wire = opened(folder=None)
    held = []
    ids = np.arange(COUNT)
    plan = ((some, np.zeros_like(some)) for some in np.split(ids, range(64, COUNT, 64)))
    for some, epochs in cache.ahead(plan, lambda ids, epochs: ids[:, None], 256):
        reader.start(some, epochs).result()
        held.append(len(cache._held))
    assert max(held) <= 3
    assert len(wire.lengths) == 17
    assert cache._coming.total() <= 2 * 64


def test_without_a_look_ahead_what_is_read_at_once_decides(opened, expected):
    reader, _, wire = opened(folder=None)
    assert read(reader, batch=COUNT) == expected
    assert len(wire.lengths) == 17


def test_a_few_files_are_asked_for_alone_and_a_block_on_the_disk_serves_them(opened):
    reader, cache, wire = opened()
    few = np.array([3, 700])
    alone = read(reader, few)
    sizes = reader.index["size"][few]
    assert sorted(wire.lengths) == sorted(sizes.tolist())
    reader, cache, wire = opened()
    read(reader, cache=cache)
    reader, cache, wire = opened()
    assert read(reader, few) == alone
    assert wire.lengths == []


def test_where_all_fits_into_the_folder_one_file_fetches_its_block(opened):
    reader, _, wire = opened(whole=True)
    read(reader, np.array([3]))
    assert len(wire.lengths) == 3 and sum(wire.lengths) > 256 * 500


def test_a_flipped_byte_fetches_one_file_again(opened, expected, monkeypatch):
    """Not the block, and not the part: that of the file."""
    monkeypatch.setattr(block_layout, "PART_BYTES", 100_000)
    reader, cache, wire = opened()
    read(reader, cache=cache)
    sound = sorted(wire.lengths)
    shutil.rmtree(cache._folder._folder)
    place, size = int(reader.index["offset"][700]), int(reader.index["size"][700])
    tar, hits = int(reader.index["tar"][700]), list[int]()

    def spoil(request: int, content: bytes) -> bytes:
        if (found := content.find(inside)) < 0 or hits:
            return content
        hits.append(request)
        return flipped(content, found + 5)

    with ShardFolder.tar_path(reader.shards, tar).open("rb") as file:
        inside = file.read()[place + size // 2 : place + size]
    reader, cache, wire = opened(spoil=spoil)
    assert read(reader, cache=cache) == expected
    again = wire.lengths.copy()
    for length in sound:
        again.remove(length)
    assert len(hits) == 1 and again == [size]


@pytest.mark.parametrize("share", [0.3])
def test_many_flipped_parts_are_mended(opened, expected, monkeypatch, share):
    """A third of the answers: the parts that were right are not fetched again, so that it ends."""
    monkeypatch.setattr(block_layout, "PART_BYTES", 20_000)
    monkeypatch.setattr(block_fetch, "MOST_TRIES", 9)
    draw, lock = np.random.default_rng(1), threading.Lock()
    hits: list[int] = []

    def spoil(request: int, content: bytes) -> bytes:
        with lock:
            if draw.random() >= share:
                return content
            hits.append(request)
            return flipped(content, int(draw.integers(len(content))))

    reader, cache, wire = opened(spoil=spoil)
    assert read(reader, cache=cache) == expected
    assert len(hits) > 20
    tars = sum(shard.bytes for shard in reader.shards.manifest.shards)
    assert sum(wire.lengths) < 1.5 * tars  # a whole block again would be many times that


def test_what_is_damaged_in_the_store_is_replaced_until_the_store_is_mended(opened, shards, caplog):
    index = ShardFolder(shards).index
    tar = shards / ShardFolder(shards).manifest.shards[int(index["tar"][50])].tar
    content = tar.read_bytes()
    tar.write_bytes(flipped(content, int(index["offset"][50]) + int(index["size"][50]) // 2))
    plain = Reader(ShardFolder(shards), substitute=True)
    expected = read(plain)
    plain.close()
    assert expected[0][EVERY.tolist().index(50)] == 51
    with caplog.at_level(logging.WARNING, "eyespot"):
        reader, cache, wire = opened(shards, substitute=True)
        assert read(reader, cache=cache) == expected
    assert len(wire.lengths) == 17 + block_fetch.MOST_TRIES - 1
    assert caplog.text.count("sample 50 ") == 2  # by each of the two readers once
    reader, cache, wire = opened(shards, substitute=True)
    assert read(reader, cache=cache) == expected
    assert wire.lengths == [int(index["size"][50])], "another run asks for it once"
    tar.write_bytes(content)
    reader, cache, wire = opened(shards, substitute=True)
    ids, files = read(reader, cache=cache)
    assert ids == EVERY.tolist()
    assert files[ids.index(50)] == content[int(index["offset"][50]) :][: int(index["size"][50])]
    assert cache.counts["blocks"] == 1
    reader, cache, wire = opened(shards, substitute=True)
    assert read(reader, cache=cache) == (ids, files)
    assert wire.lengths == []


def test_bytes_that_rot_on_the_caches_disk_are_fetched_anew(opened, expected, tmp_path):
    reader, cache, _ = opened()
    read(reader, cache=cache)
    blocks = sorted((tmp_path / "cache").glob("*.block"))
    blocks[0].write_bytes(bytes(blocks[0].stat().st_size))  # what a power cut leaves
    blocks[1].write_bytes(flipped(blocks[1].read_bytes(), 40_000))
    blocks[2].write_bytes(blocks[2].read_bytes()[:-1])
    reader, _, wire = opened()
    few = np.array([3, 200])  # of the first block, which nobody counts on
    assert read(reader, few)[1] == [expected[1][EVERY.tolist().index(sample)] for sample in few.tolist()]
    assert len(wire.lengths) == 2
    reader, cache, wire = opened()
    assert read(reader, cache=cache) == expected
    assert cache.counts["blocks"] in (2, 3)  # the flipped byte may lie between two files
    reader, cache, wire = opened()
    assert read(reader, cache=cache) == expected
    assert wire.lengths == []


def test_a_cache_disk_that_breaks_is_done_without(opened, expected, monkeypatch):
    broken, reads = threading.Event(), BytesInFile.read

    def fails(self: BytesInFile, place: int, size: int, flags: int = 0) -> bytearray:
        if broken.is_set():
            raise OSError(errno.EIO, "Input/output error")
        return reads(self, place, size, flags)

    monkeypatch.setattr(BytesInFile, "read", fails)
    reader, cache, wire = opened()
    assert read(reader, cache=cache) == expected
    reader, cache, wire = opened()
    look = cache._folder._look

    def breaks_after(block: int, size: int) -> BytesInFile | None:
        found = look(block, size)
        broken.set()
        return found

    monkeypatch.setattr(cache._folder, "_look", breaks_after)
    assert read(reader, cache=cache) == expected
    assert len(wire.lengths) >= 17


def test_a_budget_that_is_too_small_is_slow_and_exact(opened, expected, tmp_path):
    reader, cache, _ = opened(budget=1_700_000)
    assert read(reader, cache=cache) == expected
    assert len(list((tmp_path / "cache").glob("*.block"))) <= 2
    reader, cache, _ = opened(folder=tmp_path / "none", budget=100)
    assert read(reader, cache=cache) == expected
    assert cache.counts["blocks in memory"] == 6
    assert not list((tmp_path / "none").glob("*.block"))


def test_few_open_files_are_enough(opened, expected, monkeypatch):
    monkeypatch.setattr(block_cache, "MOST_OPEN", 1)
    reader, cache, wire = opened()
    assert read(reader, cache=cache) == expected
    assert len(wire.lengths) == 17


def test_a_store_that_comes_back_is_waited_for(opened, expected, caplog):
    def spoil(request: int, content: bytes) -> bytes:
        if request < 20:
            raise ConnectionResetError(104, "Connection reset by peer")
        return content

    reader, cache, _ = opened(spoil=spoil)
    assert read(reader, cache=cache) == expected
    assert "Connection reset by peer; waiting up to 30 s" in caplog.text


def test_a_store_that_stays_away_is_an_outage(opened):
    def spoil(request: int, content: bytes) -> bytes:
        raise ConnectionResetError(104, "Connection reset by peer")

    reader, cache, _ = opened(spoil=spoil, seconds=0.3)
    with pytest.raises(Outage, match="cannot be read for 0 s"):
        read(reader, cache=cache)


def test_who_waits_is_let_go_when_the_reader_closes(opened):
    began, go_on = threading.Event(), threading.Event()

    def spoil(request: int, content: bytes) -> bytes:
        began.set()
        go_on.wait(10)
        raise ConnectionResetError(104, "Connection reset by peer")

    reader, _, _ = opened(spoil=spoil)
    reading = reader.start(np.arange(200))
    assert began.wait(10)
    closing = threading.Thread(target=reader.close)
    closing.start()
    go_on.set()
    closing.join(10)
    assert not closing.is_alive()
    with pytest.raises(BaseException):  # noqa: B017 - whichever of them was let go first
        reading.result()


def test_samples_of_no_block_are_asked_for_alone(digit_shards, expected):
    """Of chosen ones some are read that are not among them: to be pictured, say."""
    shards = ShardFolder(digit_shards)
    wire = shards.store = Wire(shards.store)
    chosen = np.random.default_rng(2).permutation(COUNT)[:500]
    cache = BlockCache(shards, BlockLayout(shards.index, [COUNT], chosen, COUNT), patience=Patience(1.0))
    reader = Reader(shards, substitute=False, source=cache)
    assert read(reader, cache=cache) == expected
    others = sorted(set(range(COUNT)) - set(chosen.tolist()))
    for size in shards.index["size"][others].tolist():
        wire.lengths.remove(size)
    assert 2 <= len(wire.lengths) <= 30
    assert all(itertools.accumulate(wire.lengths))
    reader.close()
