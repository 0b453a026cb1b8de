"""What both towers of a run make of samples: vectors of images, and of what lies beside them.

Samples are shown as everything is that is judged: the middle of the image, the first seconds' place in the middle of
the sound, depth as the image is cut. Of captions each is embedded. Samples are embedded in blocks that do not depend on
the number of processes, so that these give the same bits.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from eyespot.data_pipeline.augment.views import (
    AudioView,
    DepthView,
    ImageView,
    MemberView,
    TextView,
    View,
    ViewSpec,
    center_view,
)
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_pass
from eyespot.data_pipeline.loading.members.text_views import read_captions
from eyespot.data_pipeline.loading.members.tokenizer import Tokenizer, load_tokenizer
from eyespot.data_pipeline.loading.sample_files import sound_extension
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.own_head import Asked, asked_of
from eyespot.pretrain.distributed.collectives import agreed, gather_objects_to_first
from eyespot.pretrain.distributed.process_group import World
from eyespot.pretrain.objective import Objective

BLOCK = 128
"""Samples, and texts, that are embedded at once."""


@dataclass(kw_only=True, slots=True)
class Side:
    """What one tower makes of samples: a vector for each image, sound or depth map, or for each caption."""

    vectors: Float[Tensor, "m d"]
    """Unit vectors, on the CPU."""
    owners: Int64[np.ndarray, " m"]
    """Whose each is: places of the samples, ascending."""
    contents: Int64[np.ndarray, " m"]
    """What is shown: equal numbers are equal bytes of a file, or equal tokens of a caption."""


def asked_towers(target: str, seed: int, protocol: str, other: str | None = None) -> list[Asked]:
    """The run's objective at its newest checkpoint, or at the one that is named, and as it begins; shown still views.

    Args:
        target: a run folder or one of its checkpoints.
        seed: of the objective as it begins.
        protocol: that asks.
        other: what must be beside the images: "text"; None = anything.

    Raises:
        UserError: it is no run, has no two towers that meet in one space, or others; or no sound checkpoint.
    """

    def wanted(objective: Objective) -> bool:
        return objective.joint is not None and other in (None, objective.joint[1])

    found = asked_of(target, seed, wanted)
    if not found:
        towers = f"towers of images and {other}" if other else "two towers"
        raise UserError(
            f"model {target}: has no {towers} that meet in one space; {protocol} judges runs of methods such as clip"
        )
    return [replace(each, views=replace(each.views, views=still_views(each.objective).views)) for each in found]


def still_views(objective: Objective) -> ViewSpec:
    """The two views of ``joint``, in its order, as samples are judged: nothing of them is drawn."""
    image, other = objective.views().views[:2]
    assert isinstance(image, ImageView)
    clip = None if image.clip is None else replace(image.clip, place="center", by_motion=False)
    return ViewSpec(views=(replace(center_view(objective.image_size), clip=clip), _still(other)))


def _still(view: View) -> View:
    if isinstance(view, TextView):
        return replace(view, line="first", partner=False)
    if isinstance(view, AudioView):
        return replace(view, place="center", partner=False, of=None if view.of is None else 0)
    return replace(view, of=0) if isinstance(view, DepthView) else view


def beside(views: ViewSpec, shards: ShardFolder) -> str:
    """The extension of what the second view shows.

    Raises:
        UserError: the shards have no such sounds.
    """
    other = views.views[1]
    assert isinstance(other, MemberView)
    return sound_extension(shards) if isinstance(other, AudioView) else other.extension


def embed_pairs(
    asked: Asked, shards: ShardFolder, ids: Int64[np.ndarray, " n"], world: World
) -> tuple[Side, Side] | None:
    """Both sides of some samples, on rank 0; None on the others. All ranks call it.

    Args:
        asked: whose towers.
        shards: where the samples are.
        ids: of them, ascending; each has an image and what the second view shows.
        world: this process.

    Raises:
        UserError: a sample is damaged.
    """
    objective, (_, kind) = asked.objective.to(world.device).eval(), asked.objective.joint or ("", "")
    text = asked.views.views[1] if kind == "text" else None
    shown = asked.views if text is None else replace(asked.views, views=asked.views.views[:1])
    tokens = load_tokenizer(text.tokenizer, text.context) if isinstance(text, TextView) else None
    parts = list[_Part]()
    with agreed(), torch.inference_mode():
        for places, images, others in _blocks(asked.name, shown, shards, ids, world):
            image = objective.embed_joint("image", images)
            if tokens is None:
                found = _Part(places, _rows(image), places, _rows(objective.embed_joint(kind, others)), None)
            else:
                owners, ids_of_tokens = _texts(tokens, shards, ids, places)
                found = _Part(places, _rows(image), owners, embed_texts(objective, ids_of_tokens, world), ids_of_tokens)
            parts.append(found)
    gathered = gather_objects_to_first(parts)
    if gathered is None:
        return None
    blocks = sorted((part for own in gathered for part in own), key=lambda part: int(part.places[0]))
    return _sides(blocks, asked.views, shards, ids)


class _Part(NamedTuple):
    """A block of samples, embedded."""

    places: Int64[np.ndarray, " b"]
    image: Float[Tensor, "b d"]
    owners: Int64[np.ndarray, " c"]
    other: Float[Tensor, "c d"]
    tokens: Int64[np.ndarray, "c context"] | None


def _blocks(
    name: str, views: ViewSpec, shards: ShardFolder, ids: Int64[np.ndarray, " n"], world: World
) -> Iterator[tuple[Int64[np.ndarray, " b"], Tensor, Tensor]]:
    """This rank's blocks: places of the samples, the first view and the last."""
    places = np.arange(len(ids))
    own = np.concatenate([places[:0], *np.split(places, range(BLOCK, len(ids), BLOCK))[world.rank :: world.size]])
    spec = LoaderSpec(shards=shards, views=views, ids=ids[own], batch_size=BLOCK, device=str(world.device))
    with (
        ProgressBar(f"embedding: {name}", len(own), transient=True, shown=world.rank == 0) as bar,
        closing(make_pass(spec)) as batches,
    ):
        done = 0
        for batch in batches:
            yield own[done : done + len(batch)], batch.views[0], batch.views[-1]
            done += len(batch)
            bar.advance(len(batch))


