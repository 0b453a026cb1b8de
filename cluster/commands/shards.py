"""``eyespot shards``: packs images and videos into shards, checks them, looks at them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from annotated_types import Ge, Le

from eyespot.cluster.arguments import parse
from eyespot.cluster.clip_shards import Videos, motion, remarks, show_frames, summary, tracks
from eyespot.cluster.help_text import show_help, unknown_command
from eyespot.cluster.next_steps import after_packing, say_next
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.progress_bar import working
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.shards.frames import FASTEST, FrameNames
from eyespot.data_pipeline.shards.image_check import MAX_PIXELS
from eyespot.data_pipeline.shards.image_workers import NUM_WORKERS
from eyespot.data_pipeline.shards.manifest import IGNORED, Manifest, Reading
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.sources import DOWNLOADS, how_to_shard
from eyespot.data_pipeline.terminal import brief, one_line, plural

USAGE = """usage: eyespot shards COMMAND ...

  pack SRC DST    write images or videos as shards: WebDataset tars, indexes, a manifest
  index DIR       index tars that another tool wrote, where they lie
  verify DIR      check every byte, image and number; exit code 2 if something is wrong
  info DIR        show what a shard folder holds
  show DIR        draw the views that a recipe makes of its images, or the frames of its videos
  motion DIR DST  write clips again, with masks of what moves in them
  tracks DIR DST  write pairs of patches: what moves in clips, and the same some frames later

  eyespot shards COMMAND --help   what a command takes

For example:
  eyespot shards pack caltech10 data/caltech10
  eyespot shards pack photos/ data/photos --holdout 0.2 --resize 256
  eyespot shards pack films/ data/films --fps 8 --resize 256
  eyespot shards pack VOC/JPEGImages data/voc --masks VOC/SegmentationClass --holdout 0.5
  eyespot shards pack DAVIS/JPEGImages/480p data/davis --frames folder --rate 24 --masks DAVIS/Annotations/480p
  eyespot shards info data/photos
  eyespot shards show data/photos --recipe mae_vitb16_in1k
