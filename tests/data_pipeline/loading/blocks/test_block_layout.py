"""Which bytes a block takes: against a slow search of every byte that is wanted."""

import itertools

import numpy as np
import pytest

from eyespot.data_pipeline.loading.blocks import block_layout
from eyespot.data_pipeline.loading.blocks.block_layout import (
    BLOCK,
    PART_BYTES,
    REQUEST_BYTES,
    BlockLayout,
    Span,
    parts,
    spans,
)
from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE


def rows_of(places: list[tuple[int, int, int]]) -> np.ndarray:
    rows = np.zeros(len(places), INDEX_DTYPE)
    for column, values in zip(("tar", "offset", "size"), zip(*places, strict=True), strict=True):
        rows[column] = values
    return rows


def random_rows(rng: np.random.Generator, count: int, gap: int, num_tars: int = 3) -> np.ndarray:
    """Files behind each other in some tars, with gaps up to that, in any order; one in ten is not there."""
    places = []
    for tar in range(num_tars):
        end = 0
        for _ in range(count // num_tars):
            begin, size = end + int(rng.integers(0, gap)), int(rng.integers(1, 50)) * int(rng.random() > 0.1)
            places.append((tar, begin, size))
            end = begin + size
    return rows_of([places[number] for number in rng.permutation(len(places))])


def slow_spans(rows: np.ndarray, gap: int) -> list[Span]:
    """Byte by byte: a range ends where no file begins within the next ``gap`` bytes."""
    found: list[Span] = []
    for tar in sorted({int(row["tar"]) for row in rows if row["size"]}):
        own = [(int(row["offset"]), int(row["size"])) for row in rows if row["tar"] == tar and row["size"]]
        wanted = sorted({byte for offset, size in own for byte in range(offset, offset + size)})
        begin = wanted[0]
        for byte, following in zip(wanted, [*wanted[1:], None], strict=True):
            if following is None or following - byte - 1 > gap:
                found.append(Span(tar, begin, byte + 1))
                begin = following
    return found


@pytest.mark.parametrize("gap", [0, 5, 40])
def test_ranges_take_every_file_and_leave_out_only_long_gaps(monkeypatch, gap):
    monkeypatch.setattr(block_layout, "REQUEST_BYTES", gap)
    rows = random_rows(np.random.default_rng(gap), 60, 60)
    found, places = spans(rows)
    assert found == slow_spans(rows, gap)
    assert len(found) > 3
    stored = b"".join(_bytes(span) for span in found)
    for row, place in zip(rows, places.tolist(), strict=True):
        if row["size"]:
            tar, offset, size = int(row["tar"]), int(row["offset"]), int(row["size"])
            assert stored[place * 4 : (place + size) * 4] == _bytes(Span(tar, offset, offset + size))
        else:
            assert place == -1


def _bytes(span: Span) -> bytes:
    """Four for each, that say which it is."""
    return (np.arange(span.begin, span.end, dtype="<u4") + np.uint32(span.tar << 24)).tobytes()


def test_files_that_overlap_are_in_one_range():
    found, places = spans(rows_of([(0, 10, 100), (0, 20, 5), (0, 105, 10)]))
    assert found == [Span(0, 10, 115)]
    assert places.tolist() == [0, 10, 95]


def test_no_file_is_no_range():
    found, places = spans(rows_of([(0, 10, 0)]))
    assert (found, places.tolist()) == ([], [-1])


def test_a_range_is_cut_into_equal_parts_that_are_not_too_long():
    cut = parts([Span(3, 7, 7 + 3 * PART_BYTES + 1), Span(4, 0, 10)])
    assert [part.tar for part in cut] == [3, 3, 3, 3, 4]
    assert [(a.end, b.begin) for a, b in itertools.pairwise(cut[:4])] == [(a.end, a.end) for a in cut[:3]]
    assert (cut[0].begin, cut[3].end) == (7, 7 + 3 * PART_BYTES + 1)
    assert max(part.end - part.begin for part in cut) <= PART_BYTES


def test_a_block_is_256_rows_and_the_last_one_what_is_left():
    rows = rows_of([(0, 1000 * number, 900) for number in range(600)])
    layout = BlockLayout(rows, [600])
    assert layout.num_blocks == 3
    assert [layout.block_of(number) for number in (0, 255, 256, 599)] == [0, 0, 1, 2]
    last = layout.block(2)
    assert last.numbers.tolist() == list(range(512, 600))
    assert last.spans == [Span(0, 512_000, 599_900)]
    assert last.size == 87_900
    assert layout.blocks_of(np.array([5, 300, 7, 599])) == {0: 2, 1: 1, 2: 1}


def test_a_block_over_two_tars_has_a_range_in_each():
    rows = rows_of([(number // 100, 1000 * (number % 100), 900) for number in range(200)])
    block = BlockLayout(rows, [200]).block(0)
    assert block.spans == [Span(0, 0, 99_900), Span(1, 0, 99_900)]
    assert block.place(1, 1000) == 99_900 + 1000


def test_tables_of_the_same_samples_share_blocks_and_frames_have_their_own():
    images = rows_of([(0, 2000 * number, 900) for number in range(300)])
    masks = rows_of([(0, 2000 * number + 1000, 800) for number in range(300)])
    frames = rows_of([(1, 1000 * number, 900) for number in range(1000)])
    layout = BlockLayout(np.concatenate([images, frames, masks]), [300, 1000, 300], num_samples=300)
    assert layout.num_blocks == 2 + 4
    assert layout.block_of(10) == layout.block_of(1300 + 10) == 0
    assert layout.block_of(299) == layout.block_of(1300 + 299) == 1
    assert [layout.block_of(300 + frame) for frame in (0, 255, 256, 999)] == [2, 2, 3, 5]
    first = layout.block(0)
    assert first.numbers.tolist() == [*range(256), *range(1300, 1556)]
    assert first.spans == [Span(0, 0, 2000 * 255 + 1800)]


def test_chosen_samples_make_blocks_of_their_own_without_what_lies_far_between():
    rows = rows_of([(0, REQUEST_BYTES * 2 * number, 900) for number in range(3000)])
    chosen = np.random.default_rng(0).permutation(3000)[:600]
    layout = BlockLayout(rows, [3000], chosen, 3000)
    assert layout.num_blocks == 3
    for place, sample in enumerate(chosen.tolist()):
        assert layout.block_of(sample) == place // BLOCK
    left = sorted(set(range(3000)) - set(chosen.tolist()))
    assert {layout.block_of(sample) for sample in left} == {-1}
    block = layout.block(1)
    assert sorted(block.numbers.tolist()) == sorted(chosen[256:512].tolist())
    assert block.size == 256 * 900


def test_few_files_of_a_block_are_cheaper_one_by_one():
    """An image of 100 KB of a block of 25 MB: two requests and 25 MB are worth 24 requests for 100 KB each."""
    block = BlockLayout(rows_of([(0, 100_000 * number, 99_000) for number in range(256)]), [256]).block(0)
    whole, one = 2 * REQUEST_BYTES + block.size, REQUEST_BYTES + 99_000
    assert block.enough == pytest.approx(whole / one)
    assert 20 < block.enough < 30
