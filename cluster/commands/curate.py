"""``eyespot curate``: chooses which samples a run learns from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from annotated_types import Ge, Gt, Le

from eyespot.cluster.arguments import parse
from eyespot.cluster.help_text import show_help, unknown_command
from eyespot.cluster.next_steps import say_next
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode
from eyespot.data_pipeline.progress_bar import working
from eyespot.data_pipeline.ranges import check_ranges
from eyespot.data_pipeline.stores.location import Location
from eyespot.data_pipeline.terminal import plural

if TYPE_CHECKING:
    from eyespot.eval.curate.curation import Encoder, Question
    from eyespot.pretrain.distributed.process_group import World

USAGE = """usage: eyespot curate COMMAND SHARDS OUT ...

Chooses which samples a run learns from. Nothing is copied: OUT gets a list of sample ids for --data.ids, how they were
chosen (provenance.json) and a page with pictures (report.html). --ids begins with what another curation has left.

  duplicates SHARDS OUT   leave out copies: the same bytes, the same picture, near features
  leaks SHARDS OUT        leave out what is in a held-out set, too, and name it
  balance SHARDS OUT      choose evenly from clusters of clusters (hierarchical k-means)
  retrieve SHARDS OUT     choose the nearest neighbours of seed images

  eyespot curate COMMAND --help   what a command takes

For example:
  eyespot curate duplicates data/photos curated/unique
  eyespot curate leaks data/photos curated/clean --ids curated/unique/ids.txt
  eyespot curate balance data/photos curated/even --ids curated/clean/ids.txt --model runs/first --keep 50000
  eyespot pretrain mae_vitb16_in1k --data.shards data/photos --data.ids curated/even/ids.txt --run-dir runs/even

Under torchrun the ranks share the work; on any number of them the same ids come out:
  torchrun --no-python --nproc-per-node 8 eyespot curate balance data/photos curated/even --model runs/first
  eyespot launch --nodes 2 --gpus-per-node 8 -- curate balance data/photos curated/even --model runs/first
"""

NUM_NAMED = 20
"""Leaks that are named at the terminal; dropped.csv names all."""
Shards = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS")]
Out = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]


@dataclass(kw_only=True, slots=True)
class Curation:
    """What all commands take."""

    shards: Shards
    """A folder with train/ inside, or one of shards, of single images."""
    out: Out
    """A new folder, or that of the same command, which goes on."""
    ids: Path | None = None
    """Text file of sample ids, one a line: chooses from these alone; none: from all."""
    cache: Path | None = None
    """Where features and picture hashes are kept, which further commands find again. By default features where eyespot
    eval keeps them (RUN/eval/features) and hashes in OUT."""
    seed: Annotated[int, Ge(0)] = 0
    """Of all that is drawn by lot."""
    report: bool = True
    """Write report.html."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto = a GPU where there is one. cpu = the CPU is meant."""

    def __post_init__(self) -> None:
        check_ranges(self, "--")


@dataclass(kw_only=True, slots=True)
class Alike(Curation):
    """When two images count as one."""

    bits: Annotated[int, Ge(0), Le(16)] = 6
    """Bits of the 64 of the perceptual hash that may differ."""
    correlation: Annotated[float, Ge(-1), Le(1)] = 0.9
    """Of the thumbnails (16 x 16 colours), at least: of pictures with near hashes it has the last word."""
    mirrored: bool = False
    """A picture and its mirror image count as one."""
    pictures: bool = True
    """Compare pictures by their hashes, which decodes each once; without, only bytes and features are compared."""
    model: str | None = None
    """Compare features, too: of a run folder, a release, a timm name, as eyespot eval takes MODEL."""
    features: Literal["cls", "mean", "pool"] | None = None
    """Which features; by default the encoder's first."""
    cosine: Annotated[float, Gt(0), Le(1)] = 0.96
    """Of the features, at least. What it means depends on the encoder: look at the page."""


@dataclass(kw_only=True, slots=True)
class Duplicates(Alike):
    """Leaves out copies of images that stay.

    Of images that count as one the one with the most pixels stays, of equals the largest file. Found are the same bytes
    (size, crc32, then sha256), the same picture (a perceptual hash of 64 bits, confirmed by a thumbnail: re-encoded,
    resized, slightly brightened), with --mirrored also mirror images, and with --model images whose features are near:
    another crop, another moment. Every image that goes is close to one that stays; dropped.csv says which.

    For example:

    eyespot curate duplicates data/photos curated/unique

    eyespot curate duplicates data/photos curated/unique --model runs/first --cosine 0.97
    """


@dataclass(kw_only=True, slots=True)
class Leaks(Alike):
    """Leaves out images that are in a held-out set, too, and names each.

    Compared are bytes, pictures and, with --model, features, as eyespot curate duplicates does.

    For example:

    eyespot curate leaks data/photos curated/clean

    eyespot curate leaks data/web curated/clean --held-out data/imagenet/val
    """

    held_out: Path | None = None
    """A shard folder; by default the split test, or val, of SHARDS."""


