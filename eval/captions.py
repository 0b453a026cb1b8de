"""Judges a run by how well it foretells the captions of images that it has never seen.

Methods that say how likely a caption is, given its image (``Objective.caption_log_likelihood``), are asked once about
each image of test/ and one of its captions, which follows from ``--seed``. With l its log-likelihood and n the number
of its tokens behind the first one, perplexity is over all captions

    exp(-sum l / sum n):

among how many tokens, all as likely, one would have to guess. Beside it stand what it is worth to see the image, which
is the perplexity of the same captions beside images of others, and what a table does that has counted the tokens of the
captions of train/ and sees neither the image nor the words before (Witten & Bell 1991 for those that it never met).

What is right or wrong of a caption: is it likelier beside its own image than beside another's?
"""

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from eyespot.data_pipeline.augment.views import TextView, ViewSpec, center_view
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.loading.members.tokenizer import load_tokenizer, tokenizer_digests
from eyespot.data_pipeline.loading.mixtures.mixed_shards import find_shards
from eyespot.data_pipeline.loading.sample_files import Ids, complete_samples, left_out
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.members.captions import BadMember, captions_of
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.evaluate import results_folder
from eyespot.eval.own_head import Asked, asked_of, asked_result, ids_digest, result_once
from eyespot.eval.results.result import Result, Score, slug
from eyespot.pretrain.distributed.collectives import agreed, gather_objects_to_first
from eyespot.pretrain.distributed.process_group import World

AT_ONCE = 32
"""Images of a rank: a number for each token of the vocabulary at each word takes memory."""
REVISION = "eyespot-captions/1"
Numbers = Float64[np.ndarray, "n 4"]
"""Of each caption: log-likelihood beside its own image, beside another's and by the table; and the number of tokens."""


def judge_captions(target: str, shards: Path, *, out: Path | None, seed: int, world: World) -> list[Result]:
    """Judges the run ``target`` and the same objective with random weights; writes and returns the results.

    Ranks share the images; rank 0 alone returns something.

    Args:
        target: a run folder or one of its checkpoints.
        shards: folder with train/ and test/, both with captions.
        out: folder for results; None = as for `judge`.
        seed: of the random weights, of the captions and of the images beside them.
        world: this process.

    Raises:
        UserError: something about the target, the shards or the folder is wrong.
    """
    out = out or results_folder(target)
    with agreed():
        asked = [looking(each) for each in asked_of(target, seed, lambda objective: objective.scores_captions)]
        if not asked:
            raise UserError(f"model {target}: foretells no captions; captions judges runs of methods such as virtex")
        train, test = captioned_splits(shards, hashes=world.local_rank == 0)
        ids = complete_samples(asked[0].views, test)

    @cache
    def table(text: TextView) -> Float64[np.ndarray, " tokens"]:
        """Every rank reads all captions: they are short."""
        with agreed():
            return counted(train, text)

    results: list[Result] = []
    for each in asked:
        data = f"{slug(test.manifest.name)}-{test.manifest.index_sha256[:6]}"
        known = [REVISION, each.key(test, seed, ids), test.manifest_sha256, train.manifest_sha256]
        known += [f"{name} {digest}" for name, digest in sorted(tokenizer_digests(each.views).items())]
        key = hashlib.sha256("\n".join(known).encode()).hexdigest()[:32]

        def compute(each: Asked = each, key: str = key) -> Result | None:
            start = time.monotonic()
            numbers = _numbers(each, test, ids, table(_text_of(each.views)), seed, world)
            if world.rank:
                return None
            return _result(each, train, test, ids, numbers, key, seed, round(time.monotonic() - start, 3))

        results += result_once(out / f"captions_{data}_{each.tag}.json", key, world, compute)
    return results


def perplexity(log_likelihoods: Float64[np.ndarray, " n"], counts: Float64[np.ndarray, " n"]) -> Score:
    """exp(-sum l / sum n); its interval of 95 % is that of a ratio of means (delta method), over captions."""
    mean, half = _ratio(-log_likelihoods, counts)
    with np.errstate(over="ignore"):  # beyond 709 nats a token it is infinite
        value, low, high = np.exp([mean, mean - half, mean + half]).tolist()
    return Score(value=value, interval=(low, high))


def gain(numbers: Numbers) -> Score:
    """By how many nats a token the own image helps more than another's: log of the perplexities' ratio, paired."""
    mean, half = _ratio(numbers[:, 0] - numbers[:, 1], numbers[:, 3])
    return Score(value=mean, interval=(mean - half, mean + half))


def _ratio(sums: Float64[np.ndarray, " n"], counts: Float64[np.ndarray, " n"]) -> tuple[float, float]:
    ratio = sums.sum() / counts.sum()
    spread = np.square(sums - ratio * counts).sum() * len(sums) / max(1, len(sums) - 1)
    return float(ratio), float(1.96 * math.sqrt(spread) / counts.sum())


def witten_bell(counts: Int64[np.ndarray, " tokens"]) -> Float64[np.ndarray, " tokens"]:
    """Log-probability of each token, by how often it was met.

    Those never met share what the others' kinds make up among their number and themselves (method C).
    """
    total, kinds = int(counts.sum()), int((counts > 0).sum())
    unmet = len(counts) - kinds
    spare = kinds if unmet else 0
    return np.log(np.where(counts > 0, counts, spare / max(1, unmet)) / (total + spare))


def _text_of(views: ViewSpec) -> TextView:
    return next(view for view in views.views if isinstance(view, TextView))


