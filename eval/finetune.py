"""Protocols that train: fine-tuning, linear probing as papers report it, attentive probing.

An encoder gets a head and is trained on labels by the one trainer, as any run: every engine, any number of ranks,
checkpoints, signals. Then the last checkpoint names the test images. Nothing is chosen on test.

    RUN/eval/<protocol>_<data>_<encoder>_<recipe>-seed0.json    the result
    RUN.<the same>/                                             the training's own run folder, beside its source's
    RUN.<the same>/start.safetensors, start.json                the encoder's first weights, and where they came from:
                                                                an interrupted run does not need the source again
"""

import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float
from torch import Tensor

from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.augment.views import ViewSpec, center_view
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.stores.location import location_of
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.encoders.feature_cache import features_of
from eyespot.eval.encoders.start_weights import SCRATCH, StartEncoder, keep, kept, start_encoder
from eyespot.eval.encoders.subject import OneKind, Subject
from eyespot.eval.evaluate import results_folder
from eyespot.eval.protocols.labeled_data import LabeledData, Shots, few_shots, labeled_data
from eyespot.eval.results.result import Result, Score, read_result, slug
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.config import Run
from eyespot.pretrain.distributed.collectives import agreed, gather_objects
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.loop.initial_weights import fresh_objective
from eyespot.pretrain.objectives.classify import Classify
from eyespot.pretrain.recipe_lookup import make_run, recipe_names
from eyespot.pretrain.redaction import masked, masked_values
from eyespot.pretrain.run_json import change_of, to_values
from eyespot.pretrain.run_record import RunRecord

Trained = Literal["finetune", "linear-paper", "attentive"]
"""Protocols that train."""
SMALL = 64
"""Images of up to so many pixels are fine-tuned by CIFAR-10's recipe where none is named."""
_KEY_FORMAT = "eyespot-trained/1"


def recipe_for(protocol: Trained, image_size: int) -> str:
    """The recipe that is meant where the caller names none."""
    if protocol == "finetune":
        return "finetune_cifar10" if image_size <= SMALL else "finetune_mae_vitb16_in1k"
    return "linear_paper_mae" if protocol == "linear-paper" else "attentive_vitb16_in1k"


def first_run(recipe: str, start: StartEncoder, data: LabeledData, shards: Path) -> Run:
    """The recipe's run with this encoder, these classes, and as many epochs of these images.

    Args:
        recipe: of one that trains on labels.
        start: the encoder.
        data: what to learn from.
        shards: where it lies.

    Raises:
        UserError: there is no such recipe, or it does not train on labels.
    """
    function = recipe_names().get(recipe)
    counts = function is not None and "images" in inspect.signature(function).parameters
    run = cast(Callable[..., Run], function)(images=len(data.train.labels)) if counts else make_run(recipe)
    if not isinstance(run.objective, Classify.Config):
        raise UserError(f"recipe {recipe!r}: does not train on labels; choose one of those in eyespot recipes that do")
    drop_path = run.encoder.drop_path
    run.encoder = replace(start.encoder, drop_path=drop_path, checkpointing=run.encoder.checkpointing)
    run.objective.num_classes = num_classes(data)
    run.data.shards, run.data.mean, run.data.std = str(location_of(shards)), start.mean, start.std
    run.start.origin = start.target
    run.resume = "auto"
    return run


def num_classes(data: LabeledData) -> int:
    """How many a classifier of this data has to tell apart."""
    return max(len(data.classes), int(data.train.labels.max()) + 1)


def same_epochs(run: Run, recipe: Run) -> None:
    """Where the caller changed the batch but not the steps, as many epochs as before.

    Args:
        run: changed in place.
        recipe: what it was before the caller's changes.
    """
    ratio = recipe.data.batch_size / run.data.batch_size
    if ratio != 1 and run.steps == recipe.steps:
        run.steps = max(1, round(recipe.steps * ratio))
        if run.optim.warmup_steps == recipe.optim.warmup_steps:
            run.optim.warmup_steps = round(recipe.optim.warmup_steps * ratio)
        if run.save_every == recipe.save_every:
            run.save_every = max(1, round(recipe.save_every * ratio))


@dataclass(kw_only=True, slots=True)
class Job:
    """One training on labels and what is to become of it."""

    protocol: Trained
    recipe: str
    run: Run
    start: StartEncoder
    data: LabeledData
    path: Path
    """Of the result."""
    shots: Shots | None = None
    """How much of train it learns from; None = all."""


