"""Sound as views show it: some seconds of each sample's, as a log-mel spectrogram.

All channels are averaged, then the seconds are resampled to the view's rate (polyphase, Kaiser window: SciPy's
``resample_poly``). The spectrum is that of Hann windows, centred on every ``hop``-th sample; its power is summed in
triangles that are even on the mel scale, 2595 log10(1 + f / 700); one so narrow that no frequency of the window lies
in it, as happens among the lowest where many are asked for, is always silent. What is shown is decibels / 40 + 1, no
lower than -1: a full-scale sine reaches about 1 plus what its window gains, silence is -1.
"""

import math
import os
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from eyespot.data_pipeline.augment.views import AudioView, ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.random_numbers import numbers_below, words
from eyespot.data_pipeline.shards.members.captions import BadMember
from eyespot.data_pipeline.shards.members.sounds import open_sound
from eyespot.data_pipeline.terminal import plural

Ids = Int64[np.ndarray, " n"]
LOWEST = 1e-8
"""Power: 80 dB below that of 1."""


def see_sounds(
    files: Sequence[bytearray],
    view: AudioView,
    name: str,
    seed: int,
    epochs: Ids,
    ids: Ids,
    begins: Float64[np.ndarray, " n"] | None,
    out: Float32[np.ndarray, "n 1 mels frames"],
    rows: slice,
) -> None:
    """Writes the spectrograms of some samples.

    Args:
        files: the sounds of all samples.
        view: what is asked for.
        name: of the view.
        seed: of the run.
        epochs: how often each sample had been seen before.
        ids: of the samples.
        begins: where the view is ``of`` a clip, when each one's first frame is shown, seconds.
        out: where all go.
        rows: which samples.

    Raises:
        RuntimeError: one cannot be decoded.
    """
    draws = words(seed, epochs[rows], ids[rows], f"{name} sound", 1)[:, 0]
    for row, draw in zip(range(*rows.indices(len(files))), draws, strict=True):
        try:
            wave = heard(files[row], view, draw, None if begins is None else float(begins[row]))
        except BadMember as error:
            raise RuntimeError(str(error)) from error
        out[row, 0] = log_mel(torch.from_numpy(wave), view).numpy()


def heard(
    file: bytearray, view: AudioView, draw: np.uint32, begin: float | None = None
) -> Float32[np.ndarray, " samples"]:
    """The seconds of a sound that a view shows, one channel, at the view's rate; silence follows where it is shorter.

    Args:
        file: the sound.
        view: what is asked for.
        draw: where they begin, unless the view asks for the middle.
        begin: where they do instead, seconds; so near the end that they would not fit, they are the last ones.

    Raises:
        BadMember: it cannot be decoded.
    """
    with open_sound(file) as sound:
        rate, wanted = sound.samplerate, max(1, round(view.seconds * sound.samplerate))
        room = max(0, sound.frames - wanted)
        drawn = numbers_below(np.array([room + 1]), np.array([draw], np.uint32))
        start = int(drawn[0]) if view.place == "random" else room // 2
        start = start if begin is None else min(round(begin * rate), room)
        try:
            sound.seek(start)
            wave = sound.read(wanted, dtype="float32", always_2d=True).mean(1)
        except Exception as error:
            raise BadMember("its sound cannot be decoded") from error
    if rate != view.rate:
        from scipy.signal import resample_poly  # takes a while to import

        common = math.gcd(rate, view.rate)
        wave = resample_poly(wave, view.rate // common, rate // common).astype(np.float32)
    made = np.zeros(view.num_samples, np.float32)
    made[: len(wave)] = wave[: len(made)]
    return made


def log_mel(wave: Float[Tensor, " samples"], view: AudioView) -> Float[Tensor, "mels frames"]:
    """The spectrogram of a wave at the view's rate."""
    window = torch.hann_window(view.window, dtype=wave.dtype)
    spectrum = torch.stft(wave, view.window, view.hop, window=window, pad_mode="constant", return_complex=True)
    power = mel_triangles(view.rate, view.window, view.mels).to(wave) @ (spectrum.abs() / window.sum()).square()
    return 10 / 40 * power.clamp_min(LOWEST).log10() + 1


def check_sounds(views: ViewSpec, at_once: int) -> None:
    """Whether the spectrograms of so many samples fit into a fourth of this machine's memory.

    Raises:
        UserError: they do not.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for view in views.views:
        if not isinstance(view, AudioView):
            continue
        needed = 4 * math.prod(view.shape(views.views)) * at_once
        if needed > memory / 4:
            raise UserError(
                f"objective.sound.seconds {view.seconds:g}: the spectrograms of {plural(at_once, 'sample')} take"
                f" {needed / 1e9:,.1f} GB, more than a fourth of this machine's {memory / 1e9:,.0f} GB; lower it, raise"
                " objective.sound.hop, or make micro-batches smaller with --data.accumulate"
            )


@lru_cache(maxsize=8)
def mel_triangles(rate: int, window: int, mels: int) -> Float[Tensor, "mels bins"]:
    """What each mel takes of each frequency, 0..1."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)
    bins = np.linspace(0, rate / 2, window // 2 + 1)
    up = (bins - corners[:-2, None]) / np.diff(corners)[:-1, None]
    down = (corners[2:, None] - bins) / np.diff(corners)[1:, None]
    return torch.from_numpy(np.maximum(0, np.minimum(up, down)))
