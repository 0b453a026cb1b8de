"""Judges an encoder by a protocol, beside its randomly initialised twin and raw pixels; one JSON file per result."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.augment.views import Clip
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.progress_bar import working
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.stores.location import Location
from eyespot.eval.encoders.clip_subjects import clip_subjects
from eyespot.eval.encoders.feature_cache import features_key, features_of
from eyespot.eval.encoders.image_size import at_size
from eyespot.eval.encoders.noise_level import at_noise
from eyespot.eval.encoders.run_objectives import objectives_of
from eyespot.eval.encoders.sound_tower import sound_subjects
from eyespot.eval.encoders.subject import Subject, pooling_in_words, run_of, subjects_of
from eyespot.eval.protocols import clustering, dense, knn, label_free, layers, linear, linear_grid, retrieval
from eyespot.eval.protocols.depth import depth_probe
from eyespot.eval.protocols.depth.mapped_data import mapped_data
from eyespot.eval.protocols.labeled_data import LabeledData, Part, all_data, labeled_data, with_members
from eyespot.eval.protocols.many_rows import streamed_clustering, streamed_knn
from eyespot.eval.protocols.many_rows.streamed_task import StreamedTask
from eyespot.eval.protocols.patch_tokens import dense_subjects, dense_task, masked_data
from eyespot.eval.protocols.task import VALIDATION_SHARE, Candidate, Task
from eyespot.eval.results.result import Protocol, Result, Score, read_result, slug
from eyespot.eval.search.row_file import RowFile, Rows
from eyespot.pretrain.distributed.collectives import agreed, any_rank
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.redaction import masked, masked_values

MOST_IN_MEMORY = 4 * 2**30
"""Bytes of features; more of them are read in pieces, where a protocol can do with that."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Streamed:
    """How a protocol works on features that stay in their files: all ranks together."""

    candidates: Callable[[StreamedTask], list[Candidate]]
    train_share: float
    """Of train that the protocol else has in memory, beside all of test."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Procedure:
    """How a protocol that works on cached features is carried out."""

    candidates: Callable[[Any], list[Candidate]]
    """What it answers to a Task, or to a DenseTask; the candidate with the best ``validation`` is reported."""
    num_blocks: int = 1
    """Of how many of the encoder's last blocks it wants features."""
    labels: bool = True
    """Whether it learns from labelled images; else it gets all test images and nothing to learn from."""
    maps: Literal["masks", "depth"] | None = None
    """Of what it learns from patch tokens, in place of features and labels; None = it does not."""
    revision: str = ""
    """What of the procedure has changed since eyespot-result/1: results of before are computed anew."""
    variant: str = ""
    """What the caller chose of it ("5-shot-5-draws"): results of another choice are other results."""
    narrow: Callable[[LabeledData, int], LabeledData] | None = None
    """What it takes of the labelled data, by the seed; None = all."""
    clips: tuple[Clip, ...] = ()
    """Which frames of each video it looks at; none = images."""
    patch_bytes: int = 0
    """Of the frames it wants the patches, too, where those of all videos take no more bytes."""
    streamed: Streamed | None = None
    """How it is carried out where features are too many to hold in memory; None = it needs them there."""
    heads: bool = False
    """Of the frames it wants what a run's own head makes of them, too, where the run's method embeds frames."""

    def data(self, path: Path, seed: int, world: World) -> LabeledData:
        """What of the shards at ``path`` it learns from and is tested on. All ranks call it, and agree on an error."""
        with agreed():
            splits = ("train",) if self.labels else ("test", "train")
            return self._data(find_shards(path, *splits, hashes=world.local_rank == 0), seed)

    def _data(self, shards: ShardFolder, seed: int) -> LabeledData:
        if self.maps:
            return masked_data(shards, seed) if self.maps == "masks" else mapped_data(shards, seed)
        data = labeled_data(shards, seed) if self.labels else all_data(shards)
        return data if self.narrow is None else self.narrow(data, seed)


PROTOCOLS: dict[Protocol, Procedure] = {
    "linear": Procedure(candidates=linear.candidates, revision="penalty by held-out loss"),
    "knn": Procedure(candidates=knn.candidates, streamed=Streamed(candidates=streamed_knn.candidates, train_share=1.0)),
    "retrieval": Procedure(candidates=retrieval.candidates),
    "clustering": Procedure(
        candidates=clustering.candidates,
        streamed=Streamed(candidates=streamed_clustering.candidates, train_share=VALIDATION_SHARE),
    ),
    "unlabeled": Procedure(candidates=label_free.candidates, labels=False),
    "dense-linear": Procedure(candidates=dense.linear_candidates, maps="masks"),
    "dense-knn": Procedure(candidates=dense.knn_candidates, maps="masks"),
    "dense-depth": Procedure(candidates=depth_probe.linear_candidates, maps="depth"),
    "linear-grid": Procedure(candidates=linear_grid.candidates, num_blocks=linear_grid.NUM_BLOCKS),
    "layers": Procedure(candidates=layers.candidates, num_blocks=layers.NUM_BLOCKS),
}
_KEY_FORMAT = "eyespot-result/1"  # results of older versions stay known: their numbers are the same


