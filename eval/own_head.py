"""Judges a run by its method's own question, which its own head answers: of samples that it has never seen.

Methods that ask something with a right answer say so (``Objective.told``): whether frames follow each other, which of
six sequences is shuffled, whether time runs forwards, whether a sound belongs to an image. The whole objective of a
checkpoint is asked once about each video or image, as training would show it in its first epoch by ``--seed``: one
fixed draw of crops and questions.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64

from eyespot.data_pipeline.atomic_files import write_bytes
from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.loading.sample_files import Ids, complete_samples, left_out, members_shown
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.run_objectives import objectives_of
from eyespot.eval.evaluate import results_folder
from eyespot.eval.results.result import EACH, Result, Role, Score, read_result, slug
from eyespot.eval.results.significance import wilson
from eyespot.pretrain.checkpoints import reader as checkpoint
from eyespot.pretrain.distributed.arithmetic import rounds_to_tf32
from eyespot.pretrain.distributed.collectives import agreed, any_rank, gather_objects_to_first
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.redaction import masked, masked_values
from eyespot.pretrain.run_json import to_values
from eyespot.pretrain.run_record import RunRecord

FRAMES_AT_ONCE = 128
_KEY_FORMAT = "eyespot-own-head/1"


@dataclass(kw_only=True, slots=True)
class Asked:
    """An objective that is asked its own question."""

    name: str
    tag: str
    role: Role
    objective: Objective
    views: ViewSpec
    settings: str
    """Of the method and the encoder, as JSON: beside the weights what decides its answers."""
    origin: dict[str, str | int] = field(default_factory=dict)

    def key(self, shards: ShardFolder, seed: int, ids: Ids | None = None) -> str:
        """Digest of all that determines the result.

        Args:
            shards: where the samples are.
            seed: of what is drawn.
            ids: which samples are asked about; None = all.
        """
        frames = shards.manifest.frames
        digest = hashlib.sha256("\n".join([_KEY_FORMAT, str(seed), self.settings, repr(self.views)]).encode())
        digest.update(shards.manifest.index_sha256.encode() + b"tf32" * rounds_to_tf32())
        for member in members_shown(self.views, shards):
            digest.update(shards.manifest.members[member.extension].sha256.encode())
        if frames is not None:
            digest.update((frames.frames_sha256 + frames.clips_sha256 + frames.motion_sha256).encode())
        for name, tensor in sorted(self.objective.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        digest.update(ids_digest(ids).encode())
        return digest.hexdigest()[:32]


def ids_digest(ids: Ids | None) -> str:
    """sha256 of which samples are asked about; empty where it is all."""
    return "" if ids is None else hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()


def asked_of(target: str, seed: int, wanted: Callable[[Objective], bool]) -> list[Asked]:
    """The run's objective at its newest checkpoint, or at the one that is named, and as it begins.

    Args:
        target: a run folder or one of its checkpoints.
        seed: of the random weights.
        wanted: whether an objective can be asked.

    Returns:
        Nothing where ``target`` is no run, or its objective cannot be asked.

    Raises:
        UserError: the run has no checkpoint, or a damaged one.
    """
    own = objectives_of(target, seed, wanted)
    if own is None:
        return []
    run, run_dir = own.run, own.run_dir
    mean, std = RunRecord.read(RunRecord.path(run_dir)).mean_and_std(run_dir)
    step, tag = checkpoint.read_meta(own.checkpoint).step, own.checkpoint.absolute().name
    known = {
        "views": replace(own.trained.views(), mean=mean, std=std),
        "settings": json.dumps(to_values([run.encoder, run.objective]), sort_keys=True),
    }
    origin: dict[str, str | int] = {"run": str(run_dir), "checkpoint": tag, "step": step, "encoder": run.encoder.name}
    twin: dict[str, str | int] = {"encoder": run.encoder.name, "seed": seed}
    return [
        Asked(
            name=f"{own.recipe}, step {step:,}",
            tag=tag,
            role="encoder",
            objective=own.trained,
            origin=origin,
            **known,
        ),
        Asked(
            name=f"random weights (seed {seed})",
            tag=f"random-seed{seed}",
            role="random",
            objective=own.untrained,
            origin=twin,
            **known,
        ),
    ]


def has_question(objective: Objective) -> bool:
    """Whether it asks something that has a right answer."""
    return objective.chance is not None


def result_once(path: Path, key: str, world: World, compute: Callable[[], Result | None]) -> list[Result]:
    """The result in a file, where it has that key; else what all ranks compute, and rank 0 writes. Rank 0 returns it.

    Args:
        path: of the file.
        key: of the result.
        world: this process.
        compute: called on all ranks; gives it on rank 0.
    """
    known = read_result(path)
    if any_rank([world.rank == 0 and (known is None or known.key != key)])[0]:
        known = compute()
        if world.rank == 0 and known is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, (json.dumps(asdict(known), indent=1) + "\n").encode())
    return [known] if world.rank == 0 and known is not None else []


def judge_own_head(
    target: str, shards: Path, *, out: Path | None, seed: int, world: World, required: bool = True
) -> list[Result]:
    """Judges the run ``target`` and the same objective with random weights; writes and returns the results.

    Ranks share the videos; rank 0 alone returns something.

    Args:
        target: a run folder or one of its checkpoints.
        shards: videos; the test split where there is one.
        out: folder for results; None = as for `judge`.
        seed: of the random weights, and of the crops and questions.
        world: this process.
        required: whether it is wrong to ask a target that has no such head; else there are no results.

    Raises:
        UserError: something about the target, the shards or the folder is wrong.
    """
    out = out or results_folder(target)
    with agreed():
        asked = asked_of(target, seed, has_question)
        if required and not asked:
            raise UserError(
                f"model {target}: has no head that answers a question; own-head judges runs of methods such as"
                " frame_order, odd_one_out, arrow_of_time and audio_visual (--objective.form distance)"
            )
        found = find_shards(shards, "test", "train", hashes=world.local_rank == 0)
        ids: Ids | None = None
        try:
            for each in asked[:1]:
                ids = complete_samples(each.views, found)
        except UserError:
            if required:
                raise
            asked = []
    results: list[Result] = []
    for each in asked:
        data = f"{slug(found.manifest.name)}-{found.manifest.index_sha256[:6]}"
        key = each.key(found, seed, ids)

        def compute(each: Asked = each, key: str = key) -> Result | None:
            start = time.monotonic()
            shares = _told(each, found, ids, seed, world)
            if world.rank:
                return None
            return _result(each, found, ids, shares, key, seed, round(time.monotonic() - start, 3))

        results += result_once(out / f"own-head_{data}_{each.tag}.json", key, world, compute)
    return results


def _told(asked: Asked, shards: ShardFolder, ids: Ids | None, seed: int, world: World) -> Float64[np.ndarray, " n"]:
    """Of each video the share of questions that are answered right; on rank 0 of all."""
    objective = asked.objective.to(world.device).eval()
    num_frames = sum(shape[0] if len(shape) == 4 else 1 for shape in asked.views.shapes())
    spec = LoaderSpec(
        shards=shards,
        views=asked.views,
        ids=ids,
        batch_size=max(1, FRAMES_AT_ONCE // num_frames) * world.size,
        seed=seed,
        device=str(world.device),
    )

    def parts() -> Iterator[Float64[np.ndarray, " b"]]:
        share = (shards.manifest.num_samples if ids is None else len(ids)) // world.size
        with (
            ProgressBar(f"own head: {asked.name}", share, transient=True, shown=world.rank == 0) as bar,
            closing(make_pass(spec, world.rank, world.size)) as batches,
        ):
            for batch in batches:
                yield objective.told(batch).double().cpu().numpy()
                bar.advance(len(batch))

    with agreed(), torch.inference_mode():
        own = np.concatenate([np.zeros(0), *parts()])
    return np.concatenate(gather_objects_to_first(own) or [own])


def _result(
    asked: Asked,
    shards: ShardFolder,
    ids: Ids | None,
    shares: Float64[np.ndarray, " n"],
    key: str,
    seed: int,
    seconds: float,
) -> Result:
    score = score_of(shares)
    is_test = shards.is_split and shards.path.name == "test"
    of: Literal["images", "videos"] = "videos" if shards.manifest.frames is not None else "images"
    each = [round(float(share), 6) for share in shares]
    split = "its own test split" if is_test else f"all {of} of the folder, seen in training or not"
    return asked_result(
        "own-head",
        asked,
        shards,
        score,
        tested=f"{shards.manifest.index_sha256} {asked.settings} {seed}{ids_digest(ids)}",
        key=key,
        split=split + left_out(asked.views, shards, ids),
        num_train=0,
        num_test=len(shares),
        settings={"chance": round(asked.objective.chance or 0.0, 4)},
        scores={} if score.correct else {EACH: Score(value=float(np.mean(each)), values=each)},
        seed=seed,
        seconds=seconds,
        samples=of,
    )


def asked_result(
    protocol: Literal["own-head", "captions"],
    asked: Asked,
    shards: ShardFolder,
    score: Score,
    *,
    tested: str,
    metrics: dict[str, float] | None = None,
    **known: Any,
) -> Result:
    """What is alike in the results of questions that a method's own head answers.

    Args:
        protocol: which question.
        asked: who answered.
        shards: what was asked about.
        score: how well.
        tested: what determines the questions; its digest says which results can be compared.
        metrics: beside the score.
        known: the other fields.
    """
    metric = f"{protocol}/{type(asked.objective).__name__}"
    return Result(
        protocol=protocol,
        metric=metric,
        name=asked.name,
        role=asked.role,
        origin=masked_values(asked.origin),
        data=shards.manifest.name,
        shards=masked(str(shards.path)),
        test_sha256=hashlib.sha256(tested.encode()).hexdigest(),
        num_classes=0,
        num_correct=round(score.value * known["num_test"]) if score.correct else None,
        accuracy=score.value,
        interval=score.interval,
        validation=None,
        metrics={metric: score.value, **(metrics or {})},
        correct=score.correct,
        **known,
    )


def score_of(shares: Float64[np.ndarray, " n"]) -> Score:
    """The mean over videos. Wilson's interval counts each video once, however many questions it is asked.

    The answers about one video depend on each other; shares between 0 and 1 vary less than 0 and 1 do, so that the
    interval is rather too wide than too narrow.
    """
    if np.isin(shares, (0.0, 1.0)).all():
        return Score.of(shares == 1)
    mean = float(shares.mean())
    low, high = wilson(round(mean * len(shares)), len(shares))
    return Score(value=mean, interval=(min(low, mean), max(high, mean)))
