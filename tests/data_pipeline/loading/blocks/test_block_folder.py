"""Blocks in a folder that several processes share: who dies, what is cut, a disk that is full."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eyespot.data_pipeline.errors import Outage
from eyespot.data_pipeline.loading.blocks import block_folder
from eyespot.data_pipeline.loading.blocks.block_bytes import BytesInFile
from eyespot.data_pipeline.loading.blocks.block_folder import BlockFolder

KEY, OTHER = "0" * 24, "f" * 24
SIZE = 100_000


def content(block: int) -> bytes:
    return np.random.default_rng(block).bytes(SIZE)


class Fetches:
    """Writes blocks, and counts."""

    def __init__(self, block: int, bad: tuple[int, ...] = ()):
        self.block, self.bad, self.count = block, bad, 0

    def __call__(self, target: BytesInFile) -> tuple[int, ...]:
        self.count += 1
        target.write(0, content(self.block))
        return self.bad


def folder_of(path: Path, *, blocks: float = 100, key: str = KEY, seconds: float = 30.0) -> BlockFolder:
    return BlockFolder(path, key, int(blocks * (SIZE + 8)), seconds)


def get(folder: BlockFolder, block: int) -> int:
    """How often it had to be fetched; what came is right."""
    fetches = Fetches(block)
    found = folder.open_or_fetch(block, SIZE, fetches)
    assert found is not None and found.read(0, SIZE) == content(block)
    return fetches.count


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir() if each.name != "blocks.lock")


def name(block: int, key: str = KEY) -> str:
    return f"{key}-{block:09d}.block"


def test_a_block_is_fetched_once(tmp_path):
    assert [get(folder_of(tmp_path / "a" / "b"), 5) for _ in range(2)] == [1, 0]
    assert names(tmp_path / "a" / "b") == [name(5)]


def test_what_is_damaged_in_the_store_stays_known(tmp_path):
    folder = folder_of(tmp_path)
    first = folder.open_or_fetch(1, SIZE, Fetches(1, (7, 3, 2**40)))
    again = folder_of(tmp_path).open(1, SIZE)
    assert first is not None and again is not None
    assert first.bad == again.bad == {3, 7, 2**40}


def test_data_sets_do_not_mix(tmp_path):
    assert get(folder_of(tmp_path), 1) == 1
    assert get(folder_of(tmp_path, key=OTHER), 1) == 1


@pytest.mark.parametrize("length", [0, 1, SIZE, SIZE + 7, SIZE + 16])
def test_a_file_of_another_length_is_fetched_anew(tmp_path, length):
    folder = folder_of(tmp_path)
    get(folder, 1)
    os.truncate(tmp_path / name(1), length)
    assert [get(folder, 1), get(folder, 1)] == [1, 0]


def test_the_budget_is_kept_and_what_was_not_asked_for_the_longest_goes_first(tmp_path):
    folder = folder_of(tmp_path, blocks=3)
    for block in range(3):
        get(folder, block)
        os.utime(tmp_path / name(block), ns=(block + 1, block + 1))
    assert get(folder, 0) == 0  # is now the newest
    get(folder, 3)
    assert names(tmp_path) == [name(0), name(2), name(3)]
    other = folder_of(tmp_path, blocks=2, key=OTHER)
    get(other, 9)
    assert len(names(tmp_path)) == 2 and name(9, OTHER) in names(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * (SIZE + 8)


def test_an_evicted_block_can_still_be_read_by_who_has_it_open(tmp_path):
    folder = folder_of(tmp_path, blocks=1)
    first = folder.open_or_fetch(0, SIZE, Fetches(0))
    get(folder, 1)
    assert names(tmp_path) == [name(1)]
    assert first is not None and first.read(0, SIZE) == content(0)


def test_a_block_larger_than_the_budget_removes_nothing_and_is_said_once(tmp_path, caplog):
    folder = folder_of(tmp_path, blocks=1)
    get(folder, 0)
    for block in (1, 2):
        assert folder.open_or_fetch(block, 2 * SIZE, Fetches(block)) is None
    assert names(tmp_path) == [name(0)]
    assert len(caplog.messages) == 1 and "are too few" in caplog.text


def test_other_files_are_never_removed(tmp_path):
    kept = ["photo.jpg", "a.block", f"{KEY}-000000001.block.bak", "model.tmp", f"{KEY[1:]}-000000001.block.tmp"]
    for each in kept:
        (tmp_path / each).write_bytes(bytes(10 * SIZE))
    (tmp_path / name(50)).symlink_to(tmp_path / "photo.jpg")
    folder = folder_of(tmp_path, blocks=1)
    for block in range(3):
        get(folder, block)
    assert names(tmp_path) == sorted([*kept, name(2), name(50)])


def test_many_threads_fetch_a_block_once(tmp_path):
    folders, counts, barrier = [folder_of(tmp_path) for _ in range(8)], [], threading.Barrier(8)

    def ask(folder: BlockFolder) -> None:
        barrier.wait()
        counts.append([get(folder, block) for block in range(20)])

    threads = [threading.Thread(target=ask, args=(folder,)) for folder in folders]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert np.sum(counts, axis=0).tolist() == [1] * 20


def test_an_error_of_the_store_leaves_nothing_and_reaches_the_caller(tmp_path):
    def fails(target: BytesInFile) -> tuple[int, ...]:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    with pytest.raises(ConnectionResetError):
        folder_of(tmp_path).open_or_fetch(1, SIZE, fails)
    assert names(tmp_path) == []


HALF = """
import sys, time
from pathlib import Path
from eyespot.data_pipeline.loading.blocks.block_folder import BlockFolder