def looking(asked: Asked) -> Asked:
    """The whole image, another's, and a caption."""
    own = center_view(asked.objective.image_size)
    views = replace(asked.views, views=(own, replace(own, partner=True), _text_of(asked.views)))
    return replace(asked, views=views)


def captioned_splits(shards: Path, *, hashes: bool) -> tuple[ShardFolder, ShardFolder]:
    """Train and test of a folder.

    Raises:
        UserError: it has not both, or one has no captions.
    """
    test = find_shards(shards, "test", "train", hashes=hashes)
    train = test.split("train")
    if train is None or test.path.name != "test":
        raise UserError(
            f"shards {shards}: captions counts words of train/ and asks about test/; name a folder that has both"
        )
    for part in (train, test):
        if "txt" not in part.manifest.members:
            raise UserError(f"shards {part.path}: have no captions; pack images with texts beside them (docs/data.md)")
    return train, test


def counted(train: ShardFolder, text: TextView) -> Float64[np.ndarray, " tokens"]:
    """Log-probability of each token, from all captions of shards.

    Args:
        train: the shards.
        text: how the captions are read.

    Raises:
        UserError: a caption is damaged.
    """
    tokenizer = load_tokenizer(text.tokenizer, text.context)
    counts = np.zeros(tokenizer.num_tokens, np.int64)
    for captions in _captions(train):
        rows = tokenizer(captions)
        ends = rows == tokenizer.end
        last = np.where(ends.any(1), ends.argmax(1), rows.shape[1] - 1)
        np.add.at(counts, rows[asked_of_each(rows, last)], 1)
    if not counts.any():
        raise UserError(f"shards {train.path}: no sample has a caption, so there are no words to count; pack some")
    return witten_bell(counts)


def _captions(shards: ShardFolder) -> Iterator[list[str]]:
    for sample, (offset, size, _) in enumerate(shards.member("txt").tolist()):
        if size:
            try:
                yield captions_of(shards.read_tar(int(shards.index["tar"][sample]), offset, size))
            except BadMember as error:
                raise UserError(
                    f"shards {shards.path}: sample {sample}: {error}; run: eyespot shards verify"
                ) from error


def asked_of_each(
    ids: Int64[np.ndarray, "n context"], counts: Int64[np.ndarray, " n"]
) -> Bool[np.ndarray, "n context"]:
    """Which tokens are asked: so many behind each text's first one."""
    place = np.arange(ids.shape[1])
    return (place > 0) & (place <= counts[:, None])


def _numbers(
    asked: Asked,
    shards: ShardFolder,
    ids: Ids | None,
    table: Float64[np.ndarray, " tokens"],
    seed: int,
    world: World,
) -> Numbers:
    """Of every caption of the shards; on rank 0 of all."""
    objective = asked.objective.to(world.device).eval()
    spec = LoaderSpec(
        shards=shards, views=asked.views, ids=ids, batch_size=AT_ONCE * world.size, seed=seed, device=str(world.device)
    )

    def parts() -> Iterator[Numbers]:
        share = (shards.manifest.num_samples if ids is None else len(ids)) // world.size
        with (
            ProgressBar(f"captions: {asked.name}", share, transient=True, shown=world.rank == 0) as bar,
            closing(make_pass(spec, world.rank, world.size)) as batches,
        ):
            for batch in batches:
                own, other, texts = batch.views
                found, counts = objective.caption_log_likelihood(replace(batch, views=[own, texts]))
                elsewhere, _ = objective.caption_log_likelihood(replace(batch, views=[other, texts]))
                words, lengths = texts.cpu().numpy(), counts.cpu().numpy()
                unseen = np.where(asked_of_each(words, lengths), table[words], 0.0).sum(1)
                seen = [each.double().cpu().numpy() for each in (found, elsewhere)]
                yield np.stack([*seen, unseen, lengths], axis=1)
                bar.advance(len(batch))

    with agreed(), torch.inference_mode():
        mine = np.concatenate([np.zeros((0, 4)), *parts()])
        if not np.isfinite(mine).all():
            raise UserError(f"model {asked.name}: its log-likelihoods are not all finite; the weights are broken")
    every = np.concatenate(gather_objects_to_first(mine) or [mine])
    with agreed():
        if world.rank == 0 and not every[:, 3].any():
            raise UserError(
                f"shards {shards.path}: of its captions no token is asked for; take a tokenizer that knows their words"
            )
    return every


def _result(
    asked: Asked,
    train: ShardFolder,
    test: ShardFolder,
    ids: Ids | None,
    numbers: Numbers,
    key: str,
    seed: int,
    seconds: float,
) -> Result:
    own, other, table, counts = numbers.T
    scores = {
        "perplexity": perplexity(own, counts),
        "perplexity, others' images": perplexity(other, counts),
        "perplexity, counted words": perplexity(table, counts),
        "gain, nats a token": gain(numbers),
    }
    return asked_result(
        "captions",
        asked,
        test,
        Score.of(own > other),
        tested=f"{test.manifest_sha256} {_text_of(asked.views)} {seed}{ids_digest(ids)}",
        metrics={name: score.value for name, score in scores.items()},
        key=key,
        split="its own test split" + left_out(asked.views, test, ids),
        num_train=train.manifest.num_samples,
        num_test=len(numbers),
        settings={"chance": 0.5},
        scores=scores,
        seed=seed,
        seconds=seconds,
    )
