"""Folders, tars and single files of videos as sources: found by suffix, decoded into a spool, cut into samples."""

import os
from functools import partial
from pathlib import Path

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.image_check import MAX_PIXELS
from eyespot.data_pipeline.shards.image_check import SUFFIXES as IMAGE_SUFFIXES
from eyespot.data_pipeline.shards.manifest import Reading
from eyespot.data_pipeline.shards.members.archives import TAR, Place, plain_tar
from eyespot.data_pipeline.shards.members.footage import FrameFile, FrameFiles, Refused
from eyespot.data_pipeline.shards.members.found_files import FoundFile, parts_of
from eyespot.data_pipeline.shards.members.items import Item, Source
from eyespot.data_pipeline.shards.members.side_files import EXTENSIONS, Beside
from eyespot.data_pipeline.shards.members.skipped import Tally, hidden, no_image, printable
from eyespot.data_pipeline.shards.members.tar_members import scan
from eyespot.data_pipeline.shards.sources import arrange, walk
from eyespot.data_pipeline.shards.video.containers import MOVING_IMAGE, SUFFIXES, check_installed
from eyespot.data_pipeline.shards.video.decode import LARGEST_FRAME, Wanted
from eyespot.data_pipeline.shards.video.decoded_videos import Cut, Sample, Video, decode_all, variable_rates
from eyespot.data_pipeline.terminal import plural

MAX_FRAMES = 100_000
"""Of one video, where nobody says otherwise: an hour of 28 a second."""
LONGEST = 60.0
"""Seconds of one sample, where nobody says otherwise."""
_NAMED = 3


def cut(
    *,
    fps: float | None = None,
    resize: int | None = None,
    segment: float = LONGEST,
    sound: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_frames: int = MAX_FRAMES,
) -> Cut:
    """What is to become of videos.

    Args:
        fps: frames per second; None = every frame is kept.
        resize: pixels of the short side; smaller frames stay as they are.
        segment: seconds of the longest sample; longer videos become several of about one length.
        sound: whether it is kept.
        max_pixels: a video of larger frames is left out.
        max_frames: a video of more frames is left out.

    Raises:
        UserError: one of them cannot be.
    """
    if fps is not None and not 0 < fps <= 1000:
        raise UserError(f"fps {fps}: must lie above 0, and not above 1000")
    if not 0 < segment < float("inf"):
        raise UserError(f"segment {segment}: must be seconds above 0")
    if max_frames < 1:
        raise UserError(f"max_frames {max_frames}: must be 1 or more")
    frames = Wanted(fps=fps, resize=resize, max_pixels=min(max_pixels, LARGEST_FRAME), max_frames=max_frames)
    return Cut(frames=frames, longest=segment, sound=sound)


def holds_videos(source: str) -> bool:
    """Whether a source is a video, or a folder that holds videos and neither images nor tars, seen as ``walk`` does.

    Raises:
        UserError: a folder cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path.suffix.lower() in SUFFIXES
    if not path.is_dir():
        return False
    found = False
    for name, _, size in walk(path, Tally()):
        if size is None or hidden(parts_of(name)) is not None:
            continue
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
        if suffix in IMAGE_SUFFIXES - {MOVING_IMAGE} or TAR.search(name):
            return False
        found = found or suffix in SUFFIXES
    return found


def open_videos(source: str, spool: Path, wanted: Cut, workers: int, reading: Reading) -> Source:
    """Lists the videos of a source; prepared, they are decoded, and its items the samples that they make.

    Args:
        source: a video, a folder of videos (with or without class folders, with or without train/test/val above them),
            or a tar of such a folder.
        spool: a folder for the frames.
        wanted: what is to become of them.
        workers: processes that decode.
        reading: how to understand what can be understood in several ways.

    Raises:
        UserError: PyAV is not installed, there is no such source, or no video in it.
    """
    check_installed()
    path = Path(source).expanduser()
    if not path.is_file() and not path.is_dir():  # a pipe would be waited for
        raise UserError(f"source {source}: no such file or folder; it should be a video, or hold videos")
    skipped = Tally()
    files = _files(path, spool, skipped)
    if not files:
        most = ", ".join(f"{one.count} {one.reason}" for one in skipped.listed()[:3])
        raise UserError(
            f"source {source}: no videos inside"
            f" ({plural(skipped.total, 'other file')}{': ' * bool(most)}{most}); videos end in"
            f" {', '.join(sorted(SUFFIXES | {MOVING_IMAGE}))}"
        )
    found = arrange(printable(path.resolve().name), files, f"source {source}", skipped, reading)
    limits = {"max_frames": wanted.frames.max_frames} if wanted.frames.max_frames != MAX_FRAMES else {}
    found.options = {"fps": wanted.frames.fps, "segment": wanted.longest, "sound": wanted.sound, **limits}
    found.prepare = partial(_decode, spool=spool, wanted=wanted, workers=workers)
    return found


def _decode(found: Source, spool: Path, wanted: Cut, workers: int) -> None:
    """Makes the samples of its videos a source's items."""
    items = [item for split in sorted(found.splits) for item in found.splits[split]]
    if any(item.mask for item in items):
        raise UserError("masks: videos take none; pack the folders of their frames, with the folders of their masks")
    videos = [_video(item) for item in items]
    decoded = dict(zip(videos, decode_all(videos, spool, wanted, workers), strict=True))
    found.splits = {
        split: [part for item in items for part in _items(item, decoded[_video(item)])]
        for split, items in found.splits.items()
    }
    found.notes += _notes(videos, decoded, spool, wanted)


