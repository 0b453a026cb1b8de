"""Evaluation of noisy images: how much noise, whose it is, and that results of another noise are other results."""

from contextlib import closing

import numpy as np
import pytest
import torch

from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.feature_cache import features_key, features_of
from eyespot.eval.encoders.noise_level import at_noise, with_noise
from eyespot.eval.encoders.subject import encode_all, subjects_of
from eyespot.eval.evaluate import judge
from eyespot.pretrain.distributed.process_group import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_so_much_of_the_variance_becomes_noises():
    images, ids = torch.full((64, 3, 16, 16), 2.0), np.arange(64)
    for time, kept in ((1, 0.9999), (500, 0.0786), (1000, 4.04e-5)):
        noisy = with_noise(images, ids, ids, time, "a")
        assert noisy.mean().item() == pytest.approx(2 * kept**0.5, abs=4 * (1 - kept) ** 0.5 / noisy.numel() ** 0.5)
        assert noisy.std().item() == pytest.approx((1 - kept) ** 0.5, rel=0.02)
    assert torch.equal(images, torch.full_like(images, 2.0))


def test_noise_is_the_samples_own_wherever_it_stands():
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = with_noise(images, np.arange(8), np.arange(100, 108), 300, "a")
    few = with_noise(images, np.array([2, 5]), np.array([102, 105]), 300, "a")
    assert torch.equal(few[[2, 5]], whole[[2, 5]]) and torch.equal(few[[0, 7]], images[[0, 7]])
    assert not torch.equal(with_noise(images, np.arange(8), np.arange(8), 300, "a"), whole)
    elsewhere = with_noise(images, np.arange(8), np.arange(100, 108), 300, "b")
    assert ((elsewhere - whole).flatten(1).norm(dim=1) > 1).all(), "rows of train and of test have noise of their own"


def test_features_are_those_of_the_noisy_images(run_dir, digits, tmp_path):
    (plain, *_), shards = subjects_of(str(run_dir), seed=0), ShardFolder(digits / "test")
    (noisy, *_) = at_noise([plain], 100)
    assert features_key(noisy, shards) != features_key(plain, shards)
    found = features_of(noisy, shards, tmp_path, ALONE)
    with (
        closing(make_pass(LoaderSpec(shards=shards, views=plain.views, batch_size=64))) as batches,
        torch.inference_mode(),
    ):
        batch = next(iter(batches))
        ids = batch.ids.numpy()
        images = with_noise(batch.views[0], np.arange(len(ids)), ids, 100, shards.manifest.index_sha256)
        expected = encode_all(plain.encoder, images)
    for kind, rows in expected.items():
        assert torch.allclose(torch.from_numpy(found[kind][ids]), rows, atol=1e-4), kind


def test_much_noise_leaves_nothing_to_tell_classes_by(run_dir, digits):
    known = {"out": None, "seed": 0, "pretrained": True, "world": ALONE}
    plain, noisy = (
        {result.role: result for result in judge("layers", str(run_dir), digits, noise_level=time, **known)}
        for time in (None, 1000)
    )
    assert plain["pixels"].accuracy > 0.9 and noisy["pixels"].accuracy < 0.25
    assert noisy["encoder"].data == f"{plain['encoder'].data} with noise of t 1000"
    assert noisy["encoder"].origin["noise_level"] == 1000
    assert len(list((run_dir / "eval").glob("layers_*.json"))) == 6
