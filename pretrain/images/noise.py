"""Noise that belongs to a sample: many numbers each, made on the batch's device.

``batch.uniforms`` works on the CPU, which is fast enough for a few hundred numbers per sample and too slow for one per
pixel. Here three of its numbers become the key of a stream of its own. The n-th number of that stream is SplitMix64's
(Steele et al. 2014, "Fast splittable pseudorandom number generators"): a few integer operations on the key and n, so it
is the same on every device and in any batch.
"""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from eyespot.data_pipeline.loading.batch import Batch

_STEP, _FIRST, _SECOND = (word - 2**64 for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""The generator's 64-bit words as torch's signed ones."""


def uniform_noise(batch: Batch, stream: str, shape: tuple[int, ...]) -> Float[Tensor, "b *shape"]:
    """For each sample numbers in (0, 1), both excluded: odd multiples of 2^-24.

    They depend on (seed, epoch, sample id, stream) only, as those of ``batch.uniforms``.

    Args:
        batch: whose samples.
        stream: a name; different names give independent numbers.
        shape: of each sample's numbers.
    """
    parts = (batch.uniforms(stream, 3) * 2**24).long()
    keys = (parts[:, 0] << 40) ^ (parts[:, 1] << 20) ^ parts[:, 2]
    count = torch.Size(shape).numel()
    return ((_shifted(split_mix(keys, count), 41) + 0.5) * 2**-23).unflatten(1, shape)


def normal_noise(batch: Batch, stream: str, shape: tuple[int, ...]) -> Float[Tensor, "b *shape"]:
    """For each sample numbers of the standard normal distribution; arguments as for ``uniform_noise``."""
    return torch.special.ndtri(uniform_noise(batch, stream, shape))


def kept_shares(count: int = 1000, first: float = 1e-4, last: float = 0.02) -> Float64[Tensor, " count"]:
    """How much of an image's variance is left at each of so many times, from 1 on (Ho et al. 2020, arXiv:2006.11239).

    Args:
        count: T.
        first: how much of the variance becomes noise's at time 1.
        last: the same at time T; between them it rises evenly.
    """
    return (1 - torch.linspace(first, last, count, dtype=torch.float64)).cumprod(0)


def split_mix(keys: Int64[Tensor, " b"], count: int) -> Int64[Tensor, "b count"]:
    """The first ``count`` words of 64 bits that SplitMix64 gives from each key."""
    words = keys[:, None] + torch.arange(1, count + 1, device=keys.device) * _STEP
    words = words.bitwise_xor_(_shifted(words, 30)).mul_(_FIRST)
    words = words.bitwise_xor_(_shifted(words, 27)).mul_(_SECOND)
    return words.bitwise_xor_(_shifted(words, 31))


def _shifted(words: Int64[Tensor, "b n"], bits: int) -> Int64[Tensor, "b n"]:
    """To the right, zeros coming in from the left: torch would copy the sign."""
    return (words >> bits).bitwise_and_(2 ** (64 - bits) - 1)
