"""Specimens: the few images that a page shows an encoder with. The same ones every time, whatever the run."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from eyespot.data_pipeline.augment.views import ViewSpec
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_selection
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.encoders.subject import Subject
from eyespot.eval.protocols.labeled_data import LabeledData, Part, all_data, labeled_data
from eyespot.pretrain.networks.encoders import encode

NUM_PICTURED = 8
NUM_MAPPED = 500
"""Test images that are laid out in the plane and named by their neighbours."""
NUM_BANK = 1000
"""Training images among which neighbours are looked for."""
MAX_CLASSES = 20
"""As many as a page can tell apart; of more, so many are drawn by lot."""
_SEED = 0
_AT_ONCE = 64


@dataclass(kw_only=True, slots=True)
class Few:
    """Some samples of one shard folder."""

    shards: ShardFolder
    ids: Int64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    """Place among the shown classes; -1 where there are none."""

    def at(self, places: Int[np.ndarray, " m"]) -> "Few":
        """Those at some places."""
        return Few(shards=self.shards, ids=self.ids[places], labels=self.labels[places])


@dataclass(kw_only=True, slots=True)
class Specimens:
    """What is looked at."""

    data: str
    split: str
    classes: list[str]
    """Names of the shown classes; empty where the images have no labels."""
    num_all_classes: int
    pictured: Few
    mapped: Few
    bank: Few


def choose_specimens(shards: ShardFolder) -> Specimens:
    """Draws the images: from the test split and, to look for neighbours, from train.

    Without labels both come from the same images, and nothing of the one is in the other.

    Raises:
        UserError: there is hardly an image in the shards.
    """
    try:
        return _labeled(labeled_data(shards, _SEED))
    except UserError:
        return _unlabeled(all_data(shards.split("test") or shards))


def images_of(few: Few, views: ViewSpec, device: torch.device) -> Float[Tensor, "n 3 h w"]:
    """The images of a few samples, as ``views`` makes them."""
    return torch.cat(list(_batches(few, views, device)))


def features_of_few(
    few: Few, subject: Subject, device: torch.device, kind: str, say: Callable[[str], None]
) -> Float[Tensor, "n d"]:
    """What the encoder makes of them, float32 on the CPU.

    Args:
        few: which samples.
        subject: the encoder, on ``device``.
        device: where it computes.
        kind: of features: "cls", "mean"; the encoder's first where it has none of that name.
        say: is told how far it is.
    """
    rows: list[Tensor] = []
    for images in _batches(few, subject.views, device):
        with torch.inference_mode():
            kinds = encode(subject.encoder, images)
        rows.append(kinds.get(kind, next(iter(kinds.values()))).float().cpu())
        say(f"{sum(map(len, rows))} of {len(few.ids)} images")
    return torch.cat(rows).clone()


def _batches(few: Few, views: ViewSpec, device: torch.device) -> Iterator[Float[Tensor, "_ 3 h w"]]:
    spec = LoaderSpec(shards=few.shards, views=views, batch_size=_AT_ONCE, device=str(device))
    with closing(make_selection(spec, few.ids)) as batches:
        for batch in batches:
            yield batch.views[0]


def _labeled(data: LabeledData) -> Specimens:
    draw = np.random.default_rng(_SEED)
    there = np.unique(data.test.labels)
    shown = np.sort(draw.permutation(there)[:MAX_CLASSES])

    def few(part: Part, count: int) -> Few:
        rows = draw.permutation(np.flatnonzero(np.isin(part.labels, shown)))[:count]
        return Few(shards=part.shards, ids=part.rows[rows], labels=np.searchsorted(shown, part.labels[rows]))

    mapped, bank = few(data.test, NUM_MAPPED), few(data.train, NUM_BANK)
    first = _one_of_each(mapped.labels)[:NUM_PICTURED]
    return Specimens(
        data=data.name,
        split=data.split,
        classes=[data.classes[label] for label in shown],
        num_all_classes=len(there),
        pictured=mapped.at(first),
        mapped=mapped,
        bank=bank,
    )


def _unlabeled(data: LabeledData) -> Specimens:
    rows = np.random.default_rng(_SEED).permutation(data.test.rows)
    num_mapped = min(NUM_MAPPED, len(rows) // 2)
    parts = rows[:num_mapped], rows[num_mapped : num_mapped + NUM_BANK], rows[:num_mapped][:NUM_PICTURED]
    mapped, bank, pictured = (Few(shards=data.test.shards, ids=ids, labels=np.full(len(ids), -1)) for ids in parts)
    return Specimens(
        data=data.name, split=data.split, classes=[], num_all_classes=0, pictured=pictured, mapped=mapped, bank=bank
    )


def _one_of_each(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Places in an order that takes one of each class, then a second of each, and so on."""
    order = np.argsort(labels, kind="stable")
    rounds = np.empty_like(order)
    rounds[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return np.argsort(rounds, kind="stable")