def plan(
    protocol: Trained,
    target: str,
    shards: Path,
    *,
    recipe: str | None,
    scratch: bool,
    pretrained: bool,
    out: Path | None,
    run_dir: Path | None,
    shots: Shots | None = None,
    changed: Callable[[Run, str, int], Run],
) -> Job:
    """What is to be trained, checked as far as that goes before any process is asked to do anything.

    Args:
        protocol: how to train.
        target: MODEL; not needed any more where ``run_dir`` holds a run that began with it.
        shards: with labels; where there is no test split, a fifth of each class is held out by the run's seed.
        recipe: None = the protocol's own.
        scratch: begin with random weights instead of MODEL's.
        pretrained: timm names: with published weights.
        out: folder for the result; None = RUN/eval, or eval-<name>.
        run_dir: of the training; None = beside the source's run folder, or in ``out``, with the result's name.
        shots: how many training images of each class it learns from, which the run's seed draws; None = all.
        changed: what the caller makes of the recipe's run, which it is given with the recipe's name and the number of
            training images.

    Raises:
        UserError: something about the target, the shards, the recipe or the folder is wrong.
    """
    start = kept(run_dir) if run_dir is not None else None
    if start is None:
        start = start_encoder(target, scratch=scratch, pretrained=pretrained)
    elif (start.target, start.tag == SCRATCH) != (masked(target), scratch):
        how = "from scratch" if start.tag == SCRATCH else "with its weights"
        raise UserError(f"run_dir {run_dir}: began with {start.target} {how}; choose another --run-dir")
    recipe = recipe or recipe_for(protocol, start.encoder.image_size)
    opened = find_shards(shards)
    data = _learned_from(opened, shots, 0)  # how many there are does not depend on the seed
    run = changed(first_run(recipe, start, data, shards), recipe, len(data.train.labels))
    if not isinstance(run.objective, Classify.Config):
        raise UserError(f"recipe {recipe!r}: does not train on labels; see eyespot recipes")
    _check_batch(run, len(data.train.labels), shots)
    data = _learned_from(opened, shots, run.seed)
    few = f"-{shots.text.replace('%', 'pct')}-shots" if shots is not None else ""
    label = run_dir.name if run_dir is not None else f"{recipe}{few}-seed{run.seed}"
    stem = f"{protocol}_{slug(data.name)}-{data.test.shards.manifest.index_sha256[:6]}_{start.tag}_{slug(label)}"
    folder = out or results_folder(target)
    run.run_dir = run_dir or _run_dir(folder, stem)
    return Job(
        protocol=protocol, recipe=recipe, run=run, start=start, data=data, path=folder / f"{stem}.json", shots=shots
    )


def _learned_from(shards: ShardFolder, shots: Shots | None, seed: int) -> LabeledData:
    data = labeled_data(shards, seed)
    return data if shots is None else few_shots(data, shots, seed)


def _check_batch(run: Run, available: int, shots: Shots | None) -> None:
    """Raises a UserError where the few images that ``shots`` leaves fill no batch."""
    if shots is not None and run.data.batch_size // run.data.accumulate > available:
        raise UserError(
            f"data.batch_size {run.data.batch_size}: more than the {plural(available, 'image')} of"
            f" --shots {shots.text}; lower it"
        )


def _run_dir(out: Path, stem: str) -> Path:
    """Beside the run that ``out`` is the eval/ of, so that both are found, and tracked, in one place."""
    source = out.parent
    is_of_run = out.name == "eval" and RunRecord.path(source).is_file()
    return source.parent / f"{source.name}.{stem}" if is_of_run else out / stem


def prepare(job: Job, world: World) -> bool:
    """Puts what the training starts from into its folder; whether there is anything left to train. All ranks call it.

    Raises:
        UserError: the folder cannot be written, or holds a run with other settings.
    """
    run, train = job.run, job.data.train
    with agreed():
        if world.rank == 0:
            _make_folder(job.path.parent)
    run.start = keep(job.start, run.encoder, run.run_dir, world)
    ids = run.run_dir / "train.txt"
    if len(train.labels) < train.shards.manifest.num_samples:
        run.data.ids = ids
    with agreed():
        if world.rank == 0:
            _write_ids(ids, "".join(f"{row}\n" for row in train.rows).encode() if run.data.ids else b"")
    if not gather_objects(is_done(run) and RunRecord.path(run.run_dir).is_file())[0]:  # disks may show others later
        return True
    if found := change_of(RunRecord.read(RunRecord.path(run.run_dir)), job.recipe, run):
        raise UserError(f"run_dir {run.run_dir}: holds a run with other settings: {found}; choose another --run-dir")
    return False