"""

HELD_OUT = ("test", "val")
Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]


@dataclass(kw_only=True, slots=True)
class Readings:
    """How to understand what can be understood in several ways; where it matters, the command stops and asks."""

    key: Literal["first-dot", "last-dot"] | None = None
    """What the members of one sample in a tar share: their name up to its first dot, which is WebDataset's rule, or up
    to its last, where names have dots of their own (IMG_2022.05.01.jpg)."""
    image_extension: tuple[str, ...] = ()
    """Which members of a tar are the images: what follows the key, best first: jpg png, or depth.png."""
    label_extension: str = "cls"
    """Which members of a tar are the labels: what follows the key."""
    class_folder: Literal["top", "last"] = "top"
    """Which folder is the class, where folders lie in folders and there are no labels."""
    frames: FrameNames | None = None
    """Which images are the frames of one sample, as of a video: folder (VIDEO/000.jpg), camera (VIDEO/LEFT/000.jpg,
    VIDEO/RIGHT/000.jpg), dot (VIDEO.000.jpg, VIDEO.left.000.jpg), underscore (VIDEO_000.jpg); none: each image is a
    sample. Where nobody says: dot in tars where all images are called so, with three digits or more from 000 or 001 on
    without a gap; else none."""
    rate: Annotated[float, Ge(0), Le(FASTEST)] | None = None
    """Frames per second, where the files do not say."""
    max_pixels: Annotated[int, Ge(1)] = MAX_PIXELS
    """Images with more pixels (height times width) are left out and named."""

    @property
    def reading(self) -> Reading:
        """What reads tars takes these together."""
        return Reading(
            key=self.key,
            image_extension=self.image_extension,
            label_extension=self.label_extension,
            class_folder=self.class_folder,
            frames=self.frames,
            rate=self.rate,
        )

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(kw_only=True, slots=True)
class Pack(Readings, Videos):
    """Write images or videos as shards that the loader reads.

    SRC is a folder of images, a tar (also .tar.gz, .tar.bz2, .tar.xz) or zip of such a folder, WebDataset tars or a
    folder of them, a folder of MNIST's IDX files, or one of the names digits, caltech10 (2,000 photographs that come
    with eyespot), falling-digits (1,000 generated clips of two cameras), cifar10, cifar100, mnist, fashion-mnist.
    Folders inside are classes; train/, test/ or val/ above them are splits, written as DST/train and DST/test. Images
    that are no RGB or gray JPEG or PNG are converted (transparency is laid on white, EXIF rotation applied, animations
    give their first frame); broken ones are left out and named. HEIC is read with pip install "eyespot[heic]". Run the
    same command again to go on after an interruption.

    With --masks, the segmentation mask of each image is packed beside it (KEY.jpg, KEY.seg.png): for SRC/a/1.jpg that
    is MASKS/a/1.png, an 8-bit gray or palette PNG of the image's size, whose values are class numbers. Images whose
    mask is missing, broken or of another size are left out and named.

    Captions of an image are packed beside it too (KEY.txt): the lines of SRC/a/1.txt for SRC/a/1.jpg, or what
    --captions says. So are a depth map (a/1.depth.png, 16-bit gray) and a sound (a/1.wav, .flac, .ogg). Those that
    cannot be used are left out and named; their images stay.

    SRC may also be a video (mp4, mov, mkv, webm, avi, gif), a folder of them, or a tar of such a folder: each becomes a
    sample of many frames (KEY.000.jpg, KEY.001.jpg, ...), turned upright, JPEG of quality 95. Videos are decoded once
    from end to end, in processes that a hostile file may crash; those that are cut, damaged or of absurd size are left
    out and named. Beside images, or where there are GIFs only, videos are meant if --fps, --segment, --sound or
    --max-frames is given. Frames lie twice on the disk while packing. Needs pip install "eyespot[video]".

    With --frames, images are the frames of samples: SRC/CLASS/VIDEO/00000.jpg with --frames folder. They are sorted by
    the number at the end of their names. A sample with a bad frame, or frames of several sizes, is left out and named;
    with --masks some of its frames must have one.

    For example:

    eyespot shards pack photos/ data/photos --holdout 0.2 --resize 256

    eyespot shards pack films/ data/films --fps 8 --resize 256
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """What to pack."""
    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """A new or empty folder."""
    masks: Path | None = None
    """Folder of segmentation masks, for dense evaluation."""
    mask_ignored: int = IGNORED
    """The value in a mask that says nothing: 255 in Pascal VOC and Cityscapes, 0 in ADE20K. Where 255 is the object, as
    in DAVIS-2016: one that no mask has, 254."""
    captions: Path | None = None
    """A .csv or .jsonl file with the columns file (as in SRC) and caption; an image may stand there several times."""
    max_samples: int = 10_000
    """Most samples in one tar."""
    max_bytes: int = 500_000_000
    """Largest tar, bytes."""
    resize: int | None = None
    """Shrink images so that their short side has this many pixels; smaller ones stay as they are."""
    holdout: float | None = None
    """Share of each class to hold out as test, such as 0.2; for sources without splits."""
    seed: int = 0
    """Of the shuffle and the holdout."""
    workers: int = NUM_WORKERS
    """Processes that read and decode; does not change the result."""
    downloads: Path = DOWNLOADS
    """Where the named data sets are kept, and downloaded to."""


@dataclass(kw_only=True, slots=True)
class Index(Readings):
    """Index WebDataset tars that another tool wrote (img2dataset, tar --sort=name), where they lie.

    The tars stay as they are; index.npy, manifest.json and an .idx beside each tar are written. Images that would
    have to be rewritten (CMYK, transparent, 16-bit, WebP, ...) or are broken are left out and named, as is everything
    else that is in the tars. EXIF orientation is not applied: eyespot shards pack DIR DST rewrites and turns.

    For example:

    eyespot shards index tars/ --image-extension jpg
    """

    folder: Folder
    """The folder that holds the .tar files."""
    workers: int = NUM_WORKERS
    """Processes that read and decode."""


