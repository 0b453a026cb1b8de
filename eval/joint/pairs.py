"""Judges a run by pairs that it has not seen: who finds whom, and which of two pairs is true.

"joint-retrieval": every image asks, and all captions, sounds or depth maps answer in the order of their cosine; and the
other way round. recall@k is the share of those that find a right answer among the first k. "correspondence": whether an
image lies closer to what is beside it than to what is beside another (Arandjelovic & Zisserman 2017, arXiv:1705.08168).
"""

import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.tokenizer import tokenizer_digests
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.evaluate import results_folder
from eyespot.eval.joint.pair_ranks import area, area_interval, false_partners, found_first, ranks, true_and_false
from eyespot.eval.joint.towers import Side, asked_towers, beside, embed_pairs
from eyespot.eval.own_head import Asked, result_once, score_of
from eyespot.eval.results.result import Result, Score, slug
from eyespot.pretrain.distributed.collectives import agreed
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.redaction import masked, masked_values

OfPairs = Literal["joint-retrieval", "correspondence"]
KS = (1, 5, 10)
MOST_SAMPLES = 5000
"""Where nobody says otherwise; papers ask of COCO's 5,000 test images."""
_FORMAT = "eyespot-pairs/1"


def judge_pairs(
    protocol: OfPairs,
    target: str,
    shards: Path,
    *,
    num_samples: int | None = None,
    out: Path | None,
    seed: int,
    world: World,
) -> list[Result]:
    """Judges the run ``target`` and the same objective with random weights; writes and returns the results.

    Ranks share the samples; rank 0 alone returns something.

    Args:
        protocol: what is asked.
        target: a run folder or one of its checkpoints.
        shards: images with captions, sound or depth; the test split where there is one.
        num_samples: at most so many, spread evenly over the folder; None = 5,000.
        out: folder for results; None = as for `judge`.
        seed: of the random weights, and of the false pairs.
        world: this process.

    Raises:
        UserError: something about the target, the shards or the folder is wrong.
    """
    out = out or results_folder(target)
    with agreed():
        asked = asked_towers(target, seed, protocol)
        found = find_shards(shards, "test", "train", hashes=world.local_rank == 0)
        ids = judged_ids(found, asked[0].views, num_samples or MOST_SAMPLES)
    results: list[Result] = []
    for each in asked:
        data = f"{slug(found.manifest.name)}-{found.manifest.index_sha256[:6]}"
        key = _key(protocol, each, found, ids, seed)
        compute = partial(_computed, protocol, each, found, ids, key, seed, world)
        results += result_once(out / f"{protocol}_{data}_{each.tag}.json", key, world, compute)
    return results


