"""``eyespot shards``: packs images and videos into shards, checks them, looks at them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Ge, Le

from eyespot.cluster.arguments import parse
from eyespot.cluster.clip_shards import Videos, motion, remarks, summary, tracks
from eyespot.cluster.help_text import show_help, unknown_command
from eyespot.cluster.next_steps import after_packing, say_next
from eyespot.cluster.shard_commands import add_images, info, merge, pack_share, show
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.loading.bands.band_views import channels_of
from eyespot.data_pipeline.loading.mixtures.mix import is_mix, read_mix
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.shards.bands.stored_bands import MOST_BANDS, Bands
from eyespot.data_pipeline.shards.frames import FASTEST, FrameNames
from eyespot.data_pipeline.shards.image_check import MAX_PIXELS
from eyespot.data_pipeline.shards.image_workers import NUM_WORKERS
from eyespot.data_pipeline.shards.manifest import IGNORED, Manifest, Reading
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.sources import DOWNLOADS
from eyespot.data_pipeline.stores.location import Address, Location, check_on_disk, location_of
from eyespot.data_pipeline.terminal import one_line, plural

USAGE = """usage: eyespot shards COMMAND ...

  pack SRC DST    write images or videos as shards: WebDataset tars, indexes, a manifest
  merge DST       make one shard folder of what several tasks have packed (pack --task)
  add DST SRC     pack more images into a shard folder, behind those that are there
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
  eyespot shards pack sentinel/ data/sentinel --bands 13
  eyespot shards info data/photos
  eyespot shards show data/photos --recipe mae_vitb16_in1k