def judge(
    protocol: Protocol,
    target: str,
    shards: Path,
    *,
    out: Path | None,
    seed: int,
    pretrained: bool,
    world: World,
    image_size: int | None = None,
    noise_level: int | None = None,
    tower: str | None = None,
) -> list[Result]:
    """Judges ``target``, its random twin and raw pixels on ``shards``; writes and returns the results.

    All ranks compute features; rank 0 alone runs the protocol and returns something.

    Args:
        protocol: how to judge; docs/protocols.md says what each one is.
        target: MODEL, as ``subjects_of`` takes it.
        shards: with labels, but for "unlabeled".
        out: folder for results and cached features; None = ``results_folder(target)``.
        seed: of the random twin and of what is held out.
        pretrained: timm names: with published weights.
        world: this process.
        image_size: pixels, of what the encoder is shown; None = as it was trained.
        noise_level: time of the noise that images get first (``at_noise``); None = no noise.
        tower: "sound" = the run's sound tower is judged, by the sounds (``sound_subjects``); None = the encoder.

    Raises:
        UserError: something about the target, the shards or the folder is wrong.
    """
    procedure = PROTOCOLS[protocol]
    data = procedure.data(shards, seed, world)
    known: dict[str, Any] = {"out": out, "seed": seed, "pretrained": pretrained, "world": world}
    known |= {"image_size": image_size, "noise_level": noise_level, "tower": tower}
    return judge_on(data, protocol, procedure, target, **known)


def judge_on(
    data: LabeledData,
    protocol: Protocol,
    procedure: Procedure,
    target: str,
    *,
    out: Path | None,
    seed: int,
    pretrained: bool,
    world: World,
    image_size: int | None = None,
    noise_level: int | None = None,
    tower: str | None = None,
) -> list[Result]:
    """As ``judge``, on data that ``procedure`` has chosen."""
    out = out or results_folder(target)
    name = f"{protocol}-{procedure.variant}" if procedure.variant else protocol
    folders = {part.shards.path: part.shards for part in (data.train, data.test)}
    with agreed():
        if tower is None:
            subjects = subjects_of(target, seed=seed, pretrained=pretrained)
        else:
            subjects = sound_subjects(target, seed)
            data = with_members(data, subjects[0].views)
        subjects = subjects if image_size is None else at_size(subjects, image_size)
        subjects = subjects if noise_level is None else at_noise(subjects, noise_level)
        if procedure.maps:
            subjects = dense_subjects(subjects, guess="mean depth of train" if procedure.maps == "depth" else "")
        if procedure.clips:
            num_videos = sum(shards.manifest.num_samples for shards in folders.values())
            own = objectives_of(target, seed, lambda objective: objective.embeds_frames) if procedure.heads else None
            room = procedure.patch_bytes // num_videos
            subjects = clip_subjects(subjects, procedure.clips, patch_bytes=room, own=own)
    jobs: list[tuple[Subject, Path, str, Result | None, dict[Location, dict[str, np.ndarray]]]] = []
    for subject in subjects:
        path = out / f"{name}_{slug(data.name)}-{data.test.shards.manifest.index_sha256[:6]}_{subject.tag}.json"
        key, known = _key(protocol, procedure, subject, data, seed), read_result(path)
        fresh = any_rank([world.rank == 0 and (known is None or known.key != key)])[0]
        cached = {
            folder: features_of(subject, shards, out / "features", world, procedure.num_blocks)
            for folder, shards in (folders.items() if fresh else ())
        }
        jobs.append((subject, path, key, None if fresh else known, cached))
    streams = _streams(procedure, data, [cached for *_, cached in jobs if cached])
    if world.rank != 0 and not streams:
        return []
    results = []
    for subject, path, key, known, cached in jobs:
        if known is None:
            shown = protocol != "linear-grid" and world.rank == 0  # which draws its own bar
            with working(f"{protocol}: {subject.name}", shown=shown):
                known = _run(protocol, procedure, subject, data, cached, seed, world, key, streams)
            if world.rank == 0:
                write_bytes(path, (json.dumps(asdict(known), indent=1) + "\n").encode())
        results.append(known)
    return results if world.rank == 0 else []


def _streams(procedure: Procedure, data: LabeledData, cached: list[dict[Location, dict[str, np.ndarray]]]) -> bool:
    """Whether any subject's features are too many for memory, and the protocol can do without."""
    if procedure.streamed is None:
        return False
    rows = data.test.size + procedure.streamed.train_share * data.train.size
    widths = [sum(values.shape[1] for values in found[data.test.shards.path].values()) for found in cached]
    return rows * max(widths, default=0) * np.dtype(np.float32).itemsize > MOST_IN_MEMORY


