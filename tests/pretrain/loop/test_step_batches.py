"""A step of several micro-batches is cut where a stop is asked for, and nothing of it stays: bit for bit."""

import json
import math
import os
import signal
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from eyespot.data_pipeline.loading.loader import Loader
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.engines.torch_engine import TorchEngine
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.networks.sync_batchnorm import RunningStatistics
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.trainer import fit

PARTS = 4


def small_run(method: str, shards: Path, run_dir: Path, **changes):
    run = make_run(f"{method}_tiny")
    run.data.shards, run.data.batch_size, run.data.accumulate, run.run_dir = str(shards), 4 * PARTS, PARTS, run_dir
    run.steps, run.log_every, run.save_every, run.picture_every, run.track = 3, 1, 100, 0, False
    run.encoder.name, run.encoder.image_size, run.encoder.patch_size = "resnet10t", 16, None
    run.optim.warmup_steps, run.device, run.precision, run.monitor_every = 0, "cpu", "fp32", 0
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def tensors(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.newest(run_dir) / "rank-00000.safetensors")


@pytest.mark.parametrize(("method", "calls"), [("byol", PARTS), ("simclr", 2 * PARTS)])
def test_the_state_is_that_of_the_step_before(method, calls, digits, tmp_path, monkeypatch):
    """BYOL's batch norms gather statistics in each forward pass; SimCLR looks twice at each micro-batch."""
    fit(small_run(method, digits, tmp_path / "whole"), "test")
    fit(small_run(method, digits, tmp_path / "one", stop_after=1), "test")
    forward, count = TorchEngine.forward, 0

    def forward_and_signal(self, part):
        nonlocal count
        count += 1
        if count == calls + calls - 1:  # in the second step, before its last micro-batch
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, part)

    monkeypatch.setattr(TorchEngine, "forward", forward_and_signal)
    assert fit(small_run(method, digits, tmp_path / "cut"), "test") == "stopped"
    assert count < 2 * calls, "the step was not finished"
    monkeypatch.undo()
    assert checkpoint.newest(tmp_path / "cut").name == "step-00000001"
    cut, one = tensors(tmp_path / "cut"), tensors(tmp_path / "one")
    assert any("running_mean" in name for name in cut)
    assert cut.keys() == one.keys() and all(torch.equal(cut[name], one[name]) for name in cut)
    assert fit(small_run(method, digits, tmp_path / "cut", resume="auto"), "test") == "done"
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 3


def test_a_micro_batch_of_another_length_ends_the_run_before_an_exchange_could_hang(digits, tmp_path, monkeypatch):
    take = Loader.__next__

    def take_less(self):
        batch = take(self)
        return replace(batch, ids=batch.ids[:-1])

    monkeypatch.setattr(Loader, "__next__", take_less)
    with pytest.raises(RuntimeError, match=r"^a micro-batch of 3 images on this rank, where all have 4$"):
        fit(small_run("simclr", digits, tmp_path / "run"), "test")


def train_spoiled(shards: Path, run_dir: Path, engine: str, decides_on_device: bool) -> str:
    """Three steps, the second with NaN in an image of the last rank; each is saved."""
    torch.set_num_threads(1)
    run = small_run("byol", shards, run_dir, engine=engine, save_every=1, keep_checkpoints=4, max_skipped_steps=1)
    run.data.accumulate = 1
    step, take, taken = TorchEngine.step, Loader.__next__, 0

    def decide(self, *arguments):
        self.decides_on_device = decides_on_device
        return step(self, *arguments)

    def take_spoiled(self):
        nonlocal taken
        taken += 1
        batch = take(self)
        if taken == 2 and int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1:
            batch.views[0][0] = math.nan
        return batch

    with patch.object(TorchEngine, "step", decide), patch.object(Loader, "__next__", take_spoiled):
        return fit(run, "test")


@pytest.mark.parametrize(
    "engine",
    ["ddp", "ddp, on the device", "fsdp", "fsdp, on the device", pytest.param("deepspeed", marks=pytest.mark.slow)],
)
def test_a_skipped_step_leaves_the_statistics_of_the_step_before(engine, digits, tmp_path, start_ranks):
    """Images with NaN make the batch norms' statistics NaN: they go back, whoever decides that the step is skipped."""
    arguments = digits, tmp_path / "run", engine.partition(",")[0], "device" in engine
    if engine == "deepspeed":  # it is started once in a process
        processes = start_ranks(train_spoiled, 2, *arguments)
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0, 0]
    else:
        assert train_spoiled(*arguments) == "done"
    steps = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    one, two, three = (
        {k: v for file in step.glob("*.safetensors") for k, v in load_file(file).items()} for step in steps
    )
    statistics = [name for name in one if "running_" in name]
    assert len(statistics) > 20 and [name for name in one if not torch.equal(one[name], two[name])] == []
    assert all(three[name].isfinite().all() and not torch.equal(two[name], three[name]) for name in statistics)
    objective = fresh_objective(small_run("byol", digits, tmp_path), torch.arange(4)).eval()
    objective.encoder.load_state_dict(checkpoint.read_encoder(steps[-1]))
    assert objective.encode(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))).isfinite().all()


