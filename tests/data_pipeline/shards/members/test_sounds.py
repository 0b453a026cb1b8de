"""Sounds are decoded to their end before they count; what is none, or less than it says, is refused with a reason."""

import io

import numpy as np
import pytest
import soundfile
import torch

from eyespot.data_pipeline.shards.members.captions import BadMember
from eyespot.data_pipeline.shards.members.sounds import CONTAINERS, check_sound


def sound(container: str, seconds: float = 0.5, rate: int = 8000, channels: int = 1, **more) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, torch.rand(round(seconds * rate), channels).numpy() - 0.5, rate, format=container, **more)
    return stream.getvalue()


@pytest.mark.parametrize("extension", CONTAINERS)
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44_100, 2)])
def test_all_kinds_rates_and_channels_are_taken(extension: str, rate: int, channels: int):
    check_sound(extension)(sound(CONTAINERS[extension], rate=rate, channels=channels))


def test_what_is_no_sound_is_refused():
    whole = sound("WAV")
    unsound = io.BytesIO()
    soundfile.write(unsound, np.array([0.5, np.nan], np.float32), 8000, format="WAV", subtype="FLOAT")
    for extension, data, reason in (
        ("wav", b"", "cannot be decoded"),
        ("wav", b"RIFF", "cannot be decoded"),
        ("wav", sound("MP3"), "its .wav holds MP3, not WAV"),
        ("flac", whole, "its .flac holds WAV, not FLAC"),
        ("wav", sound("WAV", seconds=0), "empty"),
        ("wav", whole[: len(whole) // 2], "is cut after 0.2"),
        ("flac", sound("FLAC")[:-2000], "cannot be decoded beyond|is cut after"),
        ("wav", sound("WAV", rate=400), "400 samples a second"),
        ("wav", unsound.getvalue(), "not finite"),
    ):
        with pytest.raises(BadMember, match=reason):
            check_sound(extension)(data)