@dataclass(kw_only=True, slots=True)
class Chosen(Curation):
    """What is chosen by features."""

    model: Annotated[str, tyro.conf.arg(metavar="MODEL")]
    """Whose features: a run folder, a release, a timm name, as eyespot eval takes it."""
    features: Literal["cls", "mean", "pool"] | None = None
    """Which features; by default the encoder's first."""


@dataclass(kw_only=True, slots=True)
class Balance(Chosen):
    """Chooses evenly from clusters of clusters, so that what is rare counts as much as what is frequent.

    Hierarchical k-means with resampling (Vo et al. 2024, arXiv:2405.15613) on the features' directions: --clusters of
    the samples, clusters of their centroids, and so on. The samples to keep are shared evenly among the highest
    clusters, each share among theirs, and drawn by lot in the lowest. An interrupted command goes on.

    For example:

    eyespot curate balance data/photos curated/even --model runs/first --keep 50000

    eyespot curate balance data/web curated/even --model runs/large --keep 1000000 --clusters 100000 5000 500
    """

    keep: Annotated[int, Ge(1)]
    """How many samples to choose."""
    clusters: tuple[int, ...] = ()
    """Clusters of each level, the lowest first: 10000 500; by default 20 samples for each, and 20 of those for each."""
    rounds: Annotated[int, Ge(0), Le(100)] = 2
    """How often each level is clustered anew by what is nearest to its centroids: the more, the more evenly."""


@dataclass(kw_only=True, slots=True)
class Retrieve(Chosen):
    """Chooses the nearest neighbours of seed images: more like these.

    All samples are compared with every seed, exactly. Seeds are a shard folder of their own, or samples of SHARDS.

    For example:

    eyespot curate retrieve data/web curated/birds --seeds data/birds --model runs/first --neighbours 8

    eyespot curate retrieve data/photos curated/more --seed-ids liked.txt --model runs/first --keep 1000
    """

    seeds: Path | None = None
    """A shard folder; its samples are the seeds."""
    seed_ids: Path | None = None
    """Text file of the seeds' sample ids, one a line: in --seeds, or without it in SHARDS."""
    neighbours: Annotated[int, Ge(1), Le(10_000)] = 4
    """Of each seed."""
    keep: Annotated[int, Ge(1)] | None = None
    """Most samples: all nearest neighbours first, then all second ones."""
    cosine: Annotated[float, Ge(-1), Le(1)] = -1.0
    """That a neighbour has at least."""