def _write_ids(path: Path, ids: bytes) -> None:
    """What the run learns from; nothing where that is all.

    Raises:
        UserError: the run has begun with others.
    """
    before = path.read_bytes() if path.is_file() else b""
    if before != ids and RunRecord.path(path.parent).is_file():
        raise UserError(f"run_dir {path.parent}: learns from other images ({path.name}); choose another --run-dir")
    if ids:
        write_bytes(path, ids)


def is_done(run: Run) -> bool:
    """Whether the run has its last checkpoint."""
    folder = checkpoint.newest(run.run_dir)
    return folder is not None and checkpoint.read_meta(folder).step >= run.steps


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error


class Answers(OneKind):
    """A classifier as an encoder of a single feature: the number of the class that it names."""

    kind = "answer"

    def __init__(self, classifier: Classify) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1"]:
        """Exact up to 16 million classes."""
        return self.classifier.logits(images).argmax(1, keepdim=True).float()


def judge_trained(job: Job, world: World) -> list[Result]:
    """Names every test image once with the last checkpoint's classifier; writes the result. All ranks call it.

    A result that is there already for this checkpoint and these images stays as it is. Where the training was told to
    stop before its last step, nothing is judged. Rank 0 alone returns something.

    Raises:
        UserError: the checkpoint is damaged, an image cannot be read, or the folder cannot be written.
    """
    if not gather_objects(is_done(job.run))[0]:
        return []
    with agreed():
        subject = _trained(job)
    test = job.data.test
    parts = [_KEY_FORMAT, job.protocol, subject.digest(), test.digest(), job.data.train.digest()]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    cached = features_of(subject, test.shards, job.run.run_dir / "answers", world)
    if world.rank != 0:
        return []
    known = read_result(job.path)
    if known is None or known.key != key:
        answers = cached["answer"][test.rows, 0].astype(np.int64)
        known = _result(job, subject, answers == test.labels, key)
        write_bytes(job.path, (json.dumps(asdict(known), indent=1) + "\n").encode())
    return [known]


def _trained(job: Job) -> Subject:
    """The classifier of the last checkpoint."""
    run = job.run
    folder = checkpoint.newest(run.run_dir)
    if folder is None:
        raise UserError(f"run {run.run_dir}: has no complete checkpoint")
    size = run.encoder.image_size
    classifier = cast(Classify, fresh_objective(run))
    classifier.load_state_dict(checkpoint.read_module(folder))
    start = job.start
    return Subject(
        name=f"{start.name}{f', seed {run.seed}' if run.seed else ''}",
        tag=start.tag,
        role=start.role,
        encoder=Answers(classifier).eval().requires_grad_(False),
        views=ViewSpec(views=(center_view(size),), mean=start.mean, std=start.std),
        architecture=json.dumps(to_values([run.encoder, run.objective]), sort_keys=True),
        origin={**start.origin, "trained": str(run.run_dir), "recipe": job.recipe, "seed": run.seed},
    )


def _result(job: Job, subject: Subject, right: Any, key: str) -> Result:
    run, data = job.run, job.data
    score = Score.of(right)
    epochs = round(run.steps * run.data.batch_size / len(data.train.labels), 2)
    settings: dict[str, float | str] = {"epochs": epochs, "lr": run.optim.lr, "batch": str(run.data.batch_size)}
    if job.shots is not None:
        settings["shots"] = job.shots.text
    metric = f"{job.protocol}/{job.recipe}{f'_{job.shots.text}' if job.shots is not None else ''}"
    return Result(
        key=key,
        protocol=job.protocol,
        metric=metric,
        name=subject.name,
        role=subject.role,
        origin=masked_values(subject.origin),
        data=data.name,
        shards=masked(str(run.data.shards)),
        split=data.split,
        train_sha256=data.train.digest(),
        test_sha256=data.test.digest(),
        num_train=len(data.train.labels),
        num_test=len(data.test.labels),
        num_classes=len(np.unique(data.train.labels)),
        num_correct=int(right.sum()),
        accuracy=score.value,
        interval=score.interval,
        settings=settings,
        validation=None,
        metrics={metric: score.value},
        correct=score.correct,
        seed=run.seed,
        seconds=_trained_seconds(run.run_dir),
    )


def _trained_seconds(run_dir: Path) -> float:
    """From the run's start to its last checkpoint, through all interruptions."""
    folder = checkpoint.newest(run_dir)
    times = [path.stat().st_mtime for path in (RunRecord.path(run_dir), folder or run_dir)]
    return round(times[1] - times[0], 1)
