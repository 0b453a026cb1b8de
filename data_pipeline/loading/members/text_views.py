"""Captions as views show them: one of each sample's, as token ids."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.augment.views import TextView
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.members.tokenizer import Tokenizer
from eyespot.data_pipeline.loading.reader import Reader
from eyespot.data_pipeline.random_numbers import numbers_below, words
from eyespot.data_pipeline.shards.members.captions import BadMember, captions_of
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

Ids = Int64[np.ndarray, " n"]
READ_AT_ONCE = 256


def read_captions(shards: ShardFolder, ids: Ids) -> list[list[str]]:
    """All captions of some samples, in order; an empty list for a sample that has none.

    Raises:
        UserError: the shards have no captions, or one of these is damaged.
    """
    places, index = shards.member(TextView.extension), shards.index.copy()
    for name in ("offset", "size", "crc32"):
        index[name] = places[name]
    index["height"] = index["width"] = 0  # no images
    having = ids[places["size"][ids] > 0]
    found: dict[int, list[str]] = {}
    reader = Reader(shards, substitute=False, index=index)
    try:
        for some in np.split(having, range(READ_AT_ONCE, len(having), READ_AT_ONCE)):
            _, files = reader.start(some).result()
            for sample, file in zip(some.tolist(), files, strict=True):
                found[sample] = _captions(file, reader.describe(sample))
    finally:
        reader.close()
    return [found.get(sample, []) for sample in ids.tolist()]


def _captions(file: bytearray, sample: str) -> list[str]:
    try:
        return captions_of(file)
    except BadMember as error:
        raise UserError(f"{sample}: {error}; find all damage with: eyespot shards verify") from error


def caption_numbers(view: TextView, name: str, seed: int, epochs: Ids, ids: Ids, counts: Ids) -> Ids:
    """Which of its captions each sample shows: the first, or one that follows from (seed, epoch, id, name of the view).

    Args:
        view: what is asked for.
        name: of the view.
        seed: of the run.
        epochs: how often each sample had been seen before.
        ids: of the samples.
        counts: how many captions each has, at least one.
    """
    if view.line == "first":
        return np.zeros(len(ids), np.int64)
    return numbers_below(counts, words(seed, epochs, ids, f"{name} caption", 1)[:, 0])


def see_texts(
    files: Sequence[bytearray],
    view: TextView,
    tokenizer: Tokenizer,
    name: str,
    seed: int,
    epochs: Ids,
    ids: Ids,
    out: Int64[np.ndarray, "n context"],
    rows: slice,
) -> None:
    """Writes the token ids of some samples' captions; arguments as for ``caption_numbers``.

    Args:
        files: the texts of all samples.
        tokenizer: the view's.
        out: where the ids of all go.
        rows: which samples.

    Raises:
        RuntimeError: a text cannot be used.
    """
    try:
        captions = [captions_of(file) for file in files[rows]]
    except BadMember as error:
        raise RuntimeError(f"a text: {error}") from error
    counts = np.array([len(each) for each in captions], np.int64)
    chosen = caption_numbers(view, name, seed, epochs[rows], ids[rows], counts).tolist()
    out[rows] = tokenizer([each[number] for each, number in zip(captions, chosen, strict=True)])