def main(argv: list[str]) -> int:
    """Runs one of the commands and returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        show_help(USAGE)
        return ExitCode.DONE if argv else ExitCode.WRONG_INPUT
    wanted, carry_out = asked(argv), _COMMANDS[argv[0]][1]
    with working("loading torch"):
        from eyespot.pretrain.distributed import process_group

    world = process_group.start(wanted.device)
    try:
        page = carry_out(wanted, world)
        if world.rank == 0:
            _say(wanted, page)
    finally:
        process_group.stop()
    return ExitCode.DONE


def asked(argv: list[str]) -> Curation:
    """What the words after ``eyespot curate`` ask for.

    Raises:
        UserError: one of them is wrong.
    """
    if not argv or argv[0] not in _COMMANDS:
        raise UserError(unknown_command(argv[0] if argv else "", list(_COMMANDS), "eyespot curate"))
    wanted: Curation = parse(_COMMANDS[argv[0]][0], argv[1:], f"eyespot curate {argv[0]}")
    if isinstance(wanted, Retrieve) and wanted.seeds is None and wanted.seed_ids is None:
        raise UserError("--seeds, --seed-ids: name a shard folder of seed images, a file of their ids, or both")
    return wanted


def _question(wanted: Curation, verb: Any, world: "World", settings: dict[str, Any]) -> "Question":
    from eyespot.eval.curate.curation import Question, images_in, samples_to_choose_from

    shards = images_in(wanted.shards, "train", world=world)
    start = samples_to_choose_from(shards, wanted.ids)
    known = {"out": wanted.out, "cache": wanted.cache, "world": world, "seed": wanted.seed, "settings": settings}
    return Question(verb=verb, shards=shards, start=start, **known)


def _encoder(wanted: Alike | Chosen) -> "Encoder | None":
    if wanted.model is None:
        return None
    from eyespot.eval.curate.curation import Encoder

    return Encoder.of(wanted.model, wanted.features or "", wanted.cache)


def _copies(wanted: Alike, world: "World") -> Path | None:
    from eyespot.eval.curate.copies import Likeness, find_copies, leak_lines
    from eyespot.eval.curate.curation import images_in, whole
    from eyespot.eval.curate.page import copy_sections, write_page

    likeness = Likeness(
        bits=wanted.bits if wanted.pictures else None,
        correlation=wanted.correlation,
        mirrored=wanted.mirrored,
        cosine=wanted.cosine,
    )
    encoder, held_out = _encoder(wanted), None
    settings = likeness.told() | ({} if encoder is None else {"encoder": encoder.subject.digest()})
    if isinstance(wanted, Leaks):
        held_out = images_in(*_held_out(wanted), world=world)
        settings["held_out"] = held_out.manifest_sha256
    question = _question(wanted, "duplicates" if held_out is None else "leaks", world, settings)
    if held_out is not None and whole(held_out) == whole(question.shards):
        raise UserError(f"--held-out {held_out.path}: is what is learned from; name another folder")
    question.begin()
    copies = find_copies(question, likeness, encoder, held_out)
    if world.rank != 0:
        return None
    if held_out is not None and len(copies.dropped.places):
        count = len(copies.dropped.places)
        print(
            f"{plural(count, 'sample')} of {question.shards.path} {'is' if count == 1 else 'are'} in {held_out.path}:"
        )
        print("\n".join(leak_lines(copies, NUM_NAMED)))
        if count > NUM_NAMED:
            print(f"  and {count - NUM_NAMED:,} more: {wanted.out / 'dropped.csv'}")
    return write_page(wanted.out, copy_sections(copies)) if wanted.report else None


def _held_out(wanted: Leaks) -> tuple[Location, str, str]:
    """The folder, and the splits that it may be in."""
    from eyespot.data_pipeline.shards.shard_folder import ShardFolder

    if wanted.held_out is not None:
        return wanted.held_out, "test", "val"
    shards = ShardFolder.find(wanted.shards)
    found = next((split for name in ("test", "val") if (split := shards.split(name)) is not None), None)
    if found is None:
        raise UserError(f"--held-out: {wanted.shards} has no split test or val; name a shard folder")
    return found.path, "test", "val"


def _balance(wanted: Balance, world: "World") -> Path | None:
    from eyespot.eval.curate.choosing import balance, default_sizes
    from eyespot.eval.curate.page import balance_sections, write_page

    encoder = _encoder(wanted)
    assert encoder is not None
    settings = {"keep": wanted.keep, "clusters": list(wanted.clusters), "rounds": wanted.rounds}
    settings |= {"encoder": encoder.subject.digest(), "features": encoder.kind}
    question = _question(wanted, "balance", world, settings)
    sizes = wanted.clusters or default_sizes(len(question.start))
    settings["clusters"] = list(sizes)
    question.begin()
    found = balance(question, encoder, sizes, wanted.rounds, wanted.keep)
    if world.rank != 0 or not wanted.report:
        return None
    return write_page(wanted.out, balance_sections(question.shards, question.start, found))


def _retrieve(wanted: Retrieve, world: "World") -> Path | None:
    from eyespot.eval.curate.choosing import retrieve
    from eyespot.eval.curate.curation import digest_of_ids, images_in, samples_to_choose_from
    from eyespot.eval.curate.page import retrieval_sections, write_page

    encoder = _encoder(wanted)
    assert encoder is not None
    seeds = images_in(wanted.seeds or wanted.shards, "train", world=world)
    seed_ids = samples_to_choose_from(seeds, wanted.seed_ids, "--seed-ids")
    settings = {"neighbours": wanted.neighbours, "keep": wanted.keep, "cosine": wanted.cosine}
    settings |= {"encoder": encoder.subject.digest(), "features": encoder.kind}
    settings |= {"seeds": seeds.manifest_sha256, "seed_ids": digest_of_ids(seed_ids)}
    question = _question(wanted, "retrieve", world, settings)
    question.begin()
    how: dict[str, Any] = {"each": wanted.neighbours, "keep": wanted.keep, "cosine": wanted.cosine}
    found = retrieve(question, encoder, seeds, seed_ids, **how)
    if world.rank != 0 or not wanted.report:
        return None
    return write_page(wanted.out, retrieval_sections(question.shards, seeds, found))


def _say(wanted: Curation, page: Path | None) -> None:
    from eyespot.eval.curate.curation import IDS, read_provenance

    told = read_provenance(wanted.out)
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in told.dropped.items())
    print(
        f"{wanted.out / IDS}: {told.kept:,} of {plural(told.looked_at, 'sample')}"
        f"{f' (dropped: {reasons})' if reasons else ''}"
    )
    if isinstance(wanted, Retrieve) and wanted.keep is not None and told.kept < wanted.keep:
        nearer = f", or lower --cosine {wanted.cosine}" if wanted.cosine > -1 else ""
        print(f"fewer than --keep {wanted.keep:,}: raise --neighbours {wanted.neighbours}{nearer}")
    if page is not None:
        print(page.resolve())
    learn = ["pretrain", "RECIPE", "--data.shards", wanted.shards, "--data.ids", wanted.out / IDS]
    say_next(([*learn, "--run-dir", "runs/curated"], "learns from these alone"))


_COMMANDS: dict[str, tuple[type, Callable[..., Path | None]]] = {
    "duplicates": (Duplicates, _copies),
    "leaks": (Leaks, _copies),
    "balance": (Balance, _balance),
    "retrieve": (Retrieve, _retrieve),
}
