"""Those of ``eyespot shards`` that need decoders and flow: videos into clips, and what is made of clips."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge, Gt

from eyespot.cluster.arguments import parse
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.shards.image_workers import NUM_WORKERS
from eyespot.data_pipeline.shards.manifest import Manifest, Reading
from eyespot.data_pipeline.shards.members.items import Source
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.sources import NAMED
from eyespot.data_pipeline.shards.video.track_patches import FRAMES
from eyespot.data_pipeline.shards.video.video_sources import LONGEST, MAX_FRAMES, cut, holds_videos, open_videos

Shards = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS")]
Destination = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]


@dataclass(kw_only=True)  # no slots: Pack has another parent with some
class Videos:
    """What is to become of videos; any of these says that SRC holds videos."""

    fps: Annotated[float, Gt(0)] | None = None
    """Frames per second to keep, by their times; without it every frame is kept."""
    segment: Annotated[float, Gt(0)] | None = None
    """Seconds of the longest sample: a longer video becomes several of about one length. 60 where nothing is said."""
    sound: bool = False
    """Keep the sound of videos, beside their frames (KEY.flac)."""
    max_frames: Annotated[int, Ge(1)] | None = None
    """Videos of more frames, after --fps, are left out and named. 100,000 where nothing is said."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def opened(
        self, source: str, resize: int | None, max_pixels: int, workers: int, reading: Reading
    ) -> str | Callable[[Path], Source]:
        """What ``pack`` takes: the source's name, or what makes clips of its videos."""
        asked = self.sound or (self.fps, self.segment, self.max_frames) != (None, None, None)
        if not asked and (source in NAMED or not holds_videos(source)):
            return source
        wanted = cut(
            fps=self.fps,
            resize=resize,
            segment=self.segment or LONGEST,
            sound=self.sound,
            max_pixels=max_pixels,
            max_frames=self.max_frames or MAX_FRAMES,
        )
        return lambda work: open_videos(source, work / "videos", wanted, workers, reading)


@dataclass(kw_only=True, slots=True)
class Motion:
    """Write clips again with a mask of what moves beside each frame (KEY.007.seg.png), for motion_segmentation.

    A mask is 1 where things move against the camera, 0 where they rest, and 255 where that is uncertain: optical flow
    minus the homography that most of it obeys. These are pseudo-labels, nobody's annotation. Frames keep their bytes;
    sound is left behind. Needs pip install "eyespot[video]".
    """

    shards: Shards
    """A shard folder of clips, or a folder with its splits."""
    destination: Destination
    """A new or empty folder."""
    workers: int = NUM_WORKERS
    """Processes; does not change the result."""


@dataclass(kw_only=True, slots=True)
class Tracks:
    """Write pairs of patches: what moves in a clip, and the same some frames later, for tracked_patches.

    Each stretch of --frames frames gives one sample of two frames, the patch as the stretch begins and as it ends; one
    in which nothing moves by itself is left out and named. Needs pip install "eyespot[video]".
    """

    shards: Shards
    """A shard folder of clips, or a folder with its splits."""
    destination: Destination
    """A new or empty folder."""
    frames: Annotated[int, Ge(2)] = FRAMES
    """Of a stretch."""
    workers: int = NUM_WORKERS
    """Processes; does not change the result."""

    def __post_init__(self) -> None:
        check_ranges(self)


def motion(argv: list[str]) -> tuple[Path, dict[str, Manifest]]:
    """Runs ``eyespot shards motion``; where the shards went, and their manifests."""
    from eyespot.data_pipeline.shards.pack import pack
    from eyespot.data_pipeline.shards.video.motion_masks import open_masked

    asked = parse(Motion, argv, "eyespot shards motion")
    manifests = pack(lambda _: open_masked(asked.shards), asked.destination, workers=asked.workers)
    return asked.destination, manifests


def tracks(argv: list[str]) -> tuple[Path, dict[str, Manifest]]:
    """Runs ``eyespot shards tracks``; where the shards went, and their manifests."""
    from eyespot.data_pipeline.shards.pack import pack
    from eyespot.data_pipeline.shards.video.track_patches import open_tracks

    asked = parse(Tracks, argv, "eyespot shards tracks")
    manifests = pack(lambda _: open_tracks(asked.shards, asked.frames), asked.destination, workers=asked.workers)
    return asked.destination, manifests


def show_frames(shards: ShardFolder, out: Path, samples: int) -> int:
    """Draws the frames of the first samples."""
    from eyespot.data_pipeline.shards.video.contact_sheet import draw_frames

    if shards.manifest.frames is None:
        raise UserError(
            f"recipe: missing; {shards.path} holds single images, and what is drawn are the views that a recipe makes"
            " of them: name one with --recipe, as eyespot recipes lists them"
        )
    rows = draw_frames(shards, out, samples)
    print(f"{out.resolve()}: {rows:,} {'row' if rows == 1 else 'rows'} of frames, the first to the last of a sample")
    return ExitCode.DONE
