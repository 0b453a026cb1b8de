"""SplitMix64 against Python's own integers and a published answer; noise that is each sample's own."""

import pytest
import torch

from eyespot.data_pipeline.loading.batch import Batch
from eyespot.pretrain.images.noise import normal_noise, split_mix, uniform_noise

WORD = 2**64 - 1


def make_batch(ids, epoch: int = 0, seed: int = 0) -> Batch:
    ids = torch.as_tensor(ids)
    return Batch(views=[], ids=ids, epochs=torch.full_like(ids, epoch), labels=torch.zeros_like(ids), seed=seed)


def slow_split_mix(key: int, count: int) -> list[int]:
    words = []
    for _ in range(count):
        key = (key + 0x9E3779B97F4A7C15) & WORD
        word = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
        words.append(word ^ (word >> 31))
    return words


def test_it_is_split_mix():
    keys = [0, 1234567, 2**63 - 1, -1, -(2**63)]
    for key, row in zip(keys, split_mix(torch.tensor(keys), 7).tolist(), strict=True):
        assert [word & WORD for word in row] == slow_split_mix(key & WORD, 7)
    assert slow_split_mix(1234567, 2) == [6457827717110365317, 3203168211198807973]  # Vigna's splitmix64.c


def test_noise_is_the_samples_own():
    together = uniform_noise(make_batch([3, 1, 4]), "a", (3, 5))
    assert together.shape == (3, 3, 5)
    assert torch.equal(uniform_noise(make_batch([4, 3]), "a", (3, 5)), together[[2, 0]])
    others = [make_batch([3, 1, 4], epoch=1), make_batch([3, 1, 4], seed=1), make_batch([2, 0, 5])]
    for noise in [uniform_noise(other, "a", (3, 5)) for other in others] + [
        uniform_noise(make_batch([3, 1, 4]), "b", (3, 5))
    ]:
        assert not (noise == together).any()


def test_it_is_uniform_and_normal():
    """Means, variances and the correlation of neighbours within four standard deviations of a fair draw."""
    batch = make_batch(range(100))
    uniform = uniform_noise(batch, "a", (2000,)).double()
    assert 0 < uniform.min() < uniform.max() < 1
    counts = torch.histc(uniform.float(), 10, 0, 1)
    assert ((counts - 20_000).abs() < 4 * (200_000 * 0.09) ** 0.5).all()
    normal = normal_noise(batch, "a", (2000,)).double()
    assert normal.isfinite().all()
    assert abs(normal.mean()) < 4 / 200_000**0.5
    assert abs(normal.var() - 1) < 4 * (2 / 200_000) ** 0.5
    for one, other in ((normal[:, 1:], normal[:, :-1]), (normal[1:], normal[:-1])):
        assert abs((one * other).mean()) < 4 / 198_000**0.5
    assert normal.mean(0).abs().max() < 5 / 10
    assert (normal > 3).double().mean() == pytest.approx(0.00135, abs=0.00035)
