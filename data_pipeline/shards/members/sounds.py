"""Sound files: WAV, FLAC and Ogg, read through libsndfile, at whatever rate and with however many channels they have.

``pip install "eyespot[sound]"`` brings it; without it sound beside images is not packed, and counted.
"""

import importlib.util
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from eyespot.data_pipeline.shards.members.captions import BadMember

HAS_SOUNDFILE = importlib.util.find_spec("soundfile") is not None
CONTAINERS = {"flac": "FLAC", "ogg": "OGG", "wav": "WAV"}
"""By extension, what the bytes must be."""
LARGEST_SOUND = 2**30
"""Bytes."""
RATES = (1_000, 384_000)
"""Lowest and highest, samples a second."""
MOST_CHANNELS = 64
BLOCK = 1 << 16
"""Samples that are decoded at once."""


def open_sound(data: bytes | bytearray) -> Any:
    """A ``soundfile.SoundFile``.

    Raises:
        BadMember: the bytes are no sound of a known kind.
    """
    import soundfile

    try:
        return soundfile.SoundFile(io.BytesIO(data))
    except Exception as error:  # hostile bytes: LibsndfileError, RuntimeError, TypeError ("" is raw)
        raise BadMember("its sound cannot be decoded") from error


def check_sound(extension: str) -> Callable[[bytes | bytearray], None]:
    """What decodes a file of that extension from end to end.

    It raises BadMember where that fails, or the bytes are of another container (MP3 called .wav), hold no sound, fewer
    samples than they say, or have an absurd rate.
    """

    def check(data: bytes | bytearray) -> None:
        with open_sound(data) as sound:
            container, rate = sound.format.removesuffix("EX"), sound.samplerate
            if container != CONTAINERS[extension]:
                raise BadMember(f"its .{extension} holds {sound.format}, not {CONTAINERS[extension]}")
            if not RATES[0] <= rate <= RATES[1] or not 1 <= sound.channels <= MOST_CHANNELS:
                raise BadMember(f"its sound has {rate} samples a second and {sound.channels} channels")
            told, found = sound.frames, 0
            try:
                while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                    found += len(block)
                    if not np.isfinite(block).all():
                        raise BadMember("its sound holds numbers that are not finite")
            except BadMember:
                raise
            except Exception as error:
                raise BadMember(f"its sound cannot be decoded beyond {found / rate:.2f} seconds") from error
        if not found:
            raise BadMember("its sound is empty")
        if found != told or _is_cut(data):
            raise BadMember(f"its sound is cut after {found / rate:.2f} seconds")

    return check


def _is_cut(data: bytes | bytearray) -> bool:
    """Whether a WAV file is shorter than it says, which libsndfile does not mind; a stream's says nothing."""
    told = int.from_bytes(data[4:8], "little")
    return data[:4] == b"RIFF" and told not in (0, 2**32 - 1) and told + 8 > len(data) + 1
