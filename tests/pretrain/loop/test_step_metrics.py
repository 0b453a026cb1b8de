"""What a line of metrics says, on one process; over ranks: tests/pretrain/test_trainer.py."""

import hashlib
import math
import time

import torch

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.loop.step_metrics import StepMeter, global_means, guilty_ids, sample_digest


def make_batch(*ids: int) -> Batch:
    numbers = torch.tensor(ids)
    return Batch(views=[], ids=numbers, epochs=numbers * 0, labels=numbers * 0, seed=0)


def test_means_are_over_micro_batches():
    scalars = torch.tensor([[1.0, 10.0], [3.0, 30.0]], dtype=torch.float64)
    assert global_means(["loss", "other"], scalars) == {"loss": 2.0, "other": 20.0}


def test_digest_is_of_the_ids_in_order():
    expected = hashlib.sha256(b"".join(i.to_bytes(8, "little") for i in (3, 1, 4, 1))).hexdigest()[:16]
    assert sample_digest([make_batch(3, 1), make_batch(4, 1)]) == expected
    assert sample_digest([make_batch(4, 1), make_batch(3, 1)]) != expected


def test_guilty_ids_are_those_of_the_broken_micro_batch():
    batches = [make_batch(1, 2), make_batch(3, 4)]
    scalars = torch.tensor([[0.5, 1.0], [1.0, math.nan]], dtype=torch.float64)
    assert guilty_ids(batches, scalars) == [3, 4]
    assert guilty_ids(batches, torch.ones(2, 2, dtype=torch.float64)) == [1, 2, 3, 4]  # the gradient broke, not a loss


def test_meter_measures_an_interval():
    meter = StepMeter(torch.device("cpu"))
    meter.add(100, 0.05)
    time.sleep(0.2)
    values = meter.close_interval()
    assert 100 / 2 < values["images_per_second"] <= 100 / 0.2
    assert 0.05 / 2 < values["data_wait_share"] <= 0.05 / 0.2
    assert values["peak_memory_gb"] > 0.01
    assert meter.close_interval()["images_per_second"] == 0
