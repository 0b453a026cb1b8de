"""Zero-shot classification: an image has the class whose prompts lie closest to it, and nobody has learned the classes.

The vector of a class is the mean of its prompts' unit vectors, made a unit vector again (Radford et al. 2021,
arXiv:2103.00020, section 3.1.4); an image takes the class of the largest cosine.
"""

import hashlib
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn.functional import normalize

from eyespot.data_pipeline.augment.views import TextView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.tokenizer import tokenizer_digests
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import plural
from eyespot.eval.evaluate import results_folder
from eyespot.eval.joint.prompts import Wording, prompt_tokens
from eyespot.eval.joint.towers import asked_towers, embed_images, embed_texts
from eyespot.eval.own_head import Asked, result_once
from eyespot.eval.protocols.labeled_data import Part
from eyespot.eval.results.result import Result, Score, slug
from eyespot.eval.results.tables import class_metric
from eyespot.pretrain.distributed.collectives import agreed, gather_objects_to_first
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.redaction import masked, masked_values

TOP = 5
_FORMAT = "eyespot-zero-shot/1"


def judge_zero_shot(
    target: str, shards: Path, *, wording: Wording, out: Path | None, seed: int, world: World
) -> list[Result]:
    """Judges the run ``target`` and the same objective with random weights; writes and returns the results.

    Ranks share the images; rank 0 alone returns something.

    Args:
        target: a run folder or one of its checkpoints, of a method with towers of images and text.
        shards: with labels; the test split where there is one.
        wording: names of the classes, and templates.
        out: folder for results; None = as for `judge`.
        seed: of the random weights.
        world: this process.

    Raises:
        UserError: something about the target, the shards, the names, the templates or the folder is wrong.
    """
    out = out or results_folder(target)
    with agreed():
        templates = wording.templates()
        asked = asked_towers(target, seed, "zero-shot", "text")
        text = asked[0].views.views[1]
        assert isinstance(text, TextView)
        found = find_shards(shards, "test", "train", hashes=world.local_rank == 0)
        part, names = _labeled(found), wording.names(found.manifest.classes)
        if len(names) < 2:
            raise UserError(f"shards {found.named}: {len(names)} class; there is nothing to choose between")
        prompts = prompt_tokens(names, templates, text)
    results: list[Result] = []
    for each in asked:
        seen = replace(each, views=replace(each.views, views=each.views.views[:1]))  # images need no captions
        parts = [_FORMAT, seen.key(found, seed), part.digest(), *tokenizer_digests(each.views).values()]
        key = hashlib.sha256(json.dumps([*parts, names, templates]).encode()).hexdigest()[:32]
        data = f"{slug(found.manifest.name)}-{found.manifest.index_sha256[:6]}"
        compute = partial(_computed, each, part, names, prompts, key, seed, world)
        results += result_once(out / f"zero-shot_{data}_{each.tag}.json", key, world, compute)
    return results


def _labeled(shards: ShardFolder) -> Part:
    labels = shards.index["label"].astype(np.int64)
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise UserError(
            f"shards {shards.path}: none of {plural(len(labels), 'sample')} has a label; zero-shot compares with them"
        )
    return Part(shards=shards, rows=rows, labels=labels[rows])


def class_vectors(prompts: Float[Tensor, "classes prompts d"]) -> Float[Tensor, "classes d"]:
    """Of unit vectors of prompts the mean, made a unit vector again."""
    return normalize(prompts.double().mean(1), dim=1)


def nearest_classes(images: Float[Tensor, "b d"], classes: Float[Tensor, "classes d"]) -> Int[Tensor, "b top"]:
    """The classes of the largest cosines, up to five, the largest first."""
    return (images.double() @ classes.T).topk(min(TOP, len(classes)), dim=1).indices


def _computed(
    asked: Asked,
    part: Part,
    names: list[str],
    prompts: Int64[np.ndarray, "classes prompts context"],
    key: str,
    seed: int,
    world: World,
) -> Result | None:
    start = time.monotonic()
    objective = asked.objective.to(world.device).eval()
    places, answers = [part.rows[:0]], [np.zeros((0, min(TOP, len(names))), np.int64)]
    with agreed(), torch.inference_mode():
        vectors = embed_texts(objective, prompts.reshape(-1, prompts.shape[2]), world)
        classes = class_vectors(vectors.unflatten(0, prompts.shape[:2]))
        for some, images in embed_images(asked, part.shards, part.rows, world):
            if not (images.isfinite().all() and classes.isfinite().all()):
                raise UserError(f"model {asked.name}: its vectors are not all finite; the weights are broken")
            places.append(some)
            answers.append(nearest_classes(images, classes).numpy())
    gathered = gather_objects_to_first((np.concatenate(places), np.concatenate(answers)))
    if gathered is None:
        return None
    order = np.argsort(np.concatenate([own for own, _ in gathered]))
    said = np.concatenate([own for _, own in gathered])[order]
    return _result(asked, part, names, prompts.shape[1], said, key, seed, round(time.monotonic() - start, 3))


def _result(
    asked: Asked,
    part: Part,
    names: list[str],
    num_prompts: int,
    said: Int64[np.ndarray, "n top"],
    key: str,
    seed: int,
    seconds: float,
) -> Result:
    shards, right = part.shards, said == part.labels[:, None]
    first = Score.of(right[:, 0])
    counts = np.bincount(part.labels, minlength=len(names))
    of_classes = np.bincount(part.labels, right[:, 0], minlength=len(names)) / np.maximum(counts, 1)
    top = {f"top-{TOP}": Score.of(right.any(1))} if len(names) > TOP else {}
    metrics = {"zero-shot/prompts": first.value} | {f"zero-shot/{name}": score.value for name, score in top.items()}
    metrics |= {
        class_metric(number, int(counts[number]), name): round(float(of_classes[number]), 6)
        for number, name in enumerate(names)
        if counts[number]
    }
    is_test = shards.is_split and shards.path.name == "test"
    return Result(
        key=key,
        protocol="zero-shot",
        metric="zero-shot/prompts",
        name=asked.name,
        role=asked.role,
        origin=masked_values(asked.origin),
        data=shards.manifest.name,
        shards=masked(str(shards.path)),
        split="its own test split" if is_test else "all labelled images of the folder, seen in training or not",
        test_sha256=part.digest(),
        num_train=0,
        num_test=len(said),
        num_classes=len(names),
        num_correct=int(right[:, 0].sum()),
        accuracy=first.value,
        interval=first.interval,
        settings={
            "prompts": str(num_prompts),
            "chance": 1 / len(names),
            "largest class": float(counts.max() / counts.sum()),
        },
        validation=None,
        metrics=metrics,
        correct=first.correct,
        scores=top,
        seed=seed,
        seconds=seconds,
    )
