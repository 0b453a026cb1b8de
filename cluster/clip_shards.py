"""Of ``eyespot shards`` what needs decoders and flow (videos into clips, what is made of clips), and what it tells."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge, Gt

from eyespot.cluster.arguments import parse
from eyespot.cluster.next_steps import say_next
from eyespot.data_pipeline.augment.views import Color
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.shards.frames import Frames
from eyespot.data_pipeline.shards.image_workers import NUM_WORKERS
from eyespot.data_pipeline.shards.manifest import Manifest, Reading
from eyespot.data_pipeline.shards.members.items import Source
from eyespot.data_pipeline.shards.paged.shard_table import total_bytes
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.sources import NAMED
from eyespot.data_pipeline.shards.video.track_patches import FRAMES
from eyespot.data_pipeline.shards.video.video_sources import LONGEST, MAX_FRAMES, cut, holds_videos, open_videos
from eyespot.data_pipeline.stores.location import Location
from eyespot.data_pipeline.terminal import one_line, plural

Shards = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS")]
Destination = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]

MEMBERS = {"txt": "caption", "depth.png": "depth map"}
"""What lies beside an image, by extension; all others are sounds."""
MOST_REASONS, NUM_EXAMPLES = 10, 3
"""So many reasons are printed for what was left out, and so many names with each."""


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
    sound and captions are left behind. Needs pip install "eyespot[video]".

    For example:

    eyespot shards motion data/films data/films-motion
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

    For example:

    eyespot shards tracks data/films data/films-patches
    """

    shards: Shards
    """A shard folder of clips, or a folder with its splits."""
    destination: Destination
    """A new or empty folder."""
    frames: Annotated[int, Ge(2)] = FRAMES
    """Frames of a stretch."""
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
    print(f"{out.resolve()}: {plural(rows, 'row')} of frames, the first to the last of a sample")
    say_next((["recipes"], "which methods learn from videos, and their recipes"))
    return ExitCode.DONE


def summary(folder: Location, manifest: Manifest) -> str:
    """Counts, sizes, statistics, and what was left out, a line each."""
    stats, kind = manifest.image_stats, "sample" if manifest.frames else "image"
    size = total_bytes(manifest.shards)
    lines = [
        f"{folder}: {one_line(manifest.name)}, {plural(manifest.num_samples, kind)},"
        f" {plural(manifest.num_labeled, 'label')}, {plural(len(manifest.classes), 'class', 'classes')}",
        f"  tars         {len(manifest.shards)}, {size / 1e6:,.1f} MB",
        f"  height       {_sides(stats.height)}",
        f"  width        {_sides(stats.width)}",
        f"  mean, std    {_color(stats.mean)}, {_color(stats.std)} ({manifest.bands or 'RGB'}, 0..1)",
    ]
    if masks := manifest.masks:
        most = sorted(enumerate(masks.pixels), key=lambda pair: -pair[1])[:5]
        shares = ", ".join(f"class {number} {count / sum(masks.pixels):.1%}" for number, count in most if count)
        more = ", ..." if len(masks.pixels) > len(most) else ""
        of = " samples" if manifest.frames else ""
        lines.append(
            f"  masks        {masks.num_masks:,}{of}, value {masks.ignored} ignored; of the pixels {shares}{more}"
        )
    if frames := manifest.frames:
        lines += _frame_lines(frames)
    for extension, members in manifest.members.items():
        one = MEMBERS.get(extension, "sound")
        lines.append(f"  {one + 's':<12} of {members.count:,} of {plural(manifest.num_samples, kind)} (.{extension})")
        lines += _left_out(members.left_out, plural(members.num_left_out, one))
    if manifest.converted:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in manifest.converted.items())
        lines.append(f"  converted    {kinds}")
        if manifest.bands is None and any(kind.startswith("16-bit") for kind in manifest.converted):
            lines.append("  note         of 16 bits 8 were kept; all are with --bands and how many bands images have")
    return "\n".join(lines + _left_out(manifest.quarantined, plural(len(manifest.quarantined), "image")))


def _left_out(found: list[dict[str, str]], what: str) -> list[str]:
    """What cannot be used, by reason."""
    if not found:
        return []
    examples: dict[str, list[str]] = {}
    for bad in found:
        examples.setdefault(bad["reason"], []).append(bad["source"])
    most = sorted(examples.items(), key=lambda pair: -len(pair[1]))
    return [
        f"  left out     {what} (named in manifest.json):",
        *_by_reason([(reason, len(names), names) for reason, names in most]),
    ]


def remarks(manifest: Manifest) -> list[str]:
    """What is no image, and what follows from the files as they are."""
    lines: list[str] = []
    if manifest.skipped:
        count = sum(one.count for one in manifest.skipped)
        lines.append(f"  skipped      {plural(count, 'file')} that are no images of the data set:")
        lines += _by_reason([(one.reason, one.count, one.examples) for one in manifest.skipped])
    return lines + [one_line(f"  note         {note}") for note in manifest.notes]


def _by_reason(found: list[tuple[str, int, list[str]]]) -> list[str]:
    """A line for each of the most frequent reasons, with the first names."""
    lines = []
    for reason, count, names in found[:MOST_REASONS]:
        more = ", ..." if count > min(len(names), NUM_EXAMPLES) else ""
        lines.append(one_line(f"    {count:>8,}  {reason}: {', '.join(names[:NUM_EXAMPLES])}{more}"))
    if rest := found[MOST_REASONS:]:
        lines.append(f"    {sum(count for _, count, _ in rest):>8,}  for {len(rest)} other reasons: see manifest.json")
    return lines


def _sides(sides: tuple[int, int, int]) -> str:
    smallest, median, largest = sides
    return f"{smallest} pixels" if smallest == largest else f"{smallest} to {largest} pixels, median {median}"


def _color(color: Color) -> str:
    return "(" + ", ".join(f"{channel:.3f}" for channel in color) + ")"


def _frame_lines(frames: Frames) -> list[str]:
    """What shards info says of frames."""
    fewest, median, most = frames.count
    each = f"{most} a sample" if fewest == most else f"{fewest} to {most} a sample, median {median}"
    slowest, middle, fastest = (f"{rate:g}" for rate in frames.rate)
    rate = f"{middle} per second" if slowest == fastest else f"{slowest} to {fastest} per second, median {middle}"
    rate = "rate unknown" if frames.rate[2] == 0 else rate
    lines = [f"  frames       {frames.num_frames:,}, {each}, {rate}{', with masks' if frames.masks_sha256 else ''}"]
    return lines + ([one_line(f"  cameras      {', '.join(frames.streams)}")] if len(frames.streams) > 1 else [])
