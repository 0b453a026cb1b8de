"""A run whose shards lie in an object store: same samples, order and losses as from the disk."""

import json
import shutil
from pathlib import Path

import pytest

from eyespot.cluster.cli import main
from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.stores import object_store
from eyespot.pretrain.config import Run
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.run_json import load_run
from eyespot.pretrain.trainer import fit

STEPS = 3
THE_OTHERS = ("slowdown", "internal", "cut", "whole", "etag")


@pytest.fixture(scope="module")
def address(store_server, digits) -> str:
    return store_server.put_folder(digits, "digits")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(object_store, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(object_store, "FIRST_THROTTLED", 0.002)


def run_on(shards: str | Path, run_dir: Path, **changes) -> Run:
    run = make_run("mae_tiny")
    run.data.shards, run.data.batch_size, run.data.num_threads, run.run_dir = str(shards), 24, 1, run_dir
    run.steps, run.log_every, run.save_every, run.picture_every, run.monitor_every = STEPS, 1, STEPS, 0, 0
    run.optim.warmup_steps, run.device, run.track = 1, "cpu", False
    for name, value in changes.items():
        setattr(run.data, name, value)
    return run


def learned(run_dir: Path) -> list[tuple[str, float]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(line["sample_digest"], line["loss"]) for line in lines]


@pytest.fixture(scope="module")
def from_disk(digits, tmp_path_factory) -> list[tuple[str, float]]:
    folder = tmp_path_factory.mktemp("from-disk")
    fit(run_on(digits, folder / "run"), "mae_tiny", [])
    return learned(folder / "run")


def test_samples_order_and_losses_are_those_of_the_disk(address, faults, from_disk, tmp_path):
    assert fit(run_on(address, tmp_path / "run"), "mae_tiny", []) == "done"
    assert len(from_disk) == STEPS and learned(tmp_path / "run") == from_disk
    assert load_run(tmp_path / "run")[1].data.shards == address, "in full, wherever the run began"


@pytest.mark.parametrize(
    "kind",
    ["reset", "flip", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in THE_OTHERS)],
)
def test_spoilt_answers_change_nothing(address, faults, from_disk, tmp_path, kind):
    shards = ShardFolder.find(address)
    shards.check()
    faults.inject(kind, times=2, keys=".tar")
    assert fit(run_on(address, tmp_path / "run"), "mae_tiny", [], shards=shards) == "done"
    assert faults.counts[kind] > 0 and learned(tmp_path / "run") == from_disk


@pytest.mark.parametrize(
    ("kind", "error", "line"),
    [
        ("denied", UserError, r"shard-000000.tar: denied \(403 AccessDenied\); ask its owner"),
        ("expired", UserError, "shard-000000.tar: the credentials of AWS_ACCESS_KEY_ID .* have expired; renew"),
        ("slowdown", Outage, r"cannot be read for 0 s \(the store asks for fewer requests .*see to the store"),
    ],
)
def test_what_does_not_pass_is_one_line(address, faults, tmp_path, kind, error, line):
    shards = ShardFolder.find(address)
    shards.check()
    faults.inject(kind, keys=".tar")
    with pytest.raises(error, match=line) as caught:
        fit(run_on(address, tmp_path / "run", read_patience_seconds=0.2), "mae_tiny", [], shards=shards)
    assert "\n" not in str(caught.value)


def test_a_replaced_tar_is_named(store_server, faults, digits, tmp_path):
    folder = Path(shutil.copytree(digits / "train", tmp_path / "train"))
    address = store_server.put_folder(folder, "replaced")
    shards = ShardFolder.find(address)
    shards.check()
    tar = bytearray((folder / "shard-000000.tar").read_bytes())
    for offset, size in shards.index[["offset", "size"]].tolist():
        tar[offset + size // 2] ^= 1
    store_server.put("replaced/shard-000000.tar", bytes(tar))
    with pytest.raises(UserError, match=r"the object was replaced since the run began|no readable sample near"):
        fit(run_on(address, tmp_path / "run"), "mae_tiny", [], shards=shards)
    assert shards.store.is_changed("shard-000000.tar")


def test_commands_take_addresses(address, faults, capsys, tmp_path):
    assert main(["shards", "verify", address]) == 0
    assert main(["shards", "info", address]) == 0
    assert main(["shards", "show", address, "--recipe", "mae_tiny", "--out", str(tmp_path / "views.png")]) == 0
    assert main(["shards", "index", address]) == 2
    said = capsys.readouterr()
    assert f"{address}: all is well (2 shard folders)" in said.out and f"{address}/train: digits" in said.out
    assert f"shards {address}: no .tar files inside; test is a folder of tars: has an index of its own" in said.err
    assert (tmp_path / "views.png").is_file()
    assert main(["shards", "info", "s3://data/nothing"]) == 2
    assert "s3://data/nothing: none there" in capsys.readouterr().err
