"""What a line of metrics says, on one process; over ranks: tests/pretrain/test_trainer.py."""

import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.loading.mixtures.stream_order import SourceCounts, order_of
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.config import Run
from eyespot.pretrain.engines.torch_engine import TorchEngine
from eyespot.pretrain.loop.run_end import TrainingError
from eyespot.pretrain.loop.step_metrics import StepMeter, StepRecord
from eyespot.pretrain.recipe_lookup import make_run
from eyespot.pretrain.trainer import fit


def make_batch(*ids: int) -> Batch:
    numbers = torch.tensor(ids)
    return Batch(views=[], ids=numbers, epochs=numbers * 0, labels=numbers * 0, seed=0)


def make_record(*parts: tuple[Batch, dict[str, float]]) -> StepRecord:
    record = StepRecord(4)
    for batch, scalars in parts:
        record.add(batch, {name: torch.tensor(value, requires_grad=True) for name, value in scalars.items()})
    record.close(2.0, taken=True, logged=True)
    return record


def test_means_are_over_micro_batches():
    record = make_record((make_batch(1), {"loss": 1.0, "other": 10.0}), (make_batch(2), {"loss": 3.0, "other": 30.0}))
    assert record.finite()
    assert record.means() == {"loss": 2.0, "other": 20.0}
    assert not record.finite().requires_grad, "a graph would be kept for as long as the record"


def test_the_loss_of_a_source_is_the_mean_of_its_samples(digits):
    shards = find_shards(f"{digits / 'train'}:1,{digits / 'test'}:1")
    sources = SourceCounts(shards=shards, order=order_of(shards, None, 0))
    first = shards.bounds[1]
    record = StepRecord(4)
    record.add(make_batch(first, 3), {"loss": torch.tensor(3.0)}, torch.tensor([5.0, 1.0]))
    record.add(make_batch(7, 8), {"loss": torch.tensor(3.5)}, torch.tensor([3.0, 4.0]))
    record.close(2.0, taken=True, logged=True)
    record.digest()
    found = record.losses_of(sources)
    assert found == {"train/source/train/loss": pytest.approx(8 / 3), "train/source/test/loss": 5.0}
    assert record.means() == {"loss": 3.25} and record.guilty_ids() == [first, 3, 7, 8]
    seldom = StepRecord(4)
    seldom.add(make_batch(1, 2), {"loss": torch.tensor(3.0)}, torch.tensor([5.0, 1.0]))
    seldom.close(2.0, taken=True, logged=True)
    seldom.digest()
    assert seldom.losses_of(sources) == {"train/source/train/loss": 3.0}
    plain = make_record((make_batch(1, 2), {"loss": 3.0}))
    plain.digest()
    assert plain.losses_of(sources) == {}


def test_digest_is_of_the_ids_in_order():
    expected = hashlib.sha256(b"".join(i.to_bytes(8, "little") for i in (3, 1, 4, 1))).hexdigest()[:16]
    assert make_record((make_batch(3, 1), {"loss": 0.0}), (make_batch(4, 1), {"loss": 0.0})).digest() == expected
    assert make_record((make_batch(4, 1), {"loss": 0.0}), (make_batch(3, 1), {"loss": 0.0})).digest() != expected


def test_guilty_ids_are_those_of_the_broken_micro_batch():
    good, broken = {"loss": 0.5, "other": 1.0}, {"loss": 1.0, "other": math.nan}
    record = make_record((make_batch(1, 2), good), (make_batch(3, 4), broken))
    assert not record.finite()
    assert record.guilty_ids() == [3, 4]
    record = make_record((make_batch(1, 2), good), (make_batch(3, 4), good))
    assert record.guilty_ids() == [1, 2, 3, 4]  # the gradient broke, not a loss


def test_meter_measures_an_interval():
    meter = StepMeter(torch.device("cpu"))
    meter.add(100, 0.05)
    time.sleep(0.2)
    values = meter.close_interval()
    assert 100 / 2 < values["images_per_second"] <= 100 / 0.2
    assert 0.05 / 2 < values["data_wait_share"] <= 0.05 / 0.2
    assert values["peak_memory_gb"] > 0.01
    assert meter.close_interval()["images_per_second"] == 0


