"""Where the samples of each source lie among all."""

from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.loading.mixtures.source_bounds import bounds_of, folder_of
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def test_sources_lie_one_behind_the_other(digit_shards):
    mixed = find_shards(f"{digit_shards}:1,{digit_shards.parent / 'test'}:1")
    assert bounds_of(mixed).tolist() == mixed.bounds.tolist() == [0, 1438, 1797]
    assert [folder_of(mixed, sample).path.name for sample in (0, 1437, 1438, 1796)] == [
        "train",
        "train",
        "test",
        "test",
    ]


def test_a_folder_is_its_only_source(digit_shards):
    shards = ShardFolder(digit_shards)
    assert bounds_of(shards).tolist() == [0, 1438] and folder_of(shards, 1437) is shards
