"""What is asked for when a block is fetched, and what of it again."""

import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from eyespot.data_pipeline.loading.blocks import block_layout
from eyespot.data_pipeline.loading.blocks.block_bytes import BytesInMemory
from eyespot.data_pipeline.loading.blocks.block_fetch import MOST_TRIES, fetch
from eyespot.data_pipeline.loading.blocks.block_layout import BlockLayout, Span
from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE

TAR = np.random.default_rng(0).bytes(100_000)
SIZE, COUNT = 900, 100
PART = 25_000


@pytest.fixture
def block(monkeypatch) -> block_layout.Block:
    """Of 100 files, asked for in four parts."""
    monkeypatch.setattr(block_layout, "PART_BYTES", PART)
    rows = np.zeros(COUNT, INDEX_DTYPE)
    rows["offset"], rows["size"] = 1000 * np.arange(COUNT), SIZE
    rows["crc32"] = [zlib.crc32(TAR[offset : offset + SIZE]) for offset in rows["offset"].tolist()]
    return BlockLayout(rows, [COUNT]).block(0)


def fetched(block: block_layout.Block, spoilt: dict[int, set[int]]) -> tuple[list[Span], frozenset[int], bytes]:
    """Requests, rows that stay wrong, and bytes. By the place of a byte, the tries in which it is another."""
    asked, tries = list[Span](), dict.fromkeys(spoilt, 0)

    def read(span: Span) -> memoryview:
        asked.append(span)
        content = bytearray(TAR[span.begin : span.end])
        for place, when in spoilt.items():
            if span.begin <= place < span.end:
                if tries[place] in when:
                    content[place - span.begin] ^= 1
                tries[place] += 1
        return memoryview(content)

    target = BytesInMemory(block.size)
    with ThreadPoolExecutor(1) as pool:
        bad = fetch(block, target, read, pool)
    return asked, bad, bytes(target.read(0, block.size))


def test_all_parts_once_where_all_is_well(block):
    asked, bad, content = fetched(block, {})
    assert (len(asked), bad, content) == (4, frozenset(), TAR[:99_900])


def test_a_wrong_byte_brings_its_file_again_alone(block):
    asked, bad, content = fetched(block, {5_500: {0}})
    assert asked[4:] == [Span(0, 5000, 5900)]
    assert (bad, content) == (frozenset(), TAR[:99_900])


def test_a_wrong_byte_between_two_files_matters_to_nobody(block):
    assert len(fetched(block, {5_950: {0, 1, 2}})[0]) == 4


def test_wrong_files_near_each_other_come_in_one_request(block):
    asked, bad, _ = fetched(block, {5_500: {0}, 7_100: {0}})
    assert asked[4:] == [Span(0, 5000, 7900)] and not bad


def test_what_stays_wrong_is_named_after_some_tries(block):
    asked, bad, content = fetched(block, {5_500: {0, 1, 2, 3}, 80_000: {0, 1}})
    assert bad == {5}
    assert MOST_TRIES == 3 and len(asked) == 4 + 4 + 4
    assert content[80_000:80_900] == TAR[80_000:80_900]


def test_an_error_ends_it(block):
    def read(span: Span) -> memoryview:
        raise ConnectionResetError

    with ThreadPoolExecutor(2) as pool, pytest.raises(ConnectionResetError):
        fetch(block, BytesInMemory(block.size), read, pool)