def small_run(shards: Path, run_dir: Path, **changes) -> Run:
    run = make_run("byol_tiny")
    run.data.shards, run.data.batch_size, run.run_dir = str(shards), 8, run_dir
    run.steps, run.log_every, run.save_every, run.picture_every, run.track = 6, 1, 100, 0, False
    run.encoder.name, run.encoder.image_size, run.encoder.patch_size = "resnet10t", 16, None
    run.optim.warmup_steps, run.device, run.precision, run.monitor_every = 0, "cpu", "fp32", 0
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def lines(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.run_dir / "metrics.jsonl").read_text().splitlines()]


def warnings(run: Run) -> list[str]:
    found = (run.run_dir / "logs" / "rank-0.log").read_text().splitlines()
    return [line.split("WARNING ")[1] for line in found if "skipped" in line]


@pytest.fixture
def told_late(monkeypatch) -> Callable[[], None]:
    """From its call on engines decide as on a GPU, and the loop looks at each step when the next is under way."""
    make = TorchEngine.__init__

    def make_and_defer(self, *arguments) -> None:
        make(self, *arguments)
        self.decides_on_device = True

    return lambda: monkeypatch.setattr(TorchEngine, "__init__", make_and_defer)


@pytest.fixture
def broken_at(monkeypatch) -> Callable[..., None]:
    """Makes the images of some steps NaN, or what it is given."""
    forward = TorchEngine.forward

    def break_at(*steps: int, error: Exception | None = None) -> None:
        calls = itertools.count(1)

        def forward_or_break(self, part):
            if next(calls) in steps:
                if error is not None:
                    raise error
                part.batch.views[0].fill_(math.nan)
            return forward(self, part)

        monkeypatch.setattr(TorchEngine, "forward", forward_or_break)

    return break_at


@pytest.mark.parametrize("log_every", [1, 2, 4])
def test_every_line_is_written_where_the_device_tells_late(log_every, digits, tmp_path, told_late, broken_at):
    runs = [small_run(digits, tmp_path / name, log_every=log_every, max_skipped_steps=2) for name in ("host", "device")]
    for run in runs:
        broken_at(3, 6)  # the last one, too
        fit(run, "test")
        told_late()
    host, device = map(lines, runs)
    assert [line["step"] for line in device] == [line["step"] for line in host]
    assert [list(line) for line in device] == [list(line) for line in host]
    for name in ("loss", "grad_norm", "lr", "sample_digest", "epoch"):
        for one, other in zip(device, host, strict=True):
            same = one[name] == other[name] or one[name] == pytest.approx(float(other[name]), rel=1e-3)
            assert same, (name, one["step"])
    assert warnings(runs[1]) == warnings(runs[0]) != []


def test_too_many_bad_steps_stop_a_step_later_and_nothing_of_them_is_saved(digits, tmp_path, told_late, broken_at):
    told_late()
    run = small_run(digits, tmp_path / "run", max_skipped_steps=1)
    broken_at(2, 3)
    with pytest.raises(TrainingError, match=r"^step 3: .* the checkpoint of step 3 is the last good one$"):
        fit(run, "test")
    assert checkpoint.read_meta(checkpoint.newest(run.run_dir)).step == 3
    good = small_run(digits, tmp_path / "good", stop_after=1)
    broken_at()
    fit(good, "test")
    saved, expected = (load_file(checkpoint.newest(each.run_dir) / "rank-00000.safetensors") for each in (run, good))
    seen = [name for name in saved if "running_" not in name and "num_batches" not in name]
    assert len(seen) > 50
    unequal = [name for name in seen if not torch.allclose(saved[name], expected[name], atol=1e-6)]
    assert unequal == [], "the weights, moments and the teacher of the only step that was taken"


def test_a_run_that_breaks_off_has_the_line_of_its_last_whole_step(digits, tmp_path, told_late, broken_at):
    told_late()
    run = small_run(digits, tmp_path / "run")
    broken_at(4, error=RuntimeError("a broken card"))
    with pytest.raises(RuntimeError, match="a broken card"):
        fit(run, "test")
    assert [line["step"] for line in lines(run)] == [1, 2, 3]
