"""Statistics of a sound, by which people tell rain from applause (McDermott & Simoncelli 2011), from its spectrogram.

A log-mel spectrogram stands in for their cochlear filters. With x(m, t) what ``AudioView`` shows of band m, the
envelopes are e(m, t) = 10^(0.6 (x(m, t) - 1)): amplitudes to the power of 0.3, as the ear compresses them. Of each band
the mean and the standard deviation over time; the shares of its variance that change so many times a second, by octaves
(modulation); and the correlations with the bands 1, 2, 3, 5, 8, 11, 16 and 21 above it.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

NEIGHBOURS = (1, 2, 3, 5, 8, 11, 16, 21)
"""How far apart bands are whose envelopes are correlated (theirs, from memory)."""
LEAST = 1e-6
"""Variance of an envelope below which there is nothing to be correlated: silence."""
LEAST_COLUMNS = 2
"""Of a spectrogram: one by itself does not change."""


def kinds(mels: int, columns: int) -> dict[str, int]:
    """How many statistics there are of each kind, in their order.

    Args:
        mels: bands of the spectrogram.
        columns: of it, two or more.
    """
    pairs = sum(mels - apart for apart in NEIGHBOURS if apart < mels)
    return {"mean": mels, "deviation": mels, "modulation": mels * len(_octaves(columns)), "correlation": pairs}


def sound_statistics(spectrograms: Float[Tensor, "b 1 mels columns"]) -> Float[Tensor, "b n"]:
    """The statistics of each sound; ``kinds`` says which stand where.

    Args:
        spectrograms: what ``AudioView`` shows, in single precision or better.
    """
    envelopes = 10 ** (0.6 * (spectrograms[:, 0] - 1))
    mean = envelopes.mean(2)
    centred = envelopes - mean[:, :, None]
    variance = centred.square().mean(2)
    power = torch.fft.rfft(centred, dim=2).abs().square()
    octaves = torch.stack([power[:, :, low:high].sum(2) for low, high in _octaves(centred.shape[2])], dim=2)
    shares = octaves / (power[:, :, 1:].sum(2) + LEAST)[:, :, None]
    units = centred / (variance + LEAST).sqrt()[:, :, None]
    correlations = [(units[:, apart:] * units[:, :-apart]).mean(2) for apart in NEIGHBOURS if apart < units.shape[1]]
    return torch.cat([mean, variance.sqrt(), shares.flatten(1), *correlations], dim=1)


@lru_cache(maxsize=8)
def _octaves(columns: int) -> tuple[tuple[int, int], ...]:
    """The bins of a Fourier transform from one power of two to the next; what is left stays out with the mean."""
    last = columns // 2 + 1
    ends = [2**power for power in range(last.bit_length()) if 2**power < last]
    return tuple(zip(ends, [*ends[1:], last], strict=True))
