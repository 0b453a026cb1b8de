"""Hashes change little where the picture does, and ranks, interruptions and chunks do not change them."""

import numpy as np
import pytest
import torch
from planted_copies import CHANGES, coded, opened, scene
from scipy.fft import dct

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.curate import picture_hashes as module
from eyespot.eval.curate.picture_hashes import _shrunk, hashed, picture_hashes
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def slow_hash(pixels) -> int:
    """A bit for each low frequency, in the order of rows."""
    gray = pixels[..., 0] * 0.299 + pixels[..., 1] * 0.587 + pixels[..., 2] * 0.114
    waves = dct(dct(gray, norm="ortho", axis=0), norm="ortho", axis=1)[1:9, 1:9].ravel()
    return sum(1 << place for place, wave in enumerate(waves) if wave > np.median(waves))


def test_equals_a_slow_reference():
    images = np.stack([np.asarray(scene(number, 32)) for number in range(12)])
    hashes, flat, thumbs = hashed(images)
    assert hashes[:, 0].tolist() == [slow_hash(image) for image in images] and not flat.any()
    assert hashes[:, 1].tolist() == [slow_hash(image[:, ::-1]) for image in images]
    means = images.reshape(12, 16, 2, 16, 2, 3).mean((2, 4)).reshape(12, -1)
    assert np.abs(thumbs - means).max() <= 0.5
    assert hashed(np.full((1, 32, 32, 3), 90, np.uint8))[1].all()


@pytest.mark.parametrize("change", ["same", "jpeg", "smaller"])
def test_changes_that_nobody_sees_change_few_bits(change):
    for number in range(20):
        content = coded(scene(number))
        pair = np.stack([_shrunk(content), _shrunk(CHANGES[change](content))])
        one, other = hashed(pair)[0][:, 0]
        assert np.bitwise_count(one ^ other) <= 6


def test_what_is_no_image_is_none():
    assert _shrunk(b"no image") is None and _shrunk(coded(scene(0))[:200]) is None
    assert opened(coded(scene(0))).size == (96, 96)


def hashes_on(world, path, cache):
    shards = ShardFolder.find(path)
    found = picture_hashes(shards, np.arange(shards.manifest.num_samples)[::-1].copy(), cache, world)
    return found.hashes.tobytes(), found.flat.tobytes(), found.thumbs.read(0, found.thumbs.count).tobytes()


def test_ranks_and_interruptions_change_nothing(planted, tmp_path, on_ranks, monkeypatch):
    shards, *_ = planted
    alone = hashes_on(ALONE, shards.path, tmp_path / "a")
    assert on_ranks(hashes_on, 3, shards.path, tmp_path / "b") == [alone] * 3
    monkeypatch.setattr(module, "AT_ONCE", 10)
    calls, real = [], module.hashed

    def fails_once(images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(images)

    monkeypatch.setattr(module, "hashed", fails_once)
    with pytest.raises(KeyboardInterrupt):
        hashes_on(ALONE, shards.path, tmp_path / "c")
    assert hashes_on(ALONE, shards.path, tmp_path / "c") == alone
    assert sum(calls) == shards.manifest.num_samples + 10  # of the interrupted ten alone two times


def test_a_cache_that_cannot_be_written(planted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --cache"):
        hashes_on(ALONE, planted[0].path, tmp_path / "file" / "cache")
