"""Random numbers that belong to a sample: a counter-based generator, vectorised over samples.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). A number is a pure function of
(seed, epoch, sample id, stream, position): no state to save, the same on every rank and in any batch.
"""

import zlib
from functools import cache

import numpy as np
from jaxtyping import Float32, Int64, Integer, UInt32

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_WORD = 0xFFFFFFFF
NUM_IDS = 2**32
"""Samples that have random numbers of their own: ids 0 .. NUM_IDS - 1."""


def philox(counter: UInt32[np.ndarray, "4 n"], key: tuple[int, int]) -> UInt32[np.ndarray, "4 n"]:
    """Ten rounds of Philox4x32: n counters of four 32-bit words, one key of two -> n blocks of four words."""
    c0, c1, c2, c3 = (word.astype(np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            product1 & _LOW,
            (product0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            product0 & _LOW,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def uniforms(
    seed: int, epochs: Integer[np.ndarray, " b"], ids: Integer[np.ndarray, " b"], stream: str, count: int
) -> Float32[np.ndarray, "b count"]:
    """(B, count) numbers in [0, 1), multiples of 2^-24, one row per sample.

    Args:
        seed: of the run, 0 <= seed < 2^64.
        epochs: (B,) how often each sample had been seen before.
        ids: (B,) sample ids, below 2^32.
        stream: a name; different names give independent numbers.
        count: how many numbers per sample.
    """
    return (words(seed, epochs, ids, stream, count) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def normals(
    seed: int, epochs: Integer[np.ndarray, " b"], ids: Integer[np.ndarray, " b"], stream: str, count: int
) -> Float32[np.ndarray, "b count"]:
    """(B, count) numbers of the standard normal distribution, one row per sample; arguments as for ``uniforms``.

    Each is one of 65,536 equally likely quantiles, up to 4.2 on either side: a table gives the same bits everywhere,
    and takes a fraction of the time of logarithms and cosines.
    """
    halves = words(seed, epochs, ids, stream, -(-count // 2)).view(np.uint16)
    return _normal_quantiles()[halves[:, :count]]


@cache
def _normal_quantiles() -> Float32[np.ndarray, " 65536"]:
    from scipy.special import ndtri  # takes a while to import, and most runs do not need it

    return ndtri((np.arange(2**16) + 0.5) / 2**16).astype(np.float32)


def words(
    seed: int, epochs: Integer[np.ndarray, " b"], ids: Integer[np.ndarray, " b"], stream: str, count: int
) -> UInt32[np.ndarray, "b count"]:
    """(B, count) words of 32 random bits, one row per sample; arguments as for ``uniforms``.

    Raises:
        ValueError: an id or an epoch does not fit into 32 bits: it would draw the numbers of another.
    """
    for what, numbers in (("sample id", ids), ("epoch", epochs)):
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < NUM_IDS):
            wrong = numbers[(numbers < 0) | (numbers >= NUM_IDS)][0]
            raise ValueError(f"{what} {wrong}: random numbers are for those from 0 to 2^32 - 1")
    num_blocks = -(-count // 4)
    counter = np.empty((4, len(ids), num_blocks), np.uint32)
    counter[0] = np.arange(num_blocks, dtype=np.uint32)
    counter[1] = zlib.crc32(stream.encode())
    counter[2] = epochs.astype(np.uint32)[:, None]
    counter[3] = ids.astype(np.uint32)[:, None]
    found = philox(counter.reshape(4, -1), (seed & _WORD, (seed >> 32) & _WORD))
    found = found.reshape(4, len(ids), num_blocks).transpose(1, 2, 0).reshape(len(ids), 4 * num_blocks)
    return np.ascontiguousarray(found[:, :count])


def numbers_below(bounds: Integer[np.ndarray, " b"], drawn: UInt32[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
    """(B,) whole numbers from 0 to each bound less one, which is below 2^32: of as many equal parts of what was drawn.

    Args:
        bounds: at least 1.
        drawn: ``words``.
    """
    return ((drawn.astype(np.uint64) * bounds.astype(np.uint64)) >> _SHIFT).astype(np.int64)
