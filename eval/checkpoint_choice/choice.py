"""Scores every kept checkpoint of a run without labels, and says which one to take."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.augment.views import CenterView, RandomView, ViewSpec, center_view
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.patience import is_outage, words
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.eval.checkpoint_choice.scores import Looks, Scored, blocks_of, merit, scored, shared
from eyespot.eval.encoders.subject import AVERAGE, run_of, split_part
from eyespot.eval.protocols.label_free import alarms, label_free_numbers
from eyespot.eval.protocols.labeled_data import LabeledData, all_data
from eyespot.eval.results.checkpoint_scores import (
    FOLDER,
    FORMAT,
    NAMES,
    CheckpointScores,
    Selection,
    Verdict,
    read_selection,
)
from eyespot.eval.results.result import Score, slug
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.checkpoints.folders import complete
from eyespot.pretrain.checkpoints.weight_files import EMA
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.collectives import agreed, any_rank
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.fixed_samples import FixedSamples
from eyespot.pretrain.loop.initial_weights import encoder_config, trained_encoder
from eyespot.pretrain.networks.encoders import features
from eyespot.pretrain.redaction import masked
from eyespot.pretrain.run_json import load_run
from eyespot.pretrain.run_record import RunRecord

NUM_IMAGES = 2048
NUM_VIEWS = 8
"""Random views of each image."""
Z = 1.96
"""Standard errors to each side, of 95 %."""


def select(
    target: str, shards: Path | str | None, *, num_images: int, seed: int, world: World, out: Path | None = None
) -> Selection | None:
    """Scores all complete checkpoints of a run; writes and returns them, or what an earlier call found.

    All ranks compute features, the same on any number of them; rank 0 alone scores, and returns something.

    Args:
        target: a run folder; with @ema the averages of its weights are scored.
        shards: the images, with labels or without; None = those that the run learned from. Of splits test is taken.
        num_images: at most.
        seed: which images, which views, which blocks are drawn.
        world: this process.
        out: folder of the file; None = RUN/eval/select.

    Raises:
        UserError: something about run, checkpoints or shards is wrong.
    """
    with agreed():
        asked = _question(target, shards, num_images, seed, world)
    manifest = asked.data.test.shards.manifest
    name = f"{slug(manifest.name)}-{manifest.index_sha256[:6]}{asked.part and '-'}{asked.part}.json"
    path = (out or asked.run_dir / "eval" / FOLDER) / name
    known = read_selection(path)
    if not any_rank([world.rank == 0 and (known is None or known.key != asked.key)])[0]:
        return known if world.rank == 0 else None
    with agreed():
        if world.rank == 0:
            _make_folder(path.parent, "--out" if out else "scores")
    found, warned = _scored(asked, world)
    if world.rank != 0:
        return None
    names = [folder.name for folder in asked.folders]
    selection = Selection(
        key=asked.key,
        data=asked.data.name,
        shards=masked(str(asked.data.test.shards.path)),
        split=asked.data.split,
        num_images=len(asked.ids),
        num_views=NUM_VIEWS,
        checkpoints=_told(names, asked.steps, found, warned),
        verdicts=verdicts(names, found, warned),
        seed=seed,
        averaged=asked.part == EMA,
    )
    write_bytes(path, (json.dumps(asdict(selection), indent=1) + "\n").encode())
    return selection


def _make_folder(folder: Path, setting: str) -> None:
    """Before anything is scored: a place where nothing can be written is known at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_outage(error):
            raise
        raise UserError(f"{setting} {folder}: cannot be made ({words(error)}); name another with --out") from error


@dataclass(kw_only=True, slots=True)
class _Question:
    """Which checkpoints are scored, and on which images."""

    run_dir: Path
    run: Run
    part: str
    folders: list[Path]
    steps: list[int]
    data: LabeledData
    views: ViewSpec
    ids: Int64[np.ndarray, " n"]
    seed: int
    key: str


def _question(target: str, shards: Path | str | None, num_images: int, seed: int, world: World) -> _Question:
    run_dir = run_of(target)
    place, part = split_part(target)
    if run_dir is None or run_dir != Path(place):
        raise UserError(f"RUN {target}: is not a run folder (no run.json); select looks at all checkpoints of one")
    _, run = load_run(run_dir)
    if part == EMA and not run.optim.ema:
        raise UserError(f"RUN {target}: this run keeps no average of its weights; leave {AVERAGE} out")
    if not (folders := complete(run_dir)):
        raise UserError(f"RUN {run_dir}: has no complete checkpoint yet; wait for the first one or train on")
    if not (given := shards if shards is not None else run.data.shards):
        raise UserError(f"RUN {run_dir}: names no shards; write eyespot eval select RUN SHARDS")
    data = all_data(find_shards(given, "test", "train", hashes=world.local_rank == 0))
    mean, std = RunRecord.read(RunRecord.path(run_dir)).mean_and_std(run_dir)
    ids = np.sort(np.random.default_rng(seed).permutation(data.test.size)[:num_images])
    in_colour = data.test.shards.manifest.bands is None
    views = ViewSpec(views=_views(encoder_config(run, part).image_size, in_colour=in_colour), mean=mean, std=std)
    metas = [checkpoint.read_meta(folder) for folder in folders]
    said = [FORMAT, str(seed), part, repr(views), data.test.shards.manifest.index_sha256, str(len(ids))]
    said += [digest for meta in metas for digest in sorted(meta.files.values())]
    return _Question(
        run_dir=run_dir,
        run=run,
        part=part,
        folders=folders,
        steps=[meta.step for meta in metas],
        data=data,
        views=views,
        ids=ids,
        seed=seed,
        key=hashlib.sha256("\n".join(said).encode()).hexdigest()[:32],
    )