def judged_ids(shards: ShardFolder, views: ViewSpec, most: int) -> Int64[np.ndarray, " n"]:
    """The samples that have what the second view shows; of too many some, spread evenly.

    Raises:
        UserError: there are fewer than two.
    """
    extension = beside(views, shards)
    having = np.flatnonzero(shards.member(extension)["size"] > 0)
    if len(having) < 2:
        raise UserError(
            f"shards {shards.path}: {len(having)} of"
            f" {plural(shards.manifest.num_samples, 'sample')} have a .{extension} beside"
            " their image; a pair is compared with others: pack two or more"
        )
    count = min(most, len(having))
    return having[np.arange(count) * len(having) // count].astype(np.int64)


def _key(protocol: OfPairs, asked: Asked, shards: ShardFolder, ids: Int64[np.ndarray, " n"], seed: int) -> str:
    words = sorted(tokenizer_digests(asked.views).values())
    parts = [_FORMAT, protocol, asked.key(shards, seed), _data(asked, shards, ids), *words]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _data(asked: Asked, shards: ShardFolder, ids: Int64[np.ndarray, " n"]) -> str:
    """Which samples these are, and what lies beside them."""
    manifest, frames = shards.manifest, shards.manifest.frames
    parts = [manifest.index_sha256, manifest.members[beside(asked.views, shards)].sha256]
    parts += [frames.frames_sha256, frames.clips_sha256] if frames is not None else []
    return "".join([*parts, hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()])


def _computed(
    protocol: OfPairs,
    asked: Asked,
    shards: ShardFolder,
    ids: Int64[np.ndarray, " n"],
    key: str,
    seed: int,
    world: World,
) -> Result | None:
    sides = embed_pairs(asked, shards, ids, world)
    with agreed():
        return None if sides is None else _result(protocol, asked, shards, ids, sides, key, seed)


def _result(
    protocol: OfPairs,
    asked: Asked,
    shards: ShardFolder,
    ids: Int64[np.ndarray, " n"],
    sides: tuple[Side, Side],
    key: str,
    seed: int,
) -> Result:
    start = time.monotonic()
    _, kind = asked.objective.joint or ("", "")
    for name, side in zip(("image", kind), sides, strict=True):
        if not side.vectors.isfinite().all():
            raise UserError(f"model {asked.name}: its {name} vectors are not all finite; the weights are broken")
    scores, settings = _ASKED[protocol](kind, *sides, shards, ids, seed)
    metric = f"correspondence/{kind}" if protocol == "correspondence" else f"joint-retrieval/image_to_{kind}"
    (_, reported), *others = scores.items()
    test = f"{_data(asked, shards, ids)}{seed if protocol == 'correspondence' else ''}"
    return Result(
        key=key,
        protocol=protocol,
        metric=metric,
        name=asked.name,
        role=asked.role,
        origin=masked_values(asked.origin),
        data=shards.manifest.name,
        shards=masked(str(shards.path)),
        split=_split(shards, ids),
        test_sha256=hashlib.sha256(test.encode()).hexdigest(),
        num_train=0,
        num_test=len(ids),
        num_classes=0,
        num_correct=round(reported.value * len(ids)),
        accuracy=reported.value,
        interval=reported.interval,
        settings=settings,
        validation=None,
        metrics={f"{metric}/{name}": score.value for name, score in scores.items()},
        correct=reported.correct,
        scores=dict(others),
        seed=seed,
        seconds=round(time.monotonic() - start, 3),
    )


def _split(shards: ShardFolder, ids: Int64[np.ndarray, " n"]) -> str:
    is_test = shards.is_split and shards.path.name == "test"
    where = "its own test split" if is_test else "the folder, seen in training or not"
    return f"{len(ids):,} of the {plural(shards.manifest.num_samples, 'sample')} of {where}"


def _retrieval(
    kind: str, image: Side, other: Side, shards: ShardFolder, ids: Int64[np.ndarray, " n"], seed: int
) -> tuple[dict[str, Score], dict[str, float | str]]:
    """Recall and median rank, images first; and what random order would give."""
    scores: dict[str, Score] = {}
    settings: dict[str, float | str] = {}
    for asks, side in (("image", image), (kind, other)):
        found = ranks(image, other, image_asks=asks == "image")
        by_chance = [found.by_chance(side.owners, k) for k in KS]
        settings |= {"chance": by_chance[0]} if asks == "image" else {}
        settings[f"chance @{', @'.join(map(str, KS))} ({asks} asks)"] = ", ".join(f"{share:.2g}" for share in by_chance)
        for k in KS:
            scores[f"recall@{k} ({asks} asks)"] = score_of(found_first(found, side.owners, k))
        scores[f"median rank ({asks} asks)"] = Score(value=float(np.median(found.first)))
    return scores, settings


def _correspondence(
    kind: str, image: Side, other: Side, shards: ShardFolder, ids: Int64[np.ndarray, " n"], seed: int
) -> tuple[dict[str, Score], dict[str, float | str]]:
    """How often the true pair's cosine is above the false one's, and the area under the ROC curve."""
    try:
        partners = false_partners(image, other, ids, shards.manifest.num_samples, seed)
    except UserError as error:
        raise UserError(f"shards {shards.path}: {error}") from error
    true, false = true_and_false(image, other, partners)
    curve = Score(value=area(true, false), interval=area_interval(true, false))
    return {"accuracy": Score.of(true > false), "AUC": curve}, {"chance": 0.5}


_ASKED: dict[OfPairs, Callable[..., tuple[dict[str, Score], dict[str, float | str]]]] = {
    "joint-retrieval": _retrieval,
    "correspondence": _correspondence,
}
