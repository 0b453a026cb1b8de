"""The stream of batches out of blocks: the same as from the disk, whatever happens to store, cache and process."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from remote_store import KEY, RENEWED, RENEWED_SECRET, SECRET
from streams import global_stream, stream, take

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.loading.blocks import open_blocks as module
from eyespot.data_pipeline.loading.blocks.open_blocks import NodeCache, open_blocks
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader, make_pass
from eyespot.data_pipeline.loading.sample_files import SampleFiles
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.stores import clients, object_store

VIEWS = ViewSpec(views=(RandomView(size=16),))
STEPS = 40
"""Of 48 samples: an epoch of the 1,438 and a third."""


def spec_of(shards: Path | str, **changes) -> LoaderSpec:
    return LoaderSpec(**{**dict(shards=ShardFolder(shards), views=VIEWS, batch_size=48, num_threads=1), **changes})


def blocks_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "blocks.lock")


@pytest.fixture(scope="module")
def on_disk(digit_shards) -> tuple:
    """What the tars in place give."""
    return global_stream(spec_of(digit_shards), 1, STEPS)


@pytest.fixture
def remote(store_server, digit_shards) -> str:
    """The shards in the object store."""
    return store_server.put_folder(digit_shards, "blocks/digits")


def test_local_shards_without_a_cache_are_read_in_place(digit_shards):
    shards = ShardFolder(digit_shards)
    assert open_blocks(shards, SampleFiles(shards, VIEWS, 0), None, None, 2048) is None


@pytest.mark.parametrize("ranks", [1, 2, pytest.param(4, marks=pytest.mark.thorough)])
def test_a_cache_of_a_slow_file_system_gives_the_same_stream(digit_shards, tmp_path, on_disk, ranks, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    spec = spec_of(digit_shards, cache=NodeCache(folder=tmp_path / "cache"))
    assert global_stream(spec, ranks, STEPS) == on_disk
    assert len(blocks_in(tmp_path / "cache")) == 6
    assert global_stream(spec, ranks, STEPS) == on_disk


def test_lanes_chosen_samples_and_a_pass_give_the_same_too(digit_shards, tmp_path):
    for number, changes in enumerate((dict(lanes=4), dict(ids=np.random.default_rng(0).permutation(1438)[:700]))):
        plain = spec_of(digit_shards, **changes)
        cached = replace(plain, cache=NodeCache(folder=tmp_path / str(number)))
        assert global_stream(cached, 2, 20) == global_stream(plain, 2, 20)
        assert stream(list(make_pass(cached))) == stream(list(make_pass(plain)))


def test_data_of_their_own_have_blocks_of_their_own(digit_shards, tmp_path):
    cache = NodeCache(folder=tmp_path)
    take(make_loader(spec_of(digit_shards, cache=cache)), 3)
    take(make_loader(spec_of(digit_shards, cache=cache, ids=np.arange(1000))), 3)
    assert len({name[:24] for name in blocks_in(tmp_path)}) == 2


def test_a_budget_below_two_windows_is_said(digit_shards, tmp_path, caplog, on_disk):
    spec = spec_of(digit_shards, cache=NodeCache(folder=tmp_path, gb=0.0017))
    assert global_stream(spec, 1, STEPS) == on_disk
    assert "data.cache_gb 0.0017: less than two shuffle windows" in caplog.text


def test_a_cache_that_cannot_be_written_is_said_and_memory_serves(digit_shards, tmp_path, caplog, on_disk):
    (tmp_path / "file").touch()
    spec = spec_of(digit_shards, cache=NodeCache(folder=tmp_path / "file" / "cache"))
    assert global_stream(spec, 1, STEPS) == on_disk
    assert "Not a directory; each process keeps its blocks in memory" in caplog.text


def test_cold_warm_in_memory_and_from_the_middle(digit_shards, remote, faults, tmp_path, on_disk):
    spec = spec_of(remote, cache=NodeCache(folder=tmp_path / "cache"))
    faults.clear()
    assert global_stream(spec, 1, STEPS) == on_disk
    assert faults.counts["GET"] <= 17 + 3  # of blocks, each over several tars of 120; manifest and index before
    assert not [path for path in blocks_in(tmp_path / "cache") if path.endswith("tmp")]
    faults.clear()
    assert global_stream(spec, 1, STEPS) == on_disk
    assert faults.counts["GET"] == 0
    assert global_stream(replace(spec, cache=None), 1, STEPS) == on_disk
    loader = make_loader(spec)
    for _ in range(7):
        next(loader)
    state = loader.state_dict()
    loader.close()
    shutil.rmtree(tmp_path / "cache")
    assert global_stream(spec, 1, 5, state) == global_stream(spec_of(digit_shards), 1, 5, state)


@pytest.mark.parametrize("kind", ["slowdown", "internal", "reset", "cut", "whole", "etag", "flip"])
def test_a_third_of_the_answers_is_spoilt(remote, faults, tmp_path, on_disk, kind, monkeypatch):
    from eyespot.data_pipeline.stores import object_store

    for pause in ("FIRST_PAUSE", "FIRST_THROTTLED"):
        monkeypatch.setattr(object_store, pause, 0.002)
    spec = spec_of(remote, cache=NodeCache(folder=tmp_path))
    _ = spec.shards.index
    spec.shards.check_tars()
    faults.inject(kind, 0.3, keys=".tar", times=6)
    assert global_stream(spec, 1, STEPS) == on_disk
    assert faults.counts[kind] > 1, "else nothing was shown"


@pytest.fixture
def impatient(faults, monkeypatch) -> None:
    """Clients that give a request up after a second or two."""
    monkeypatch.setattr(clients, "SILENT_SECONDS", 1)
    monkeypatch.setattr(clients, "WHOLE_SECONDS", 2)
    clients.forget_clients()
    faults.stall_seconds = 4.0


@pytest.mark.parametrize("kind", ["mute", "drip", pytest.param("stall", marks=pytest.mark.thorough)])
def test_answers_that_stall_are_asked_for_again(remote, faults, impatient, tmp_path, on_disk, kind):
    spec = spec_of(remote, cache=NodeCache(folder=tmp_path))
    spec.shards.check_tars()
    faults.inject(kind, 0.3, keys=".tar", times=4)
    assert global_stream(spec, 1, STEPS) == on_disk
    assert faults.counts[kind] > 1, "else nothing was shown"


@pytest.mark.parametrize("kind", ["mute", "drip"])
def test_a_store_that_stalls_for_good_is_said_and_then_one_line(remote, faults, impatient, monkeypatch, caplog, kind):
    monkeypatch.setattr(object_store, "QUICK_SECONDS", 0.5)
    spec = spec_of(remote, patience_seconds=1.0)
    spec.shards.check_tars()
    faults.inject(kind, keys=".tar")
    with pytest.raises(Outage, match=r"cannot be read for 1 s \(the store does not go on \(timeout\)\)") as caught:
        take(make_loader(spec, 0, 1), 1)
    assert "\n" not in str(caught.value) and "the store does not go on (timeout); waiting up to 1 s" in caplog.text
    assert faults.counts[kind] > 1, "it was asked again"


@pytest.fixture
def profile(faults, monkeypatch, tmp_path_factory) -> Callable[[str, str], None]:
    """Writes the credentials file, which counts in place of the environment."""
    file = tmp_path_factory.mktemp("profile") / "credentials"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    return lambda key, secret: (
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"),
        clients.forget_clients() if key == KEY else None,
    )[1]


def test_credentials_that_expire_in_the_middle_and_were_renewed(remote, faults, tmp_path, on_disk, profile):
    profile(KEY, SECRET)
    spec = spec_of(remote, cache=NodeCache(folder=tmp_path))
    spec.shards.check_tars()
    profile(RENEWED, RENEWED_SECRET)
    faults.inject("expired", keys=".tar", who=KEY, after=5)
    assert global_stream(spec, 1, STEPS) == on_disk
    assert faults.counts["expired"], "else nothing was shown"


def test_credentials_that_expire_in_the_middle_are_one_line(remote, faults, tmp_path, profile):
    profile(KEY, SECRET)
    spec = spec_of(remote, cache=NodeCache(folder=tmp_path))
    spec.shards.check_tars()
    faults.inject("expired", keys=".tar", who=KEY, after=5)
    with pytest.raises(
        UserError, match=r"the credentials of profile 'default' of ~/.aws have expired; renew"
    ) as caught:
        global_stream(spec, 1, STEPS)
    assert "\n" not in str(caught.value) and faults.counts["expired"] < 80


@pytest.mark.parametrize("cached", [True, False])
def test_four_ranks_of_a_node_read_the_store(remote, faults, tmp_path, on_disk, monkeypatch, cached):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    spec = spec_of(remote, cache=NodeCache(folder=tmp_path) if cached else None)
    faults.clear()
    assert global_stream(spec, 4, STEPS) == on_disk
    if cached:
        assert faults.counts["GET"] <= 17 + 3


RUN = """
import hashlib, sys
from pathlib import Path
from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.loading.blocks.open_blocks import NodeCache
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