@pytest.mark.parametrize(("method", "held"), [("mae", 1), ("simclr", 8)])
def test_images_are_let_go_as_soon_as_nobody_needs_them(method, held, digits, tmp_path, monkeypatch):
    """MAE holds one of eight micro-batches; SimCLR's second pass needs all of them, and gives them back one by one."""
    parts, seen, alive = 8, list[weakref.ref](), {"passes": list[int](), "waits": list[int](), "step": list[int]()}
    forward, take, step = TorchEngine.forward, Loader.__next__, TorchEngine.step

    def count(where):
        alive[where].append(sum(view() is not None for view in seen))

    def taken(self):
        count("waits")
        batch = take(self)
        seen.extend(weakref.ref(view) for view in batch.views[:1])
        return batch

    def passed(self, part):
        count("passes")
        return forward(self, part)

    def stepped(self, *rate):
        count("step")
        return step(self, *rate)

    monkeypatch.setattr(Loader, "__next__", taken)
    monkeypatch.setattr(TorchEngine, "forward", passed)
    monkeypatch.setattr(TorchEngine, "step", stepped)
    run = small_run(method, digits, tmp_path / "run", steps=2)
    run.data.accumulate, run.data.batch_size = parts, 4 * parts
    if method == "mae":
        run.encoder = make_run("mae_tiny").encoder
    assert fit(run, "test") == "done"
    assert max(alive["passes"]) == held
    if method == "mae":
        assert set(alive["passes"]) == {1} and set(alive["waits"]) == {0}
    else:
        second = list(range(parts, 0, -1))
        assert alive["passes"] == 2 * [*range(1, parts + 1), *second]
    assert alive["step"] == [0, 0]


def train_on_rank(shards: Path, run_dir: Path, engine: str, stop_after: int | None, cut: bool) -> None:
    """What each rank does; rank 1 is asked to stop in the second step, while it takes the second micro-batch."""
    torch.set_num_threads(1)
    name, _, stage = engine.partition(" ")
    run = small_run("byol", shards, run_dir, engine=name, stop_after=stop_after, resume="auto")
    run.deepspeed.stage = int(stage or 2)
    take, taken = Loader.__next__, 0

    def take_and_signal(self):
        nonlocal taken
        taken += 1
        if cut and taken == PARTS + 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self)

    Loader.__next__ = take_and_signal
    ended = fit(run, "test")
    sys.exit(ended != ("stopped" if cut else "done"))


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fsdp"])
def test_two_ranks_cut_the_same_step(engine, digits, tmp_path, start_ranks):
    """One of them hears the signal; the state of both is that of the step before, and the run goes on as if uncut."""
    plan = [("whole", None, False), ("one", 1, False), ("cut", None, True)]
    for name, stop_after, cut in [*plan, ("cut", None, False)]:
        if name == "cut" and not cut:  # it goes on
            assert checkpoint.newest(tmp_path / "cut").name == "step-00000001"
            for file in sorted(checkpoint.newest(tmp_path / "one").glob("*.safetensors")):
                was, now = load_file(file), load_file(checkpoint.newest(tmp_path / "cut") / file.name)
                assert was.keys() == now.keys() and all(torch.equal(was[key], now[key]) for key in was)
        processes = start_ranks(train_on_rank, 2, digits, tmp_path / name, engine, stop_after, cut)
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0, 0], name
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 3


def test_running_statistics_go_back():
    layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.BatchNorm1d(4))
    statistics = RunningStatistics(layers)
    layers(torch.randn(8, 3))
    statistics.keep()
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    layers(torch.randn(8, 3))
    assert not torch.equal(layers.state_dict()["1.running_mean"], before["1.running_mean"])
    statistics.put_back()
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())


@pytest.mark.parametrize("tell", [bool, torch.tensor], ids=["host", "device"])
def test_running_statistics_go_back_unless_the_step_was_taken(tell):
    layers = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    statistics = RunningStatistics(layers)
    for taken, rows in [(True, torch.randn(8, 3)), (False, torch.full((8, 3), math.nan)), (True, torch.randn(8, 3))]:
        statistics.keep()
        before = {name: value.clone() for name, value in layers.state_dict().items()}
        layers(rows)
        after = {name: value.clone() for name, value in layers.state_dict().items()}
        assert any(not torch.equal(after[name], before[name]) for name in after)
        statistics.put_back_unless(tell(taken))
        expected = after if taken else before
        assert all(torch.equal(value, expected[name]) for name, value in layers.state_dict().items())
