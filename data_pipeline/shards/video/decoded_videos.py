"""Decodes all videos of a source once, into a spool folder of JPEG frames that packing then reads as it reads images.

    SPOOL/<digest>.frames   the JPEG files of one video, one behind another, then the FLAC of its parts
    SPOOL/<digest>.json     where they lie and when they are shown, or why the video is not taken

The digest is of the video's name, place, size and time of change, and of all that is wanted of it. So a killed pack
goes on with the videos that it has, and one with other options does not take them for its own.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from eyespot.data_pipeline import atomic_files, foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.outside.apart import Lost, each
from eyespot.data_pipeline.shards.video.decode import BadVideo, Ending, Wanted, frames
from eyespot.data_pipeline.shards.video.sound import write_flac
from eyespot.data_pipeline.shards.video.timing import Part, parts, rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """What is to become of videos as samples."""

    frames: Wanted
    longest: float | None = None
    """Seconds of one sample; a longer video becomes several. None = each video is one."""
    sound: bool = False
    """Whether their sound is kept."""


class Video(NamedTuple):
    """One video of a source."""

    name: str
    place: Place


class Sample(NamedTuple):
    """What one sample of a video consists of."""

    name: str
    """The video's, with the seconds that it is of (#t=60,120) where there are several."""
    frames: list[Place]
    """JPEG files in the order of time; a frame that is shown for several ticks stands there as often."""
    rate: float
    """Frames per second; 0 = unknown."""
    sound: Place | None
    """FLAC."""


@dataclass(kw_only=True, slots=True)
class Decoded:
    """One video in the spool."""

    reason: str = ""
    """Why it is not taken."""
    rate: float = 0.0
    is_variable: bool = False
    frames: list[tuple[int, int, int]] = field(default_factory=list)
    """Offset and size of each JPEG, and how often it is seen in a row."""
    parts: list[Part] = field(default_factory=list)
    sounds: list[tuple[int, int]] = field(default_factory=list)
    """Offset and size of the FLAC of each part; [] = no sound, or none wanted."""


class _Job(NamedTuple):
    place: Place
    stem: str
    cut: Cut


def decode_all(videos: list[Video], folder: Path, cut: Cut, workers: int) -> list[list[Sample] | str]:
    """Decodes what is not decoded yet; for each video in turn its samples, or the reason why there are none.

    Args:
        videos: what to decode.
        folder: the spool, made where it is missing.
        cut: what is wanted of them.
        workers: processes that decode.

    Raises:
        UserError: a worker process was killed from outside.
        OSError: the disk is full, or something else is wrong with it.
    """
    folder.mkdir(exist_ok=True)
    stems = [folder / _digest(video, cut) for video in videos]
    jobs = {str(stem): _Job(video.place, str(stem), cut) for video, stem in zip(videos, stems, strict=True)}
    todo = [job for stem, job in jobs.items() if _load(Path(stem)) is None]
    lost: dict[str, str] = {}
    with ProgressBar("decoding videos", len(jobs), done=len(jobs) - len(todo)) as bar:
        for job, result in each(todo, decode_into, workers):
            if isinstance(result, Lost):
                lost[job.stem] = result
                Path(f"{job.stem}.frames").unlink(missing_ok=True)
            bar.advance()
    found: list[list[Sample] | str] = []
    for video, stem in zip(videos, stems, strict=True):
        decoded = Decoded(reason=lost[str(stem)]) if str(stem) in lost else _load(stem)
        assert decoded is not None
        found.append(decoded.reason or _samples(video, decoded, f"{stem}.frames"))
    return found


def variable_rates(videos: list[Video], folder: Path, cut: Cut) -> list[str]:
    """Names of those decoded videos whose frames are shown for very different times, as they are kept."""
    found = ((video, _load(folder / _digest(video, cut))) for video in videos)
    return [video.name for video, decoded in found if decoded is not None and decoded.is_variable]


def decode_into(job: _Job, alive: Callable[[], None]) -> None:
    """Decodes one video into the spool: the work of one process.

    Raises:
        OSError: the disk is full, or something else is wrong with it.
    """
    stem, path = Path(job.stem), Path(f"{job.stem}.frames")
    try:
        decoded = _decode(job, path, alive)
    except BadVideo as error:
        decoded = Decoded(reason=str(error))
        path.unlink(missing_ok=True)
    atomic_files.write_bytes(stem.with_suffix(".json"), msgspec.json.encode(asdict(decoded)))


def _decode(job: _Job, path: Path, alive: Callable[[], None]) -> Decoded:
    wanted, ending, offset = job.cut.frames, Ending(), 0
    decoded, times = Decoded(), list[float]()
    with path.open("w+b") as file:
        for frame in frames(job.place, wanted, ending, alive):
            decoded.frames.append((offset, len(frame.jpeg), frame.repeats))
            times.append(frame.time)
            offset += file.write(frame.jpeg)
        end = ending.seconds
        if wanted.fps is None:
            decoded.rate, decoded.is_variable = rate(times, end)
        else:
            count = sum(repeats for _, _, repeats in decoded.frames)
            decoded.rate, times, end = wanted.fps, [tick / wanted.fps for tick in range(count)], count / wanted.fps
        decoded.parts = parts(times, end, job.cut.longest)
        if job.cut.sound:
            decoded.sounds = write_flac(job.place, ending.start, decoded.parts, file, alive)
        file.flush()
        atomic_files.sync(file.fileno())
    return decoded


def _digest(video: Video, cut: Cut) -> str:
    changed = Path(video.place.path).stat().st_mtime_ns
    return hashlib.sha256(repr((video.name, tuple(video.place), changed, asdict(cut))).encode()).hexdigest()[:32]


def _load(stem: Path) -> Decoded | None:
    """What was decoded; None = nothing, or it is damaged."""
    with suppress(UserError, OSError):
        decoded = foreign_json.read(stem.with_suffix(".json"), Decoded)
        end = max((offset + size for offset, size, *_ in [*decoded.frames, *decoded.sounds]), default=0)
        if decoded.reason or stem.with_suffix(".frames").stat().st_size >= end > 0:
            return decoded
    return None


def _samples(video: Video, decoded: Decoded, path: str) -> list[Sample]:
    places = [Place(path, offset, size) for offset, size, repeats in decoded.frames for _ in range(repeats)]
    sounds: list[Place | None] = [Place(path, offset, size) for offset, size in decoded.sounds]
    several = len(decoded.parts) > 1
    return [
        Sample(
            f"{video.name}#t={part.start:.3f},{part.end:.3f}" if several else video.name,
            places[part.first : part.first + part.count],
            decoded.rate,
            sound,
        )
        for part, sound in zip(decoded.parts, sounds or [None] * len(decoded.parts), strict=True)
    ]