@dataclass(kw_only=True, slots=True)
class Verify:
    """Read every byte and decode every image of a shard folder; print one line for each problem.

    Finds changed and cut tars, missing or stale indexes, and a manifest that does not tell the truth. It also says how
    many images of a held-out split are in train too, byte by byte, and whether tars are sorted so that batches would
    hold few classes; neither is a problem of the files.

    For example:

    eyespot shards verify data/photos
    """

    folder: Folder
    """A shard folder, or a folder of them, however deep: all are looked at."""
    workers: int = NUM_WORKERS
    """Processes that read and decode."""


@dataclass(kw_only=True, slots=True)
class Info:
    """Show what a shard folder holds: counts, sizes in pixels and MB, statistics of colours, classes.

    For example:

    eyespot shards info data/photos
    """

    folder: Folder
    """A shard folder, or a folder of them (train, test)."""


@dataclass(kw_only=True, slots=True)
class Show:
    """Write a PNG with the views that a recipe makes, so that you can see its augmentation; or the frames of videos.

    With a recipe, one row per image: its middle as it is, then the recipe's views of it in the first three epochs of a
    run. They are exactly those that a run with the recipe's seed trains on; captions are printed. Without one, a row of
    frames for each of the first samples, and for each camera, where samples have frames.

    For example:

    eyespot shards show data/photos --recipe mae_vitb16_in1k --out views.png

    eyespot shards show data/films
    """

    folder: Folder
    """A shard folder, or a folder with train/ inside."""
    recipe: str | None = None
    """A name from eyespot recipes, or package.module:function."""
    out: Path = Path("views.png")
    """Where to write; by default into the current folder."""
    samples: Annotated[int, Ge(1)] = 8
    """How many images, the first that a run sees."""

    def __post_init__(self) -> None:
        check_ranges(self)


def main(argv: list[str]) -> int:
    """Runs ``eyespot shards`` and returns the exit code."""
    commands = {"pack": _pack, "index": _index, "verify": _verify, "info": _info, "show": _show}
    commands |= {"motion": partial(_derive, motion), "tracks": partial(_derive, tracks)}
    if not argv or argv[0] in ("-h", "--help"):
        show_help(USAGE)
        return ExitCode.DONE if argv else ExitCode.WRONG_INPUT
    if argv[0] not in commands:
        raise UserError(unknown_command(argv[0], list(commands), "eyespot shards"))
    return commands[argv[0]](argv[1:])


def _pack(argv: list[str]) -> int:
    from eyespot.data_pipeline.shards.pack import pack
    from eyespot.data_pipeline.shards.split_overlap import overlaps

    asked = parse(Pack, argv, "eyespot shards pack")
    manifests = pack(
        asked.opened(asked.source, asked.resize, asked.max_pixels, asked.workers, asked.reading),
        asked.destination,
        masks=asked.masks,
        mask_ignored=asked.mask_ignored,
        captions=asked.captions,
        max_samples=asked.max_samples,
        max_bytes=asked.max_bytes,
        resize=asked.resize,
        max_pixels=asked.max_pixels,
        holdout=asked.holdout,
        workers=asked.workers,
        seed=asked.seed,
        downloads=asked.downloads,
        reading=asked.reading,
    )
    for split, manifest in manifests.items():
        print(summary(asked.destination / split, manifest))
    for line in remarks(next(iter(manifests.values()))):
        print(line)
    for overlap in overlaps(asked.destination / split for split in manifests):
        print(overlap)
    after_packing(asked.destination, next(iter(manifests.values())).name)
    return ExitCode.DONE


def _derive(command: Callable[[list[str]], tuple[Path, dict[str, Manifest]]], argv: list[str]) -> int:
    destination, manifests = command(argv)
    for split, manifest in manifests.items():
        print("\n".join([summary(destination / split, manifest), *remarks(manifest)]))
    say_next((["shards", "show", destination], "draws their frames"))
    return ExitCode.DONE