def half(target):
    target.write(0, b"half")
    print("half", flush=True)
    time.sleep(60)

BlockFolder(Path(sys.argv[1]), "0" * 24, 10**9, 30.0).open_or_fetch(1, int(sys.argv[2]), half)
"""


@pytest.fixture
def half_done(tmp_path) -> Iterator[subprocess.Popen]:
    """A process in the middle of writing block 1."""
    with subprocess.Popen([sys.executable, "-c", HALF, str(tmp_path), str(SIZE)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"half\n"
        assert names(tmp_path) == [f"{name(1)}.tmp"]
        yield process
        process.kill()


def test_who_is_killed_in_the_middle_leaves_nothing_wrong(tmp_path, half_done):
    """The next who wants the block takes its place, whether it was waiting or comes later."""
    found: list[int] = []
    waits = threading.Thread(target=lambda: found.append(get(folder_of(tmp_path), 1)))
    waits.start()
    time.sleep(0.2)
    assert not found and names(tmp_path) == [f"{name(1)}.tmp"]  # it lives, and its file is left alone
    half_done.send_signal(signal.SIGKILL)
    half_done.wait()
    waits.join()
    assert found == [1]
    assert names(tmp_path) == [name(1)]


def test_what_the_dead_left_is_swept_by_the_next_start(tmp_path, half_done):
    folder_of(tmp_path, key=OTHER)
    assert names(tmp_path) == [f"{name(1)}.tmp"]
    half_done.kill()
    half_done.wait()
    folder_of(tmp_path, key=OTHER)
    assert names(tmp_path) == []


def test_who_writes_for_too_long_is_not_waited_for(tmp_path, half_done):
    assert folder_of(tmp_path, seconds=0.1).open_or_fetch(1, SIZE, Fetches(1)) is None


def test_who_waits_is_let_go_when_the_folder_closes(tmp_path, half_done):
    folder = folder_of(tmp_path)
    threading.Timer(0.2, folder.close).start()
    with pytest.raises(Outage, match="no longer wanted"):
        folder.open_or_fetch(1, SIZE, Fetches(1))


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS])
def test_without_locks_each_writes_a_file_of_its_own(tmp_path, monkeypatch, error):
    def flock(file: int, operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(block_folder.fcntl, "flock", flock)
    one, two = folder_of(tmp_path), folder_of(tmp_path)
    seen: list[list[str]] = []

    def meets_another(target: BytesInFile) -> tuple[int, ...]:
        if not seen:
            seen.append(names(tmp_path))
            get(two, 1)
        seen.append(names(tmp_path))
        target.write(0, content(1))
        return ()

    assert one.open_or_fetch(1, SIZE, meets_another) is not None
    assert len(seen[0]) == 1 and len(seen[1]) == 2  # that of one, and what two has finished
    assert names(tmp_path) == [name(1)]
    assert get(folder_of(tmp_path), 1) == 0


def test_without_locks_only_old_leftovers_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(block_folder, "lock", lambda file, wait=False: "unknown")
    for each in ("new", "old"):
        (tmp_path / f"{name(1)}.{each}.tmp").write_bytes(b"half")
    os.utime(tmp_path / f"{name(1)}.old.tmp", (0, 0))
    folder_of(tmp_path)
    assert names(tmp_path) == [f"{name(1)}.new.tmp"]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """Of 5 blocks and a bit."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={5 * SIZE // 4096 * 4096 + 40_960}", "tmpfs", str(disk)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small disk can be made: this needs root and mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_on_a_full_disk_old_blocks_make_room(small_disk):
    folder = folder_of(small_disk)
    assert [get(folder, block) for block in range(12)] == [1] * 12
    assert 3 <= len(names(small_disk)) <= 5
    assert name(11) in names(small_disk)


def test_on_a_disk_filled_by_others_nothing_is_kept_or_lost(small_disk, caplog):
    folder = folder_of(small_disk)
    get(folder, 0)
    free = os.statvfs(small_disk)
    (small_disk / "of others").write_bytes(bytes(free.f_bavail * free.f_frsize))
    held = folder.open(0, SIZE)  # whose removal makes no room
    assert [folder.open_or_fetch(block, 2 * SIZE, Fetches(block)) for block in (1, 2)] == [None, None]
    assert names(small_disk) == [name(0), "of others"]
    assert held is not None
    assert len(caplog.messages) == 1 and "No space left on device" in caplog.text


def test_a_folder_that_cannot_be_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        folder_of(tmp_path / "file" / "cache")