def _run(
    protocol: Protocol,
    procedure: Procedure,
    subject: Subject,
    data: LabeledData,
    cached: dict[Location, dict[str, np.ndarray]],
    seed: int,
    world: World,
    key: str,
    streams: bool,
) -> Result:
    start = time.monotonic()
    if streams and procedure.streamed is not None:
        found = procedure.streamed.candidates(_streamed_task(data, cached, seed, world))
    else:
        found = procedure.candidates(_task_of(procedure, subject, data, cached, seed, world))
    pooling = pooling_in_words(subject.encoder, cached[data.train.shards.path])
    best = max(found, key=lambda candidate: candidate.validation or 0.0)
    shares = {c.metric: Score.of(c.predictions == data.test.labels) for c in found if c.predictions is not None}
    shares |= {c.metric: c.share for c in found if c.share is not None}
    others = {f"{c.metric}/{name}": score.value for c in found for name, score in c.scores.items()}
    share, num_test = shares.get(best.metric), len(data.test.labels)
    return Result(
        key=key,
        protocol=protocol,
        metric=best.metric,
        name=subject.name,
        role=subject.role,
        origin=masked_values(subject.origin | ({"pooling": pooling} if pooling else {})),
        data=_shown(data.name, subject),
        shards=masked(str(_place(data))),
        split=data.split,
        train_sha256=data.train.digest(),
        test_sha256=data.test.digest(),
        num_train=data.train.size,
        num_test=num_test,
        num_classes=len(data.classes) if procedure.maps else len(np.unique(data.train.labels)),
        num_correct=round(share.value * num_test) if share and share.correct else None,
        accuracy=share.value if share else None,
        interval=share.interval if share else None,
        settings=best.settings,
        validation=best.validation,
        metrics={metric: score.value for metric, score in shares.items()} | others,
        correct=share.correct if share else None,
        scores=best.scores,
        alarms=best.alarms,
        seed=seed,
        seconds=round(time.monotonic() - start, 3),
    )


def _shown(name: str, subject: Subject) -> str:
    """The data set's name, and how its images are shown where that is not as ever."""
    size, noise = subject.origin.get("image_size"), subject.origin.get("noise_level")
    heard = " by its sounds" if "tower" in subject.origin else ""
    return name + (f" at {size} px" if size else "") + (f" with noise of t {noise}" if noise else "") + heard


def _place(data: LabeledData) -> Location:
    """The folder of both splits, or the one there is."""
    train, test = data.train.shards.path, data.test.shards.path
    return train if train == test else train.parent


def _task_of(
    procedure: Procedure,
    subject: Subject,
    data: LabeledData,
    cached: dict[Location, dict[str, np.ndarray]],
    seed: int,
    world: World,
) -> Any:
    """What the protocol's candidates answer to."""
    if procedure.maps:
        patches = {folder: found["patches"] for folder, found in cached.items()}
        return dense_task(subject, data, patches, seed, world.device)
    return _task(subject, data, cached, seed, world.device)


def _streamed_task(
    data: LabeledData, cached: dict[Location, dict[str, np.ndarray]], seed: int, world: World
) -> StreamedTask:
    def rows(part: Part) -> dict[str, Rows]:
        found = cast(dict[str, np.memmap], cached[part.shards.path])
        return {kind: Rows(RowFile(Path(str(values.filename))), part.rows) for kind, values in found.items()}

    return StreamedTask(
        train=rows(data.train),
        train_labels=data.train.labels,
        test=rows(data.test),
        test_labels=data.test.labels,
        num_classes=_num_classes(data),
        seed=seed,
        world=world,
    )


def _num_classes(data: LabeledData) -> int:
    return max(len(data.classes), int(data.train.labels.max(initial=-1)) + 1)


def _task(
    subject: Subject, data: LabeledData, cached: dict[Location, dict[str, np.ndarray]], seed: int, device: torch.device
) -> Task:
    task = Task(
        train=_rows(cached[data.train.shards.path], data.train, device),
        train_labels=torch.from_numpy(data.train.labels).to(device),
        test=_rows(cached[data.test.shards.path], data.test, device),
        test_labels=torch.from_numpy(data.test.labels).to(device),
        num_classes=_num_classes(data),
        seed=seed,
    )
    for kind, values in [*task.train.items(), *task.test.items()]:
        if not values.isfinite().all():
            raise UserError(f"model {subject.name}: its {kind} features are not all finite; the weights are broken")
    return task


def _rows(features: dict[str, np.ndarray], part: Part, device: torch.device) -> dict[str, torch.Tensor]:
    return {kind: torch.from_numpy(values[part.rows]).to(device) for kind, values in features.items()}


def _key(protocol: Protocol, procedure: Procedure, subject: Subject, data: LabeledData, seed: int) -> str:
    parts = [_KEY_FORMAT, protocol, str(seed), data.split]
    parts += [features_key(subject, part.shards, procedure.num_blocks) for part in (data.train, data.test)]
    if procedure.maps:
        parts += [data.train.digest(), data.test.digest()]
    parts += [part for part in (procedure.revision, procedure.variant) if part]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def results_folder(target: str) -> Path:
    """Where results go unless the caller says otherwise: RUN/eval, or eval-<MODEL> where that is no run."""
    run_dir = run_of(target)
    return run_dir / "eval" if run_dir is not None else Path(f"eval-{slug(target)}")