def _texts(
    tokens: Tokenizer, shards: ShardFolder, ids: Int64[np.ndarray, " n"], places: Int64[np.ndarray, " b"]
) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, "c context"]]:
    captions = read_captions(shards, ids[places])
    owners = np.repeat(places, [len(each) for each in captions])
    return owners, tokens([caption for each in captions for caption in each])


def embed_texts(objective: Objective, tokens: Int64[np.ndarray, "c context"], world: World) -> Float[Tensor, "c d"]:
    """Unit vectors of texts, on the CPU; without gradient if the caller says so."""
    parts = torch.from_numpy(tokens).split(BLOCK)
    return torch.cat([_rows(objective.embed_joint("text", part.to(world.device))) for part in parts])


def embed_images(
    asked: Asked, shards: ShardFolder, ids: Int64[np.ndarray, " n"], world: World
) -> Iterator[tuple[Int64[np.ndarray, " b"], Float[Tensor, "b d"]]]:
    """This rank's share of some samples: their places and the unit vectors of their images, on the CPU."""
    views = replace(asked.views, views=asked.views.views[:1])
    for places, images, _ in _blocks(asked.name, views, shards, ids, world):
        yield places, _rows(asked.objective.embed_joint("image", images))


def _rows(vectors: Tensor) -> Float[Tensor, "b d"]:
    return vectors.float().cpu()


def _sides(parts: list[_Part], views: ViewSpec, shards: ShardFolder, ids: Int64[np.ndarray, " n"]) -> tuple[Side, Side]:
    """All blocks, in the order of the samples, made one."""
    places, owners = (np.concatenate([getattr(part, name) for part in parts]) for name in ("places", "owners"))
    tokens = [part.tokens for part in parts if part.tokens is not None]
    if tokens:
        contents = np.unique(np.concatenate(tokens), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    else:
        contents = _numbers(shards.member(beside(views, shards))[ids])
    # Of a video the index has the first frame, which may be as black as that of others.
    own = places if views.images[0].clip is not None else _numbers(shards.rows(ids))
    image = Side(vectors=torch.cat([part.image for part in parts]), owners=places, contents=own)
    return image, Side(vectors=torch.cat([part.other for part in parts]), owners=owners, contents=contents)


def _numbers(rows: np.ndarray) -> Int64[np.ndarray, " n"]:
    """Equal ones where files have the same size and the same checksum."""
    both = rows["size"].astype(np.uint64) << np.uint64(32) | rows["crc32"].astype(np.uint64)
    return np.unique(both, return_inverse=True)[1].reshape(-1).astype(np.int64)