def _scored(asked: _Question, world: World) -> tuple[list[Scored], list[list[str]]]:
    """Each checkpoint's scores and alarms, on rank 0."""
    shards = asked.data.test.shards
    spec = LoaderSpec(shards=shards, views=asked.views, batch_size=1, seed=asked.seed, device=str(world.device))
    samples, blocks = FixedSamples(spec, asked.ids, world), blocks_of(len(asked.ids), asked.seed)
    found: list[Scored] = []
    warned: list[list[str]] = []
    for folder in asked.folders:
        with agreed():
            encoder = trained_encoder(asked.run, folder, asked.part).to(world.device)
        looks = _looks(encoder, samples, world, f"features: {folder.name}", len(asked.ids))
        if looks is not None:
            warned.append(_alarms(looks.whole, folder.name))
            found.append(scored(looks, blocks, asked.seed))
    return found, warned


def verdicts(names: list[str], found: list[Scored], warned: list[list[str]]) -> dict[str, Verdict]:
    """What each score would take: the newest of the checkpoints that it cannot tell from the best.

    Two are told apart where the difference of their scores is more than 1.96 of its standard errors from 0; that error
    is of the differences in the same bootstrap draws, so it leaves out what all checkpoints share.

    Args:
        names: of the checkpoints, oldest first.
        found: their scores.
        warned: what is wrong with each; one of which something is, is not taken.
    """
    sound = [place for place, alarms in enumerate(warned) if not alarms]
    told: dict[str, Verdict] = {}
    for name in NAMES:  # a decay of too few eigenvalues is no number
        known = [place for place in sound if np.isfinite([found[place].values[name], *found[place].draws[name]]).all()]
        if known:
            told[name] = _verdict(name, names, found, known)
    return told


def _verdict(name: str, names: list[str], found: list[Scored], sound: list[int]) -> Verdict:
    merits = {place: float(merit(name, found[place].values[name])) for place in sound}
    draws = {place: np.asarray(merit(name, found[place].draws[name])) for place in sound}
    best = max(sound, key=lambda place: (merits[place], place))
    # A draw shows some images twice, which moves all of a checkpoint's scores: by that, too, they may differ.
    moved = {place: draws[place] - draws[place].mean() + merits[place] for place in sound}
    first = np.mean([moved[best] >= moved[place] for place in sound], axis=0) == 1
    alike = [place for place in sound if merits[best] - merits[place] <= Z * _error(draws[best] - draws[place])]
    taken = max(alike)
    words = f"{names[best]} has the best {NAMES[name]}, in {first.mean():.0%} of the draws"
    others = [place for place in sound if place not in alike]
    if taken != best:
        words += f"; {names[taken]} is newer, and the images do not tell it from that one"
    if others:
        second = max(others, key=lambda place: merits[place])
        gap, error = merits[best] - merits[second], _error(draws[best] - draws[second])
        words += f"; the best that falls behind is {names[second]}, by {gap:.3g} ({gap - Z * error:.3g} to"
        words += f" {gap + Z * error:.3g})"
    elif len(sound) > 1:
        words += "; the images tell none of the others from it"
    return Verdict(taken=names[taken], best=names[best], alike=[names[place] for place in alike], words=words)


def _error(draws: Float64[np.ndarray, " draws"]) -> float:
    return float(draws.std(ddof=1))


def _told(names: list[str], steps: list[int], found: list[Scored], warned: list[list[str]]) -> list[CheckpointScores]:
    told = []
    for place, each in enumerate(found):
        before = found[place - 1] if place else None
        spans = {name: Z * _error(each.draws[name]) for name in NAMES}
        told.append(
            CheckpointScores(
                checkpoint=names[place],
                step=steps[place],
                scores={
                    name: Score(value=each.values[name], interval=(each.values[name] - span, each.values[name] + span))
                    for name, span in spans.items()
                    if np.isfinite([each.values[name], span]).all()
                },
                kept=None if before is None else float(shared(before.neighbours, each.neighbours).mean()),
                alarms=warned[place],
            )
        )
    return told


def _views(size: int, *, in_colour: bool) -> tuple[CenterView | RandomView, ...]:
    """The whole image, and random views as SimCLR makes them, but for blur: the same for whatever method.

    Of images of bands without what only colours have.
    """
    view = RandomView(size=size, scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2)
    if not in_colour:
        view = replace(view, jitter=(*view.jitter[:2], 0.0, 0.0), grayscale=0.0)
    return (center_view(size), *([view] * NUM_VIEWS))


def _looks(encoder: torch.nn.Module, samples: FixedSamples, world: World, words: str, num_images: int) -> Looks | None:
    with ProgressBar(words, num_images, transient=True, shown=world.rank == 0) as bar:
        found = samples.encode_all(encoder, bar.advance, lambda images: features(encoder, images))
    if found is None:
        return None
    whole, *views = (view.to(world.device) for view in found[0])
    return Looks(whole=whole, views=torch.stack(views, dim=1))


def _alarms(whole: Tensor, name: str) -> list[str]:
    if not whole.isfinite().all():
        raise UserError(f"checkpoint {name}: its features are not all finite; the weights are broken")
    unlabeled = torch.full((len(whole),), -1, device=whole.device)
    return alarms(label_free_numbers(whole, unlabeled), len(whole))
