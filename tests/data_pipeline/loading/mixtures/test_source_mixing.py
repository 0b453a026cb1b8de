"""How many classes a batch holds, source by source."""

import numpy as np

from eyespot.data_pipeline.loading.class_mixing import class_mixing
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.loading.mixtures.source_mixing import source_mixing
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def test_each_source_is_judged_by_its_share_of_the_batch(digit_shards):
    held_out = digit_shards.parent / "test"
    mixed = find_shards(f"{digit_shards}:0.75,{held_out}:0.25")
    found = list(source_mixing(mixed, 64, seed=3))
    expected = [class_mixing(ShardFolder(path), count, seed=3) for path, count in ((digit_shards, 48), (held_out, 16))]
    assert [(source.path, mixing) for source, mixing in found] == [(digit_shards, expected[0]), (held_out, expected[1])]


def test_a_folder_is_judged_as_ever(digit_shards):
    shards, ids = ShardFolder(digit_shards), np.arange(0, 1400, 2)
    assert list(source_mixing(shards, 64, seed=1, ids=ids)) == [(shards, class_mixing(shards, 64, seed=1, ids=ids))]


def test_of_chosen_samples_those_of_each_source(digit_shards):
    held_out = digit_shards.parent / "test"
    mixed = find_shards(f"{digit_shards}:1,{held_out}:1")
    ids = np.concatenate([np.arange(100), 1438 + np.arange(80)])
    sizes = [mixing.batch_size for _, mixing in source_mixing(mixed, 1000, ids=ids)]
    assert sizes == [100, 80]
