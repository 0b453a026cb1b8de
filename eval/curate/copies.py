"""``eyespot curate duplicates`` and ``leaks``: samples that show what another one shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.terminal import one_line
from eyespot.eval.curate.curation import Encoder, Question, data_told, write_answer
from eyespot.eval.curate.dropping import Dropped, drop_duplicates, drop_leaks, preferred
from eyespot.eval.curate.matches import (
    Matches,
    Reason,
    Side,
    byte_matches,
    feature_matches,
    joined,
    picture_matches,
)
from eyespot.eval.curate.picture_hashes import picture_hashes
from eyespot.pretrain.distributed.collectives import agreed


@dataclass(kw_only=True, slots=True)
class Likeness:
    """When two images count as one."""

    bits: int | None
    """Of 64 of the perceptual hash that may differ; None = hashes are not looked at."""
    correlation: float
    """Of the thumbnails, at least."""
    mirrored: bool
    cosine: float
    """Of the features, at least."""

    def told(self) -> dict[str, Any]:
        """For the settings."""
        return {name: getattr(self, name) for name in ("bits", "correlation", "mirrored", "cosine")}


@dataclass(kw_only=True, slots=True)
class Copies:
    """What was found."""

    left: Side
    right: Side
    """The same as left, of duplicates."""
    dropped: Dropped
    exact: bool
    """Whether features were compared with all others."""


def find_copies(
    question: Question, likeness: Likeness, encoder: Encoder | None, held_out: ShardFolder | None
) -> Copies:
    """The samples to drop, written down. All ranks call it.

    Args:
        question: of which samples.
        likeness: when two count as one.
        encoder: whose features are compared, too; None = none.
        held_out: whose samples' copies are looked for; None = duplicates within the samples themselves.

    Raises:
        UserError: a sample is damaged, nothing would be left, or the folders cannot be written.
    """
    world = question.world
    left = Side(shards=question.shards, ids=question.start)
    if held_out is None:
        left.ids = preferred(question.shards, question.start)
    right = None if held_out is None else Side(shards=held_out, ids=np.arange(held_out.manifest.num_samples))
    sides = [left] if right is None else [left, right]
    found, exact = [byte_matches(left, right, world)], True
    if likeness.bits is not None:
        cache = question.cache or question.out
        pictures = [picture_hashes(side.shards, side.ids, cache, world) for side in sides]
        one, other = pictures[0], None if right is None else pictures[1]
        known: dict[str, Any] = {"bits": likeness.bits, "least": likeness.correlation, "mirrored": likeness.mirrored}
        found.append(picture_matches(one, other, **known, world=world))
    if encoder is not None:
        rows = [encoder.rows(side.shards, side.ids, world) for side in sides]
        bank = None if right is None else rows[1]
        more, exact = feature_matches(rows[0], bank, cosine=likeness.cosine, seed=question.seed, world=world)
        found.append(more)
    matches: Matches = joined(found)
    dropped = drop_duplicates(matches) if right is None else drop_leaks(matches)
    copies = Copies(left=left, right=right or left, dropped=dropped, exact=exact)
    with agreed():
        if world.rank == 0:
            told: dict[str, Any] = {} if encoder is None else {"encoder": encoder.told(question.shards)}
            told |= {"features_compared": "all with all" if exact else "in cells of k-means"} if encoder else {}
            if held_out is not None:
                told["held_out"] = data_told(held_out) | {"with_copies": len(np.unique(dropped.for_whom))}
            kept = np.sort(left.ids[dropped.stays(len(left.ids))])
            write_answer(question, kept, dropped=dropped.counts(), told=told, table=(_HEADER, table_of(copies)))
    return copies


_HEADER = ("sample", "reason", "score", "copy_of", "tar", "offset", "class", "copy_tar", "copy_offset", "copy_class")


def table_of(copies: Copies) -> list[list[Any]]:
    """A row for each dropped sample: where it lies, and for whose sake it goes."""
    dropped = copies.dropped
    places, others = _places(copies.left, dropped.places), _places(copies.right, dropped.for_whom)
    rows = []
    for own, other, reason, score in zip(places, others, dropped.reason.tolist(), dropped.score.tolist(), strict=True):
        rows.append([own[0], Reason(reason).title, f"{score:.6g}", other[0], *own[1:], *other[1:]])
    return sorted(rows, key=lambda row: row[0])


def _places(side: Side, places: np.ndarray) -> Sequence[tuple[int, str, int, str]]:
    """Id, tar, offset and class of samples."""
    manifest, ids = side.shards.manifest, side.ids[places]
    rows = side.shards.index[ids]
    classes = [manifest.classes[label] if label >= 0 else "" for label in rows["label"].tolist()]
    tars = [manifest.shards[tar].tar for tar in rows["tar"].tolist()]
    return list(zip(ids.tolist(), tars, rows["offset"].tolist(), classes, strict=True))


def leak_lines(copies: Copies, most: int) -> list[str]:
    """Leaks for the terminal, one by one."""
    lines = []
    for row in table_of(copies)[:most]:
        sample, reason, _, copy_of, tar, _, name, _, _, copy_name = row
        said = f"  {sample:>9} ({tar}{f', {name}' if name else ''}): {reason}, held-out sample {copy_of}"
        lines.append(one_line(said + (f" ({copy_name})" if copy_name and copy_name != name else "")))
    return lines
