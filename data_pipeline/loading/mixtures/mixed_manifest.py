"""The manifest of a mixture: what those of its sources say together, as the stream shows it."""

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TypeVar

import numpy as np

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.frames import Frames
from eyespot.data_pipeline.shards.manifest import MAX_SAMPLES, ImageStats, Manifest, Masks, Members, Shard, format_of
from eyespot.data_pipeline.shards.paged.shard_table import ShardTable, shard_dtype

T = TypeVar("T", int, float)
Three = tuple[T, T, T]


def digest(*values: object) -> str:
    """sha256 of plain values."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def mixed_manifest(
    text: str, names: Sequence[str], parts: Sequence[Manifest], classes: list[str], shares: Sequence[float]
) -> Manifest:
    """Of all sources. Masks, frames and members are there where every source has them, and of one kind.

    Args:
        text: what the user wrote, for the error.
        names: of the sources.
        parts: their manifests.
        classes: of all.
        shares: of each in the stream, of sum 1.

    Raises:
        UserError: there are more samples than ids, or their images have different bands.
    """
    if odd := [(name, part.bands) for name, part in zip(names, parts, strict=True) if part.bands != parts[0].bands]:
        first, (other, bands) = parts[0].bands or "8-bit RGB", odd[0]
        raise UserError(
            f"data.shards {text[:200]}: source {names[0]} holds images of {first}, {other} of {bands or '8-bit RGB'};"
            " mix those that are alike"
        )
    if (count := sum(part.num_samples for part in parts)) > MAX_SAMPLES:
        raise UserError(
            f"data.shards {text[:200]}: {count:,} samples in all; ids have 32 bits, so at most {MAX_SAMPLES:,} can be"
            " mixed: leave sources out"
        )
    manifest = Manifest(
        name="+".join(names),
        num_samples=count,
        num_labeled=sum(part.num_labeled for part in parts),
        classes=classes,
        shards=[],
        image_stats=mixed_stats([part.image_stats for part in parts], shares),
        index_sha256=digest(*(part.index_sha256 for part in parts)),
        masks=None if masks_differ(names, parts) else _masks([part.masks for part in parts if part.masks]),
        frames=None if frames_differ(names, parts) else _frames([part.frames for part in parts if part.frames], shares),
        members={
            extension: _members([part.members[extension] for part in parts])
            for extension in parts[0].members
            if all(extension in part.members for part in parts)
        },
        bands=parts[0].bands,
        format=format_of(parts[0].bands),
    )
    manifest.shards = _shards(names, parts)
    return manifest


def _shards(names: Sequence[str], parts: Sequence[Manifest]) -> Sequence[Shard]:
    """All tars; as rows where there may be a hundred thousand, which as objects would take seconds."""
    if all(part.pieces is None for part in parts):
        return [
            Shard(tar=f"{name}-{number}", num_samples=tar.num_samples, bytes=tar.bytes, sha256=tar.sha256)
            for name, part in zip(names, parts, strict=True)
            for number, tar in enumerate(part.shards)
        ]
    tables = [ShardTable.of(part.shards).rows for part in parts]
    counts = zip(names, map(len, tables), strict=True)
    called = [f"{name}-{number}".encode() for name, count in counts for number in range(count)]
    found = np.empty(len(called), shard_dtype(max(map(len, called))))
    found["tar"] = called
    for column in ("num_samples", "bytes", "sha256"):
        found[column] = np.concatenate([rows[column] for rows in tables])
    return ShardTable(found)


def mixed_stats(parts: Sequence[ImageStats], shares: Sequence[float]) -> ImageStats:
    """Of the stream's images: mean and variance as those of a mixture of distributions, each with its share.

    The medians of height and width are the medians of the sources' medians, each with its share.
    """
    if len(parts) == 1:
        return parts[0]
    weights = np.array(shares)[:, None]
    means, stds = (np.array([getattr(part, name) for part in parts]) for name in ("mean", "std"))
    mean = (weights * means).sum(0)
    std = np.sqrt((weights * (stds**2 + (means - mean) ** 2)).sum(0))
    height, width = (_spread([getattr(part, name) for part in parts], shares) for name in ("height", "width"))
    return ImageStats(mean=tuple(mean.tolist()), std=tuple(std.tolist()), height=height, width=width)


def masks_differ(names: Sequence[str], parts: Sequence[Manifest]) -> str:
    """Why the sources have no masks together, in words; empty = they have."""
    if lacking := [name for name, part in zip(names, parts, strict=True) if part.masks is None]:
        return f"source {lacking[0]} has no segmentation masks; leave it out, or pack its images with theirs"
    ignored = {part.masks.ignored for part in parts if part.masks}
    values = " and ".join(map(str, sorted(ignored)))
    return f"the masks of its sources ignore the values {values}; pack them with one --mask-ignored" * (
        len(ignored) > 1
    )


def frames_differ(names: Sequence[str], parts: Sequence[Manifest]) -> str:
    """Why the sources have no clips together, in words; empty = they have."""
    if lacking := [name for name, part in zip(names, parts, strict=True) if part.frames is None]:
        return f"source {lacking[0]} has no frames, each of its samples is one image; leave it out, or pack its videos"
    streams = {part.frames.streams for part in parts if part.frames}
    return "the videos of its sources have different streams; mix those of the same cameras" * (len(streams) > 1)


def _masks(parts: Sequence[Masks]) -> Masks:
    return Masks(
        num_masks=sum(part.num_masks for part in parts),
        ignored=parts[0].ignored,
        pixels=[sum(counts) for counts in zip_longest(*(part.pixels for part in parts), fillvalue=0)],
        sha256=digest(*(part.sha256 for part in parts)),
    )


def _frames(parts: Sequence[Frames], shares: Sequence[float]) -> Frames:
    def joined(of: Callable[[Frames], str]) -> str:
        return digest(*map(of, parts))

    have_masks = all(part.masks_sha256 for part in parts)
    return Frames(
        num_frames=sum(part.num_frames for part in parts),
        streams=parts[0].streams,
        rate=_spread([part.rate for part in parts], shares),
        count=_spread([part.count for part in parts], shares),
        frames_sha256=joined(lambda part: part.frames_sha256),
        clips_sha256=joined(lambda part: part.clips_sha256),
        motion_sha256=joined(lambda part: part.motion_sha256),
        masks_sha256=joined(lambda part: part.masks_sha256) if have_masks else "",
    )


def _members(parts: Sequence[Members]) -> Members:
    return Members(
        count=sum(part.count for part in parts),
        sha256=digest(*(part.sha256 for part in parts)),
        num_left_out=sum(part.num_left_out for part in parts),
    )


def _spread(parts: "Sequence[Three[T]]", shares: Sequence[float]) -> "Three[T]":
    """Minimum, median and maximum of what the sources' are of."""
    medians = sorted((part[1], share) for part, share in zip(parts, shares, strict=True))
    reached = np.cumsum([share for _, share in medians])
    middle = medians[min(int(np.searchsorted(reached, reached[-1] / 2)), len(medians) - 1)][0]
    return min(part[0] for part in parts), middle, max(part[2] for part in parts)