def _index(argv: list[str]) -> int:
    from eyespot.data_pipeline.shards.index_tars import index_folder

    asked = parse(Index, argv, "eyespot shards index")
    manifest = index_folder(asked.folder, asked.workers, asked.reading, asked.max_pixels)
    print("\n".join([summary(asked.folder, manifest), *remarks(manifest)]))
    for line in _order_notes(asked.folder):
        print(line)
    after_packing(asked.folder, manifest.name)
    return ExitCode.DONE


def _verify(argv: list[str]) -> int:
    from eyespot.data_pipeline.shards.verify import look_at

    asked = parse(Verify, argv, "eyespot shards verify")
    found = look_at(asked.folder, asked.workers)
    notes = found.notes + [line for folder in found.sound for line in _order_notes(folder)]
    for line in [*found.problems, *found.unreadable, *notes]:
        print(one_line(line))
    looked_at = plural(len(found.folders), "shard folder")
    unwell = len(found.folders) - len(found.sound)
    if not found.problems and not found.unreadable:
        print(f"{asked.folder}: all is well ({looked_at})")
        say_next((["shards", "info", asked.folder], "what they hold: counts, sizes, classes"))
        return ExitCode.DONE
    if found.folders:
        print(f"{asked.folder}: looked at {looked_at}, {unwell} of them not well")
    return ExitCode.WRONG_INPUT if found.problems else ExitCode.FAILED


def _order_notes(folder: Path) -> list[str]:
    """Whether batches of a folder that may be learned from would be mixed."""
    from eyespot.data_pipeline.loading.class_mixing import mixing_notes

    return mixing_notes(ShardFolder(folder)) if folder.name not in HELD_OUT else []


def _info(argv: list[str]) -> int:
    from eyespot.data_pipeline.shards.verify import shard_folders

    asked, refused, said = parse(Info, argv, "eyespot shards info"), list[str](), list[str]()
    folders = shard_folders(asked.folder, refused)
    if not folders:
        raise UserError(f"shards {asked.folder}: none there; {how_to_shard(asked.folder)}")
    for folder in folders:
        shards = ShardFolder(folder)
        manifest, labels = shards.manifest, shards.index["label"]
        more = remarks(manifest)
        print("\n".join([summary(folder, manifest), *(more if more != said else [])]))
        said = more
        counts = np.bincount(labels[labels >= 0], minlength=len(manifest.classes))
        if manifest.classes:
            print("  classes      with their images:")
        for name, count in zip(manifest.classes, counts.tolist(), strict=True):
            print(one_line(f"    {count:>8,}  {name}"))
    for line in refused:
        print(one_line(line))
    after_packing(asked.folder, ShardFolder(folders[0]).manifest.name)
    return ExitCode.DONE


def _show(argv: list[str]) -> int:
    asked = parse(Show, argv, "eyespot shards show")
    shards = ShardFolder.find(asked.folder)  # before torch is imported, which takes seconds

    if asked.recipe is None:
        return show_frames(shards, asked.out, asked.samples)

    with working("loading torch"):
        from eyespot.pretrain.loop.view_sheet import NUM_EPOCHS, draw_views, shown_captions
        from eyespot.pretrain.recipe_lookup import make_run

    run = make_run(asked.recipe)
    images, views = draw_views(run, shards, asked.out, asked.samples)
    print(
        f"{asked.out.resolve()}: {plural(images, 'image')}, a row each: its middle,"
        f" then {plural(views, 'view')} in each of {NUM_EPOCHS} epochs"
    )
    for row, captions in enumerate(shown_captions(run, shards, asked.samples), 1):
        print(one_line(brief(f"  row {row:<3} {' | '.join(captions) or 'no caption'}")))
    say_next((["pretrain", asked.recipe, "--data.shards", asked.folder, "--run-dir", "runs/first"], "trains on them"))
    return ExitCode.DONE
