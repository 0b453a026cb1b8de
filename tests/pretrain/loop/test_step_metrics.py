"""What a line of metrics says, on one process; over ranks: tests/pretrain/test_trainer.py."""

import hashlib
import math
import time

import torch

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.loop.step_metrics import StepMeter, StepRecord


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
