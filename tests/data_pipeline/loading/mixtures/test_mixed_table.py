"""The rows of a mixture's samples, asked of its sources."""

import numpy as np

from eyespot.data_pipeline.loading.mixtures.mixed_table import MixedTable
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def test_rows_stand_behind_those_of_the_sources_before(digit_shards, photo_shards):
    sources = [ShardFolder(photo_shards), ShardFolder(digit_shards), ShardFolder(photo_shards)]
    counts = [source.manifest.num_samples for source in sources]
    table = MixedTable(sources, np.cumsum([0, *counts]), [0, 10, 20], [0, 100, 200])
    asked = np.array([counts[0] + counts[1], 0, counts[0], len(table) - 1])
    own = [sources[number].index[row] for number, row in ((2, 0), (0, 0), (1, 0), (2, counts[2] - 1))]
    for row, before, number in zip(table[asked], own, (2, 0, 1, 2), strict=True):
        assert row["tar"] == before["tar"] + 10 * number
        assert row["label"] == (before["label"] + 100 * number if before["label"] >= 0 else -1)
        assert all(row[name] == before[name] for name in ("offset", "size", "crc32", "height", "width"))
    assert table[np.empty(0, np.int64)].shape == (0,)
