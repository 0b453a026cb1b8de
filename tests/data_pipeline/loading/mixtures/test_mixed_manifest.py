"""What the manifests of several sources say together."""

import numpy as np
import pytest

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.mixed_manifest import mixed_manifest, mixed_stats
from eyespot.data_pipeline.shards.bands.stored_bands import Bands
from eyespot.data_pipeline.shards.manifest import BANDS_FORMAT, ImageStats, Manifest, Shard


def stats_of(pixels: np.ndarray, sides=(8, 8, 8)) -> ImageStats:
    return ImageStats(mean=tuple(pixels.mean(0)), std=tuple(pixels.std(0)), height=sides, width=sides)


def manifest(num_samples: int, **changes) -> Manifest:
    stats = ImageStats(mean=(0.5,) * 3, std=(0.2,) * 3, height=(8, 8, 8), width=(8, 8, 8))
    shards = [Shard(tar="shard-000000.tar", num_samples=num_samples, bytes=1, sha256="0")]
    known = dict(name="x", num_samples=num_samples, num_labeled=0, classes=[], shards=shards, image_stats=stats)
    return Manifest(**{**known, "index_sha256": f"{num_samples}", **changes})


def test_mean_and_deviation_are_those_of_what_the_stream_shows():
    """Three parts of one source and one of the other: as if its pixels stood there three times."""
    one, other = np.random.rand(500, 3), np.random.rand(500, 3) ** 3  # noqa: NPY002
    found = mixed_stats([stats_of(one), stats_of(other)], [0.75, 0.25])
    expected = np.concatenate([one, one, one, other])
    assert np.allclose(found.mean, expected.mean(0), rtol=1e-12)
    assert np.allclose(found.std, expected.std(0), rtol=1e-12)


def test_one_source_keeps_its_digits():
    own = stats_of(np.random.rand(99, 3), (3, 5, 9))  # noqa: NPY002
    assert mixed_stats([own], [1.0]) == own


def test_sides_span_all_sources():
    parts = [stats_of(np.zeros((1, 3)), sides) for sides in ((10, 20, 30), (5, 100, 900), (7, 50, 60))]
    assert mixed_stats(parts, [0.2, 0.3, 0.5]).height == (5, 50, 900)
    assert mixed_stats(parts, [0.6, 0.2, 0.2]).height == (5, 20, 900)


def test_samples_and_tars_of_all_sources_are_counted():
    found = mixed_manifest("a:1,b:1", ["a", "b"], [manifest(3), manifest(4)], ["a/x"], [0.5, 0.5])
    assert (found.num_samples, found.name, [shard.num_samples for shard in found.shards]) == (7, "a+b", [3, 4])
    assert found.index_sha256 != mixed_manifest("", ["a", "b"], [manifest(4), manifest(3)], [], [0.5, 0.5]).index_sha256


def test_more_samples_than_ids_are_refused():
    parts = [manifest(2**31), manifest(2**31)]
    with pytest.raises(UserError, match=r"data\.shards a:1,b:1: 4,294,967,296 samples in all; ids have 32 bits"):
        mixed_manifest("a:1,b:1", ["a", "b"], parts, [], [0.5, 0.5])
    assert (
        mixed_manifest("", ["a", "b"], [manifest(2**31), manifest(2**31 - 1)], [], [0.5, 0.5]).num_samples == 2**32 - 1
    )


def test_sources_of_other_bands_are_not_mixed():
    stats = ImageStats(mean=(0.5,) * 6, std=(0.2,) * 6, height=(8, 8, 8), width=(8, 8, 8))
    six = [manifest(2, image_stats=stats, bands=Bands(count=6, bits=bits), format=BANDS_FORMAT) for bits in (16, 8)]
    found = mixed_manifest("a:1,b:1", ["a", "b"], [six[0], six[0]], [], [0.5, 0.5])
    assert found.bands == Bands(count=6) and len(found.image_stats.mean) == 6
    for other, said in ((six[1], "6 bands of 8 bits"), (manifest(2), "8-bit RGB")):
        with pytest.raises(UserError, match=f"source a holds images of 6 bands of 16 bits, b of {said}; mix those"):
            mixed_manifest("a:1,b:1", ["a", "b"], [six[0], other], [], [0.5, 0.5])