"""

HELD_OUT = ("test", "val")
Folder = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]


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
    bands: Annotated[int, Ge(1), Le(MOST_BANDS)] | None = None
    """Images are measurements of so many bands, and every bit is kept: TIFF (strips or tiles, all pages; needs
    pip install "eyespot[tiff]"), .npy arrays of height x width x bands or bands x height x width, 16-bit PNG. What has
    others is left out and named. None: images become 8-bit RGB."""
    bits: Literal[8, 16] = 16
    """Of a value of a band."""

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
            bands=None if self.bands is None else Bands(count=self.bands, bits=self.bits),
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

    SRC may also be a table: a Parquet or Arrow file, a folder of them, a data set that Hugging Face's datasets saved
    (save_to_disk) or pushed, an LMDB of image files (pip install "eyespot[sources]"), a .csv, .tsv or .jsonl file with
    a column of paths, or what img2dataset wrote. Labels, captions and splits are found by name; --columns says what is
    what where that is not clear.

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

    eyespot shards pack cifar100/ data/cifar100 --columns image=img,label=fine_label
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
    columns: str | None = None
    """Which column of a table or list is what, where that is not clear: image=img,label=fine_label,caption=text; label=
    is no label."""
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
    task: str | None = None
    """Pack one share of the source, I/N with I from 0 to N - 1, into DST/.parts, on any machine that sees SRC and DST;
    then eyespot shards merge DST. In a SLURM array auto stands for I and N, and auto/N for I."""


@dataclass(kw_only=True, slots=True)
class Add(Readings):
    """Pack more images into a shard folder that eyespot shards pack wrote, as new shards behind those that are there.

    Samples that are there keep their ids, their bytes and their classes' numbers; new classes are numbered after them.
    Images that lie there already, byte for byte as they would be stored, are left out and named. Each manifest that the
    folder has had stays beside the newest (manifest-<digits>.json): a run that began before goes on with its own, a new
    one sees all. Where DST has splits, SRC has them too, or one is named: data/photos/train. Killed at any moment, the
    folder is whole, and the same command goes on.

    For example:

    eyespot shards add data/photos/train more-photos/
    """

    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """The shard folder."""
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """What to add; see eyespot shards pack --help."""
    captions: Path | None = None
    """As in eyespot shards pack."""
    columns: str | None = None
    """As in eyespot shards pack."""
    masks: Path | None = None
    """As in eyespot shards pack."""
    mask_ignored: int = IGNORED
    """As in eyespot shards pack."""
    resize: int | None = None
    """Shrink images so that their short side has this many pixels; by default as the folder was packed."""
    seed: int = 0
    """Of the shuffle of what is added."""
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
    """The folder that holds the .tar files, or its address in a store: they pass through TMPDIR, a few at a time."""
    workers: int = NUM_WORKERS
    """Processes that read and decode."""
    to: Path | None = None
    """Of an address: write the files into this folder, for who may not write to the store, and uploads them."""


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


def main(argv: list[str]) -> int:
    """Runs ``eyespot shards`` and returns the exit code."""
    commands = {"pack": _pack, "index": _index, "verify": _verify, "info": info, "show": show}
    commands |= {"motion": partial(_derive, motion), "tracks": partial(_derive, tracks), "add": _add, "merge": _merge}
    if not argv or argv[0] in ("-h", "--help"):
        show_help(USAGE)
        return ExitCode.DONE if argv else ExitCode.WRONG_INPUT
    if argv[0] not in commands:
        raise UserError(unknown_command(argv[0], list(commands), "eyespot shards"))
    return commands[argv[0]](argv[1:])


def _pack(argv: list[str]) -> int:
    from eyespot.data_pipeline.shards.pack import pack

    asked = parse(Pack, argv, "eyespot shards pack")
    source = asked.opened(asked.source, asked.resize, asked.max_pixels, asked.workers, asked.reading)
    options = _options(asked) | {
        "holdout": asked.holdout,
        "max_samples": asked.max_samples,
        "max_bytes": asked.max_bytes,
    }
    if asked.task is not None:
        return pack_share(asked.task, source, asked.destination, **options)
    return _packed(asked.destination, pack(source, asked.destination, **options))


def _options(asked: "Pack | Add") -> dict[str, Any]:
    """Of packing, those that both have."""
    from eyespot.data_pipeline.shards.outside.columns import parse_columns

    names = ("masks", "mask_ignored", "captions", "resize", "max_pixels", "workers", "seed", "downloads", "reading")
    columns = parse_columns(asked.columns) if asked.columns is not None else None
    return {name: getattr(asked, name) for name in names} | {"columns": columns}


def _packed(destination: Path, manifests: dict[str, Manifest]) -> int:
    """Says what there is now."""
    from eyespot.data_pipeline.shards.split_overlap import overlaps

    for split, manifest in manifests.items():
        print(summary(destination / split, manifest))
    for line in remarks(next(iter(manifests.values()))):
        print(line)
    for overlap in overlaps(destination / split for split in manifests):
        print(overlap)
    first = next(iter(manifests.values()))
    after_packing(destination, first.name, channels_of(first))
    return ExitCode.DONE


def _merge(argv: list[str]) -> int:
    return _packed(*merge(argv))


def _add(argv: list[str]) -> int:
    asked = parse(Add, argv, "eyespot shards add")
    options = _options(asked) | {"max_samples": None, "max_bytes": None}
    return _packed(*add_images(asked.source, asked.destination, **options))


def _derive(command: Callable[[list[str]], tuple[Path, dict[str, Manifest]]], argv: list[str]) -> int:
    destination, manifests = command(argv)
    for split, manifest in manifests.items():
        print("\n".join([summary(destination / split, manifest), *remarks(manifest)]))
    say_next((["shards", "show", destination], "draws their frames"))
    return ExitCode.DONE


def _index(argv: list[str]) -> int:
    from eyespot.data_pipeline.shards.index_tars import index_folder

    asked = parse(Index, argv, "eyespot shards index")
    place = location_of(asked.folder)
    if isinstance(place, Address):
        from eyespot.data_pipeline.shards.remote.index import index_store

        if asked.to is not None:
            check_on_disk(asked.to, "to", "the index is")
        manifest = index_store(place, asked.workers, asked.reading, asked.max_pixels, asked.to)
    elif asked.to is not None:
        raise UserError(f"to {asked.to}: of tars on a disk the index lies beside them; leave it out")
    else:
        manifest = index_folder(place, asked.workers, asked.reading, asked.max_pixels)
    print("\n".join([summary(place, manifest), *remarks(manifest)]))
    if asked.to is not None:
        print(f"upload what is in {asked.to} to {place}")
        return ExitCode.DONE
    for line in _order_notes(place):
        print(line)
    after_packing(place, manifest.name, channels_of(manifest))
    return ExitCode.DONE


def _verify(argv: list[str]) -> int:
    from eyespot.data_pipeline.shards.remote.verify import look_at_store
    from eyespot.data_pipeline.shards.verify import look_at

    asked = parse(Verify, argv, "eyespot shards verify")
    if is_mix(text := asked.folder):
        each = "; ".join(f"eyespot shards verify {source.shards}" for source in read_mix(text).sources[:3])
        raise UserError(f"{text}: a mixture of shard folders; verify each of them: {each}")
    place = location_of(asked.folder)
    found = look_at_store(place) if isinstance(place, Address) else look_at(place, asked.workers)
    notes = found.notes + [line for folder in found.sound for line in _order_notes(folder)]
    for line in [*found.problems, *found.unreadable, *notes]:
        print(one_line(line))
    looked_at = plural(len(found.folders), "shard folder")
    unwell = len(found.folders) - len(found.sound)
    if not found.problems and not found.unreadable:
        print(f"{place}: all is well ({looked_at})")
        say_next((["shards", "info", str(place)], "what they hold: counts, sizes, classes"))
        return ExitCode.DONE
    if found.folders:
        print(f"{place}: looked at {looked_at}, {unwell} of them not well")
    return ExitCode.WRONG_INPUT if found.problems else ExitCode.FAILED


def _order_notes(folder: Location) -> list[str]:
    """Whether batches of a folder that may be learned from would be mixed."""
    from eyespot.data_pipeline.loading.class_mixing import mixing_notes

    return mixing_notes(ShardFolder(folder)) if folder.name not in HELD_OUT else []