def _files(path: Path, spool: Path, skipped: Tally) -> list[FoundFile]:
    if path.is_dir():
        listed = [
            (name, Place(file, 0, size) if size is not None else None) for name, file, size in walk(path, skipped)
        ]
    elif path.suffix.lower() in SUFFIXES | {MOVING_IMAGE}:
        listed = [(path.name, Place(str(path), 0, path.stat().st_size))]
    else:
        spool.mkdir(exist_ok=True)
        tar = plain_tar(path, spool)
        if tar != path:  # unpacked anew each time; its videos' frames are known by place and time
            changed = path.stat().st_mtime_ns
            os.utime(tar, ns=(changed, changed))
        members = scan(tar)
        if members.problem:
            raise UserError(f"source {path}: {members.problem}; fetch the archive again")
        skipped.add_all(members.skipped)
        listed = [(name, Place(str(tar), offset, size)) for name, offset, size in members.files]
    files: list[FoundFile] = []
    for name, place in listed:
        parts = parts_of(name)
        if (reason := hidden(parts) or _no_video(name, place)) is not None:
            skipped.add(reason, name)
        elif place is not None:
            files.append(FoundFile(name, parts, place))
    return files


def _no_video(name: str, place: Place | None) -> str | None:
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    if suffix in SUFFIXES or suffix == MOVING_IMAGE:
        if place is None:
            return "a device, a pipe or the like"
        return None if os.path.exists(place.path) else "a link to nothing"  # noqa: PTH110
    return (
        "an image beside the videos" if suffix in IMAGE_SUFFIXES else no_image(name).replace("not an image", "no video")
    )


def _video(item: Item) -> Video:
    return Video(item.name, Place(item.path, item.offset, item.size))


def _items(item: Item, found: list[Sample] | str) -> list[Item]:
    """The samples of one video; one that tells why there are none."""
    if isinstance(found, str):
        return [Item(item.name, item.label, "", 0, 0, frames=Refused(found))]
    return [Item(sample.name, item.label, "", 0, 0, frames=_frames(sample), members=_sound(sample)) for sample in found]


def _sound(sample: Sample) -> Beside:
    """Where views find it; without soundfile nothing could check it."""
    return (("flac", sample.sound),) if sample.sound and "flac" in EXTENSIONS else ()


def _frames(sample: Sample) -> FrameFiles:
    files = [FrameFile(f"frame {number}", place) for number, place in enumerate(sample.frames)]
    return FrameFiles(files={"": files}, rate=sample.rate, sound=sample.sound and ("flac", sample.sound))


def _notes(videos: list[Video], decoded: dict[Video, list[Sample] | str], spool: Path, wanted: Cut) -> list[str]:
    notes: list[str] = []
    parts = [found for found in decoded.values() if not isinstance(found, str)]
    if long := [found for found in parts if len(found) > 1]:
        many, total = f"{len(long)} of {plural(len(parts), 'video')}", sum(map(len, long))
        notes.append(
            f"{many} are longer than {wanted.longest:g} s, and were cut into {plural(total, 'sample')} (--segment)"
        )
    if variable := variable_rates(videos, spool, wanted):
        some = ", ".join(variable[:_NAMED]) + ", ..." * (len(variable) > _NAMED)
        notes.append(f"the frame rate varies in {len(variable)} ({some}): noted is its mean; --fps makes it even")
    if wanted.sound and (silent := [found for found in parts if found[0].sound is None]):
        notes.append(f"{len(silent)} of {plural(len(parts), 'video')} have no sound")
    return notes