spec = LoaderSpec(
    shards=ShardFolder(sys.argv[1]), views=ViewSpec(views=(RandomView(size=16),)), batch_size=48, num_threads=1,
    cache=NodeCache(folder=Path(sys.argv[2])),
)
loader = make_loader(spec, int(sys.argv[3]), int(sys.argv[4]))
for _ in range(40):
    next(loader)
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_with_a_block_half_written(remote, faults, tmp_path, on_disk, ranks, monkeypatch):
    """One answer stalls in its middle, so that its block waits half written; then all ranks are killed."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    faults.stall_seconds = 60.0
    faults.inject("stall", keys="shard-000004.tar", times=1)
    words = [sys.executable, "-c", RUN, remote, str(tmp_path)]
    started = [subprocess.Popen([*words, str(rank), str(ranks)]) for rank in range(ranks)]
    try:
        until = time.monotonic() + 60
        while not any(name.endswith(".tmp") for name in names_in(tmp_path)) or not faults.counts["stall"]:
            assert time.monotonic() < until and all(each.poll() is None for each in started)
            time.sleep(0.01)
    finally:
        for each in started:
            each.send_signal(signal.SIGKILL)
            each.wait()
    assert [name for name in blocks_in(tmp_path) if name.endswith(".tmp")]
    faults.clear()
    assert global_stream(spec_of(remote, cache=NodeCache(folder=tmp_path)), ranks, STEPS) == on_disk
    assert len(blocks_in(tmp_path)) == 6 and all(name.endswith(".block") for name in blocks_in(tmp_path))


def names_in(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.exists() else []  # noqa: PTH208


def test_a_full_cache_disk_loses_nothing(remote, faults, tmp_path, on_disk, caplog):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small disk can be made: this needs root and mount")
    try:
        assert global_stream(spec_of(remote, cache=NodeCache(folder=tmp_path)), 1, STEPS) == on_disk
        assert len(blocks_in(tmp_path)) <= 1 and not [name for name in blocks_in(tmp_path) if name.endswith(".tmp")]
        assert "No space left on device; each process keeps in memory what does not fit" in caplog.text
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_the_default_budget_is_that_of_the_setting():
    assert NodeCache(folder=Path("cache")).gb == module.CACHE_GB
