"""The order of samples against a slow reference that lists whole epochs."""

import time
import tracemalloc
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.augment.views import RandomView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_loader
from eyespot.data_pipeline.order.sample_order import SampleOrder
from eyespot.data_pipeline.random_numbers import uniforms
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def whole_epoch(num_samples: int, seed: int, epoch: int, block: int, window: int) -> list[int]:
    """The definition, sample by sample."""

    def shuffled(values: list, row: int, stream: str) -> list:
        keys = uniforms(seed, np.array([epoch]), np.array([row]), stream, len(values))[0]
        return [value for _, _, value in sorted(zip(keys, range(len(values)), values, strict=True))]

    blocks = [list(range(start, min(start + block, num_samples))) for start in range(0, num_samples, block)]
    blocks = shuffled(blocks, 0, "order/blocks")
    order = []
    for number, start in enumerate(range(0, len(blocks), window)):
        samples = [sample for part in blocks[start : start + window] for sample in part]
        order += shuffled(samples, number, "order/samples")
    return order


@pytest.mark.parametrize("num_samples", [1, 5, 16, 17, 100, 1000])
@pytest.mark.parametrize("count", [1, 7, 64])
def test_any_slicing_gives_the_reference(num_samples, count):
    order = SampleOrder(num_samples, seed=3, block=4, window=3)
    expected = [(sample, epoch) for epoch in range(3) for sample in whole_epoch(num_samples, 3, epoch, 4, 3)]
    found = []
    while len(found) < len(expected):
        ids, epochs = order.ids(len(found), count)
        assert ids.dtype == epochs.dtype == np.int64
        found += zip(ids.tolist(), epochs.tolist(), strict=True)
    assert found[: len(expected)] == expected


def test_the_order_does_not_depend_on_what_was_asked_before():
    used, fresh = SampleOrder(5000, seed=1), SampleOrder(5000, seed=1)
    for start in (0, 12_000, 4_990, 100_000):
        used.ids(start, 50)
    assert (used.ids(7_777, 300)[0] == fresh.ids(7_777, 300)[0]).all()


@pytest.mark.parametrize("num_samples", [10, 256, 5000])
def test_every_epoch_holds_every_sample_once_in_another_order(num_samples):
    order = SampleOrder(num_samples, seed=0)
    first, second = order.ids(0, num_samples)[0], order.ids(num_samples, num_samples)[0]
    assert sorted(first) == sorted(second) == list(range(num_samples))
    assert (first != second).any()
    assert (first != SampleOrder(num_samples, seed=1).ids(0, num_samples)[0]).any()


def test_samples_are_well_mixed_and_reads_stay_close():
    ids = SampleOrder(100_000, seed=0).ids(0, 100_000)[0]
    assert abs(np.corrcoef(ids, np.arange(100_000))[0, 1]) < 0.3  # 49 windows of random places
    assert (np.diff(ids) == 1).mean() < 0.01
    touched = [len(np.unique(ids[start : start + 2048] // 256)) for start in range(0, 98_000, 2048)]
    assert max(touched) <= 2 * 8  # a partial block shifts the windows, so a stretch meets at most two of them


def test_fourteen_million_samples_cost_nothing():
    tracemalloc.start()
    begin = time.process_time()
    ids, epochs = SampleOrder(14_000_000, seed=0).ids(30_000_000_000, 4096)
    seconds, (_, peak_bytes) = time.process_time() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(np.unique(ids)) == 4096
    assert epochs[0] == 2142
    assert seconds < 1
    assert peak_bytes < 20e6


@pytest.mark.parametrize("window", [6, 8, 1000])
def test_windows_that_hold_everything_are_the_same(window):
    orders = SampleOrder(1438, seed=0), SampleOrder(1438, seed=0, window=window)
    assert (orders[0].ids(0, 3000)[0] == orders[1].ids(0, 3000)[0]).all()
    assert orders[0].window == orders[1].window == 6 * 256


def test_a_wider_window_mixes_more_and_is_part_of_the_streams_identity(digit_shards):
    views = ViewSpec(views=(RandomView(size=16),))
    usual = LoaderSpec(shards=ShardFolder(digit_shards), views=views, batch_size=48, num_threads=2)
    wide = replace(usual, shuffle_window=512)
    with closing(make_loader(usual)) as loader:
        state = loader.state_dict()
    assert "shuffle_window" not in state  # as it was before there were others
    with closing(make_loader(wide)) as loader:
        next(loader)
        wider = loader.state_dict()
    assert wider["shuffle_window"] == 512
    for spec, other in ((wide, state), (usual, wider), (replace(wide, shuffle_window=1024), wider)):
        with pytest.raises(UserError, match=r"loader state: shuffle_window \d+ where this run has \d+"):
            make_loader(spec, state=other)
    with closing(make_loader(wide, state=wider)) as loader, closing(make_loader(wide)) as whole:
        next(whole)
        assert torch.equal(next(loader).ids, next(whole).ids)
