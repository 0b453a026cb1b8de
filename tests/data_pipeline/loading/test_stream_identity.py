"""Checksums tell streams apart, and are those that checkpoints of before hold."""

import zlib

import numpy as np

from eyespot.data_pipeline.augment.views import CenterView, ViewSpec
from eyespot.data_pipeline.loading.sample_files import SampleFiles
from eyespot.data_pipeline.loading.stream_identity import data_checksum, tokenizer_checksum
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

VIEWS = ViewSpec(views=(CenterView(size=8, resize=8),))


def test_what_each_adds(digits):
    shards = ShardFolder(digits / "test")
    manifest, files = shards.manifest, SampleFiles(shards, VIEWS, 0)
    plain = zlib.crc32("".join([manifest.index_sha256, *files.identity()]).encode())
    ids, labeled = np.array([4, 1, 2]), np.array([1, 4])
    shown = np.isin(np.arange(manifest.num_samples), labeled)
    assert data_checksum(manifest, files, None, None) == plain
    assert data_checksum(manifest, files, ids, None) == zlib.crc32(ids.tobytes(), plain)
    assert data_checksum(manifest, files, ids[::-1].copy(), None) != data_checksum(manifest, files, ids, None)
    assert data_checksum(manifest, files, None, labeled) == zlib.crc32(shown.tobytes(), plain)


def test_views_without_texts_have_no_tokenizer():
    assert tokenizer_checksum(VIEWS) == {}
