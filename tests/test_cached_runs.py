"""Whole runs on an object store through a node's cache: samples and losses are those of the disk, whatever happens."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.thorough, pytest.mark.slow, pytest.mark.ranks]

EYESPOT = str(Path(sys.executable).parent / "eyespot")
BATCH, STEPS, SAVE = 48, 40, 5
"""An epoch of the 1,438 digits and a third of the next; they are six blocks, each its own shuffle window."""
RANKS = [1, 2, 4]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Digits in 12 tars."""
    from eyespot.data_pipeline.shards.pack import pack

    folder = tmp_path_factory.mktemp("shards") / "digits"
    pack("digits", folder, max_samples=120, workers=1)
    return folder


@pytest.fixture(scope="module")
def address(store_server, shards) -> str:
    return store_server.put_folder(shards, "cached-runs")


def start(place: str | Path, run_dir: Path, ranks: int, *more: str) -> subprocess.Popen:
    """``eyespot pretrain`` on so many ranks, in a session of its own."""
    words = ["pretrain", "mae_tiny", "--data.shards", str(place), "--run-dir", str(run_dir), "--device", "cpu"]
    words += ["--data.batch-size", str(BATCH), "--steps", str(STEPS), "--save-every", str(SAVE), "--log-every", "1"]
    words += ["--data.shuffle-window", "256", "--data.accumulate", str(4 // ranks), "--data.num-threads", "1"]
    words += ["--optim.warmup-steps", "2", "--picture-every", "0", "--monitor-every", "0", "--no-track", *more]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.Popen(
        [*launcher, "--no-python", EYESPOT, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen, code: int = 0) -> str:
    """What it said, in one line, once it has ended so."""
    try:
        said, _ = process.communicate(timeout=240)
    finally:
        kill(process)
    assert process.returncode == code, said[-4000:]
    return " ".join(said.split())


def kill(process: subprocess.Popen) -> None:
    """With all that it started, launcher first, so that nobody cleans up."""
    for group in {process.pid, *children(process.pid)}:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    process.wait()


def children(parent: int) -> list[int]:
    """Ranks lead sessions of their own."""
    found = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def learned(run_dir: Path) -> list[tuple[str, float]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(line["sample_digest"], line["loss"]) for line in lines]


@pytest.fixture(scope="module")
def from_disk(shards, tmp_path_factory) -> dict[int, list[tuple[str, float]]]:
    """By the number of ranks."""
    folder = tmp_path_factory.mktemp("from-disk")
    for ranks in RANKS:
        ended(start(shards, folder / str(ranks), ranks))
    found = {ranks: learned(folder / str(ranks)) for ranks in RANKS}
    assert all(len(lines) == STEPS for lines in found.values())
    assert len({tuple(digest for digest, _ in lines) for lines in found.values()}) == 1
    return found


def in_cache(folder: Path) -> set[str]:
    return {name for name in os.listdir(folder) if name != "blocks.lock"} if folder.exists() else set()  # noqa: PTH208


@pytest.mark.parametrize("ranks", RANKS)
def test_cold_warm_and_without_a_disk(address, faults, from_disk, tmp_path, ranks):
    cache = "--data.cache-dir", str(tmp_path / "cache")
    faults.clear()
    ended(start(address, tmp_path / "cold", ranks, *cache))
    assert learned(tmp_path / "cold") == from_disk[ranks]
    blocks, fetched = in_cache(tmp_path / "cache"), faults.counts["bytes"]
    assert len(blocks) == 6 and all(name.endswith(".block") for name in blocks)
    faults.clear()
    ended(start(address, tmp_path / "warm", ranks, *cache))
    assert learned(tmp_path / "warm") == from_disk[ranks]
    assert in_cache(tmp_path / "cache") == blocks and faults.counts["bytes"] < fetched / 4, "manifest and index alone"
    ended(start(address, tmp_path / "memory", ranks))
    assert learned(tmp_path / "memory") == from_disk[ranks]


@pytest.mark.parametrize("ranks", [1, 4])
def test_killed_while_a_block_is_half_written(address, faults, from_disk, tmp_path, ranks):
    cache = "--data.cache-dir", str(tmp_path / "cache")
    faults.stall_seconds = 300.0
    faults.inject("stall", keys=".tar", times=1, after=9)
    run = start(address, tmp_path / "run", ranks, *cache)
    until = time.monotonic() + 120
    try:
        while not (
            faults.counts["stall"]
            and any(name.endswith(".tmp") for name in in_cache(tmp_path / "cache"))
            and (tmp_path / "run" / "metrics.jsonl").exists()
            and len(learned(tmp_path / "run")) > SAVE
        ):
            assert run.poll() is None and time.monotonic() < until
            time.sleep(0.02)
    finally:
        kill(run)
    assert SAVE < len(learned(tmp_path / "run")) < STEPS, "in the middle"
    assert [name for name in in_cache(tmp_path / "cache") if name.endswith(".tmp")]
    faults.clear()
    ended(start(address, tmp_path / "run", ranks, *cache, "--resume", "auto"))
    digests, losses = zip(*learned(tmp_path / "run"), strict=True)
    of_disk, expected = zip(*from_disk[ranks], strict=True)
    assert digests == of_disk
    # Four ranks that go on round some sums otherwise than four that were never stopped; from a disk too, and alike.
    assert losses == (expected if ranks == 1 else pytest.approx(expected, rel=1e-6))
    assert len(in_cache(tmp_path / "cache")) == 6 and all(
        name.endswith(".block") for name in in_cache(tmp_path / "cache")
    )


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_full_cache_disk(address, faults, from_disk, tmp_path, ranks):
    (disk := tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small disk can be made: this needs root and mount")
    try:
        said = ended(start(address, tmp_path / "run", ranks, "--data.cache-dir", str(disk)))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert learned(tmp_path / "run") == from_disk[ranks]
    assert "No space left on device; each process keeps in memory what does not fit" in said


def test_a_server_that_goes_and_comes_back_in_the_middle(address, store_server, faults, from_disk, tmp_path):
    faults.inject("internal", keys=".tar", after=9)
    run = start(address, tmp_path / "run", 1, "--data.cache-dir", str(tmp_path / "cache"))
    until = time.monotonic() + 120
    try:
        while not faults.counts["internal"]:
            assert run.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        store_server.stop()
        faults.clear()  # now nothing answers: connections break
        time.sleep(5)
        assert run.poll() is None
        store_server.start()
    except BaseException:
        kill(run)
        raise
    said = ended(run)
    assert learned(tmp_path / "run") == from_disk[1]
    assert "waiting up to 300 s for the store" in said and "can be read again, after" in said


def test_a_server_that_stays_away_is_an_outage(address, faults, tmp_path):
    faults.inject("internal", keys=".tar", after=9)
    said = ended(start(address, tmp_path / "run", 1, "--data.read-patience-seconds", "2"), code=1)
    assert "cannot be read for 2 s (the store has an error (500 InternalError))" in said
