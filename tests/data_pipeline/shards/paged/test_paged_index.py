"""An index in pieces gives the rows of any ids, reads no more than their pages, and believes none that it reads."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from in_pieces import SMALL, in_pieces
from streams import global_stream

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader, make_pass, make_selection
from eyespot.data_pipeline.shards.manifest import INDEX_DTYPE
from eyespot.data_pipeline.shards.paged import paged_index
from eyespot.data_pipeline.shards.paged.file_sizes import MissingShards
from eyespot.data_pipeline.shards.paged.paged_index import PAGES, PagedIndex
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

COUNT = 1438


@pytest.fixture(scope="module")
def made(digit_shards, tmp_path_factory) -> Path:
    return in_pieces(digit_shards, tmp_path_factory.mktemp("pieces") / "shards")


@pytest.fixture
def shards(made, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "shards"))


def one_line(caught: pytest.ExceptionInfo, *words: str) -> None:
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_it_gives_the_rows_of_any_ids(made, digit_shards):
    index, found = ShardFolder(digit_shards).index, ShardFolder(made)
    draw = np.random.default_rng(0)
    for ids in (
        np.arange(COUNT),
        np.arange(COUNT)[::-1],
        draw.integers(0, COUNT, 300),
        np.array([0, 63, 64, 499, 500, 999, 1000, COUNT - 1]),
        np.empty(0, np.int64),
        draw.integers(0, COUNT, (4, 5)),
        np.arange(7, dtype=np.uint32),
    ):
        rows = found.rows(ids)
        assert np.array_equal(rows, index[ids]) and rows.dtype == INDEX_DTYPE and rows.shape == ids.shape
    assert all(found.table[number] == index[number] for number in (0, 499, np.int64(500), COUNT - 1))
    assert found.table[5].item() == index[5].item() and len(found.table) == COUNT
    assert np.array_equal(found.index, index) and not found.index.flags.writeable
    assert np.array_equal(np.concatenate(list(found.row_parts())), index)
    assert np.array_equal(np.concatenate(list(ShardFolder(digit_shards).row_parts())), index)


@pytest.mark.parametrize("ids", [[-1], [COUNT], [0, 2**40]])
def test_ids_that_are_not_there_are_refused(ids, made):
    with pytest.raises(IndexError, match=f"of {COUNT}"):
        ShardFolder(made).rows(np.array(ids))


def read_bytes(found: ShardFolder, monkeypatch) -> list[tuple[str, int]]:
    """What is read from pieces, from now on."""
    parts, read = [], found._files.part
    monkeypatch.setattr(
        found._files, "part", lambda *asked: (parts.append((asked[0], asked[2] - asked[1])), read(*asked))[1]
    )
    return parts


def test_it_reads_the_pages_that_are_asked_for_once(made, monkeypatch):
    found = ShardFolder(made)
    parts = read_bytes(found, monkeypatch)
    found.check()
    assert not parts
    for _ in range(3):
        found.rows(np.array([3, 70, 5, 600]))
    size = SMALL.page_rows * INDEX_DTYPE.itemsize
    assert sorted(name for name, count in parts if count == size) == ["index/000000.npy"] * 2 + ["index/000001.npy"]
    assert sum(count for _, count in parts if count != size) < 1000  # the headers, once


def test_of_pages_no_more_are_kept_than_fit(made, monkeypatch):
    monkeypatch.setattr(paged_index, "KEPT_MB", 1)
    found = ShardFolder(made)
    page_mb = SMALL.page_rows * INDEX_DTYPE.itemsize / 1e6
    table = found.table
    assert isinstance(table, PagedIndex)
    parts = read_bytes(found, monkeypatch)
    small = PagedIndex(
        made, found.manifest.pieces, table._digests, found._files.part, found._checks.page, 2.5 * page_mb
    )
    for _ in range(2):  # three pages do not fit
        for first in (0, 64, 128):
            small[np.array([first])]
    assert sum(count > 1000 for _, count in parts) == 6
    parts.clear()
    for _ in range(3):
        small[np.array([64, 128])]
    assert sum(count > 1000 for _, count in parts) == 0


def test_threads_may_share_it(made, digit_shards):
    index, table, wrong = ShardFolder(digit_shards).index, ShardFolder(made).table, []

    def read(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(50):
            ids = draw.integers(0, COUNT, 40)
            if not np.array_equal(table[ids], index[ids]):
                wrong.append(ids)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def test_more_pages_than_are_held_at_once_come_in_order(made, digit_shards, monkeypatch):
    monkeypatch.setattr(paged_index, "AT_ONCE", 2)
    monkeypatch.setattr(paged_index, "HELD", 5)
    ids = np.random.default_rng(1).permutation(COUNT)
    assert np.array_equal(ShardFolder(made).rows(ids), ShardFolder(digit_shards).index[ids])


def test_it_goes_to_other_processes(made):
    found = ShardFolder(made)
    found.rows(np.array([3, 700]))
    other = pickle.loads(pickle.dumps(found))
    assert np.array_equal(other.rows(np.arange(COUNT)), found.rows(np.arange(COUNT)))


def test_an_index_larger_than_the_memory_is_one_line(made, monkeypatch):
    monkeypatch.setattr(paged_index, "free_memory", lambda: 50_000)
    with pytest.raises(UserError, match="asks for the index of all 1,438 samples at once, which takes") as caught:
        _ = ShardFolder(made).index
    one_line(caught, str(made))
    assert len(ShardFolder(made).rows(np.arange(9))) == 9


def test_free_memory_is_that_of_the_machine():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 10**7 < paged_index.free_memory() <= total


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def piece(number: int, do: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: do(folder / "index" / f"{number:06d}.npy")


def swap(folder: Path) -> None:
    one, other = (folder / "index" / f"{number:06d}.npy" for number in (0, 1))
    one.rename(folder / "x")
    other.rename(one)
    (folder / "x").rename(other)


DAMAGE = {
    "a piece is missing": (piece(1, lambda path: path.unlink()), "000001.npy: is missing"),
    "a piece is a folder": (piece(1, lambda path: (path.unlink(), path.mkdir())), "000001.npy: "),
    "a pipe": (piece(1, lambda path: (path.unlink(), os.mkfifo(path))), "000001.npy: is missing"),
    "a piece is cut": (piece(1, lambda path: os.truncate(path, 9000)), "000001.npy: has 9000 bytes where"),
    "a piece is empty": (piece(1, lambda path: os.truncate(path, 0)), "000001.npy: has 0 bytes where"),
    "a piece is far too long": (piece(1, lambda path: os.truncate(path, 10**6)), "000001.npy: has 1000000 bytes"),
    "the last row is cut": (
        piece(1, lambda path: os.truncate(path, path.stat().st_size - 1)),
        "000001.npy: unreadable .ends after",
    ),
    "pieces are swapped": (swap, "000000.npy: changed since it was written"),
    "fewer rows": (
        piece(1, lambda path: (np.save(path, np.load(path)[:-1]), os.truncate(path, 14200))),
        "000001.npy: .499,. rows of .* where the manifest says 500 samples",
    ),
    "more rows": (
        piece(1, lambda path: np.save(path, np.concatenate([np.load(path)] * 2))),
        "000001.npy: .1000,. rows of .* where the manifest says 500 samples",
    ),
    "other columns": (
        piece(1, lambda path: np.save(path, np.zeros(500, "V28"))),
        "000001.npy: .500,. rows of .V28 where the manifest",
    ),
    "pickled": (piece(1, lambda path: np.save(path, np.array([{}] * 9000))), "000001.npy: .* rows of object where"),
    "no array": (piece(1, lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 14500)), "000001.npy: unreadable"),
    "a header that is none": (
        piece(1, lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x00\x20" + b"(" * 2**13 + b" " * 14000)),
        "000001.npy: unreadable",
    ),
    "a header without end": (
        piece(1, lambda path: path.write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 15000)),
        "000001.npy: unreadable .a header of 4294967307 bytes",
    ),
    "a flipped bit": (piece(2, lambda path: flipped(path, -5)), "000002.npy: changed since it was written"),
    "digests are missing": (lambda folder: (folder / PAGES).unlink(), "pages.npy: unreadable"),
    "digests are cut": (lambda folder: os.truncate(folder / PAGES, 300), "pages.npy: unreadable"),
    "other digests": (lambda folder: flipped(folder / PAGES, -5), "pages.npy: changed since it was written"),
    "fewer digests": (
        lambda folder: np.save(folder / PAGES, np.load(folder / PAGES)[:-1]),
        "pages.npy: .22, 32. rows of uint8 where the manifest says 23 pages",
    ),
    "tars are missing": (lambda folder: (folder / "shards.npy").unlink(), "shards.npy: unreadable"),
    "other tars": (lambda folder: flipped(folder / "shards.npy", -5), "shards.npy: changed since it was written"),
    "fewer tars": (
        lambda folder: np.save(folder / "shards.npy", np.load(folder / "shards.npy")[:-1]),
        "shards.npy: .11,. rows of .* where the manifest says 12 shards",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_line(kind, shards):
    do, reason = DAMAGE[kind]
    do(shards)
    with pytest.raises(UserError, match=reason) as caught:
        ShardFolder(shards).rows(np.arange(COUNT))
    one_line(caught, str(shards), "eyespot shards index")


def make_digests_anew(folder: Path) -> None:
    """As whoever made the folder can: what is damaged then agrees with its sha256."""
    rows = [np.load(piece) for piece in sorted((folder / "index").glob("0*.npy"))]
    step = SMALL.page_rows
    pages = [piece[begin : begin + step] for piece in rows for begin in range(0, len(piece), step)]
    digests = b"".join(hashlib.sha256(page.tobytes()).digest() for page in pages)
    np.save(folder / PAGES, np.frombuffer(digests, np.uint8).reshape(-1, 32))
    fields = json.loads((folder / "manifest.json").read_bytes())
    fields["index_sha256"] = hashlib.sha256((folder / PAGES).read_bytes()).hexdigest()
    fields["pieces"]["shards_sha256"] = hashlib.sha256((folder / "shards.npy").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(1, 10))])
def test_flipped_bits_are_one_line_or_harmless(seed, shards):
    """In any table, the manifest, or what was cut off of them; with the digests of then and with new ones."""
    draw = np.random.default_rng(seed)
    names = [*shards.glob("index/*"), shards / "shards.npy", shards / "manifest.json"]
    files = {file: file.read_bytes() for file in names}
    refused = 0
    for _ in range(40):
        file = list(files)[draw.integers(len(files))]
        content = bytearray(files[file])
        for place in draw.integers(0, len(content), draw.integers(1, 6)):
            content[place] ^= 1 << draw.integers(8)
        file.write_bytes(content[: draw.integers(len(content))] if draw.random() < 0.2 else content)
        if draw.random() < 0.5:
            with suppress(Exception):  # of NumPy, which reads them here
                make_digests_anew(shards)
        try:
            found = ShardFolder(shards)
            found.check()
            assert sum(map(len, found.row_parts())) == len(found.rows(np.arange(found.manifest.num_samples)))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 2000
        for path, before in files.items():
            path.write_bytes(before)
    assert 15 < refused < 40


@pytest.mark.parametrize("hashes", [True, False])
def test_every_process_finds_a_page_that_changed(hashes, shards):
    flipped(shards / "index" / "000001.npy", -5)
    found = ShardFolder(shards, hashes=hashes)
    found.check()
    assert len(found.rows(np.arange(500))) == 500  # its neighbours are well
    with pytest.raises(UserError, match=r"000001\.npy: changed since it was written"):
        found.rows(np.array([999]))


def changed(shards: Path, do: Callable[[np.ndarray], object]) -> None:
    """Other rows of the second piece, and digests that agree: whoever made the folder made both."""
    path = shards / "index" / "000001.npy"
    rows, digests = np.load(path), np.load(shards / PAGES)
    do(rows)
    np.save(path, rows)
    for page in range(8):
        begin = page * SMALL.page_rows
        digest = hashlib.sha256(rows[begin : begin + SMALL.page_rows].tobytes()).digest()
        digests[8 + page] = np.frombuffer(digest, np.uint8)
    np.save(shards / PAGES, digests)
    told = json.loads((shards / "manifest.json").read_text())
    told["index_sha256"] = hashlib.sha256((shards / PAGES).read_bytes()).hexdigest()
    (shards / "manifest.json").write_text(json.dumps(told))


LIES = {
    "a tar beyond the last": (lambda rows: rows["tar"].__setitem__(5, 12), "tar 12 of sample 505: .* 12 shards"),
    "an offset of 2^63": (
        lambda rows: rows["offset"].__setitem__(70, 2**63),
        "offset 9223372036854775808 of sample 570",
    ),
    "bytes beyond the end": (lambda rows: rows["size"].__setitem__(9, 2**31), "of sample 509: .*beyond the end"),
    "no bytes": (lambda rows: rows["size"].__setitem__(3, 0), "size 0 of sample 503: no image is so small"),
    "no rows of pixels": (lambda rows: rows["height"].__setitem__(3, 0), "height 0 of sample 503: "),
    "a class too many": (lambda rows: rows["label"].__setitem__(2, 10), "label 10 of sample 502: .* lists 10 classes"),
    "a label less": (lambda rows: rows["label"].__setitem__(2, -1), "label -1 of sample 502: .* all have one"),
}


@pytest.mark.parametrize("lie", LIES)
def test_pages_that_say_what_cannot_be_are_one_line(lie, shards):
    do, reason = LIES[lie]
    changed(shards, do)
    with pytest.raises(UserError, match=reason) as caught:
        ShardFolder(shards, hashes=False).rows(np.arange(COUNT))
    one_line(caught, "000001.npy: ", "make it anew: eyespot shards index")


def test_tars_are_listed_once_and_not_looked_at(shards):
    (shards / "shard-000003.tar").unlink()
    (shards / "shard-000005.tar").unlink()
    with pytest.raises(MissingShards, match=r"shard-000003\.tar: is missing, and 1 more tars; copy it again") as caught:
        ShardFolder(shards).check()
    one_line(caught)
    ShardFolder(shards, hashes=False).check()  # the first process of the node has


def away(monkeypatch, name: str, number: int, times: int) -> None:
    """Opening files of that name fails so many times."""
    left, real_open = [times], os.open

    def fail(path: object, *rest, **named) -> int:
        if str(path).endswith(name) and left[0] > 0:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return real_open(path, *rest, **named)

    monkeypatch.setattr(os, "open", fail)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOENT])
def test_a_piece_that_is_away_for_a_moment_is_waited_for(number, made, monkeypatch):
    """Also one that is not there: it was when the run began."""
    found = ShardFolder(made, patience_seconds=20.0)
    found.check()
    away(monkeypatch, "000001.npy", number, 2)
    assert len(found.rows(np.array([700]))) == 1


def test_a_piece_that_stays_away_is_nobodys_wrong_input(made, monkeypatch):
    found = ShardFolder(made, patience_seconds=0.2)
    found.check()
    away(monkeypatch, "000001.npy", errno.ENOENT, 10**9)
    with pytest.raises(Outage, match=r"000001\.npy: cannot be read for 0 s"):
        found.rows(np.array([700]))


def digits_spec(shards: Path, /, **changes) -> LoaderSpec:
    views = ViewSpec(views=(RandomView(size=16),))
    return LoaderSpec(**{**dict(shards=ShardFolder(shards), views=views, batch_size=48, num_threads=2), **changes})


def test_an_index_in_pieces_gives_the_same_batches(digit_shards, tmp_path):
    """To the bit, on any number of ranks, in passes and selections too; what names the stream is the index alone."""
    whole = digits_spec(digit_shards, batch_size=32, seed=3)
    parts = replace(whole, shards=ShardFolder(in_pieces(digit_shards, tmp_path / "shards")))
    for changes in ({}, {"ids": np.arange(900, 100, -2)}, {"labeled_ids": np.arange(0, 1438, 3)}):
        one, other = replace(whole, **changes), replace(parts, **changes)
        assert global_stream(other, 2, 3) == global_stream(one, 1, 3)
    ids = np.array([1400, 3, 700])
    for make in (make_pass, lambda spec: make_selection(spec, ids)):
        ours, theirs = ([(batch.ids.tolist(), batch.labels.tolist()) for batch in make(s)] for s in (parts, whole))
        assert ours == theirs and ours
    states = [make_loader(spec).state_dict() for spec in (whole, parts)]
    assert {name for name in states[0] if states[0][name] != states[1][name]} == {"shards"}


def test_a_tar_of_another_size_in_an_index_in_pieces_is_damage(digit_shards, tmp_path, caplog):
    """It is found when it is first opened: of many tars nobody looks at all before a run begins."""
    folder = in_pieces(digit_shards, tmp_path / "shards")
    with (folder / "shard-000003.tar").open("ab") as file:
        file.write(b"x" * 512)
    shards = ShardFolder(folder)
    shards.check()
    loader = make_loader(digits_spec(folder, batch_size=719, max_bad_fraction=1.0))
    batches = [next(loader) for _ in range(2)]
    loader.close()
    bad = shards.index["tar"] == 3
    assert not bad[np.concatenate([batch.ids for batch in batches])].any() and loader.bad_samples == bad.sum()
    assert "shard-000003.tar, offset " in caplog.text and "bytes where the manifest says" in caplog.text
