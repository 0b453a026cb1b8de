"""Statistics of sounds against loops over bands and seconds, and what they tell apart."""

import math

import numpy as np
import torch

from eyespot.pretrain.losses.sound_statistics import LEAST, NEIGHBOURS, kinds, sound_statistics


def slow_statistics(spectrogram: np.ndarray) -> dict[str, list[float]]:
    """Of one sound, (mels, columns)."""
    mels, columns = spectrogram.shape
    envelopes = [[10 ** (0.6 * (float(x) - 1)) for x in band] for band in spectrogram]
    found: dict[str, list[float]] = {"mean": [], "deviation": [], "modulation": [], "correlation": []}
    for band in envelopes:
        mean = sum(band) / columns
        found["mean"].append(mean)
        found["deviation"].append(math.sqrt(sum((x - mean) ** 2 for x in band) / columns))
        power = []
        for k in range(1, columns // 2 + 1):
            waves = [np.exp(-2j * math.pi * k * t / columns) * (x - mean) for t, x in enumerate(band)]
            power.append(abs(sum(waves)) ** 2)
        for octave in range(int(math.log2(columns // 2)) + 1):
            inside = [p for k, p in enumerate(power, 1) if 2**octave <= k < 2 ** (octave + 1)]
            found["modulation"].append(sum(inside) / (sum(power) + LEAST))
    for apart in (1, 2, 3, 5, 8, 11, 16, 21):
        for low in range(mels - apart):
            one, other = envelopes[low], envelopes[low + apart]
            m, n = found["mean"][low], found["mean"][low + apart]
            together = sum((x - m) * (y - n) for x, y in zip(one, other, strict=True)) / columns
            spread = math.sqrt((found["deviation"][low] ** 2 + LEAST) * (found["deviation"][low + apart] ** 2 + LEAST))
            found["correlation"].append(together / spread)
    return found


def test_they_equal_the_slow_reference():
    for mels, columns in ((12, 21), (4, 32), (23, 16)):
        torch.manual_seed(mels)
        spectrograms = torch.rand(2, 1, mels, columns, dtype=torch.float64) * 2 - 1
        found = sound_statistics(spectrograms)
        for row, spectrogram in zip(found, spectrograms[:, 0].numpy(), strict=True):
            slow = slow_statistics(spectrogram)
            assert {name: len(values) for name, values in slow.items()} == kinds(mels, columns)
            assert np.abs(row.numpy() - np.concatenate(list(slow.values()))).max() < 1e-12
    assert NEIGHBOURS[-1] == 21


def test_silence_has_no_modulation_and_nothing_is_undefined():
    found = sound_statistics(torch.full((1, 1, 8, 20), -1.0))
    assert found.isfinite().all()
    assert torch.allclose(found[0, :8], torch.tensor(10**-1.2)) and found[0, 8:].abs().max() < 1e-5


def test_rates_of_change_and_what_goes_together_are_told_apart():
    time = torch.arange(64) / 64
    slow, fast = (torch.sin(2 * math.pi * rate * time) / 4 for rate in (2, 20))
    together = torch.stack([slow, slow, fast, fast])[None, None]
    apart = torch.stack([slow, fast, slow, fast])[None, None]
    sizes = kinds(4, 64)
    for sounds, first in ((together, 1.0), (apart, 0.0)):
        _, _, modulation, correlation = sound_statistics(sounds).split(list(sizes.values()), dim=1)
        octaves = modulation.unflatten(1, (4, -1))[0]
        assert octaves[0].argmax() == 1 and octaves[3].argmax() == 4, "2 to 4 times and 16 to 32 times in the whole"
        assert abs(correlation[0, 0].item() - first) < 0.05
