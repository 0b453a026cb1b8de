"""The clips of shard folders, as what other shards are made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.archives import Place
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.sources import how_to_shard
from eyespot.data_pipeline.stores.location import check_read_on_disk

SPLITS = ("train", "test", "val")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredClip:
    """One sample of a shard folder, and where its frames lie."""

    name: str
    """Of the data set and the sample's id."""
    label: int
    rate: float
    """Frames per second; 0 = unknown."""
    streams: dict[str, list[Place]]
    """Image files in the order of time, by camera."""


def clip_folders(path: Path) -> dict[str, ShardFolder]:
    """The shard folders at a path by split; the only key is "" where it is one itself.

    Raises:
        UserError: there are none, or they hold images and not clips.
    """
    check_read_on_disk("shards", path)
    if (path / "manifest.json").exists():
        found = {"": ShardFolder(path)}
    else:
        found = {name: ShardFolder(path / name) for name in SPLITS if (path / name / "manifest.json").exists()}
    if not found:
        raise UserError(f"shards {path}: no shard folder; {how_to_shard(path)}")
    for folder in found.values():
        _ = folder.clips
        folder.check_tars()
    return found


def clips_of(folder: ShardFolder) -> Iterator[StoredClip]:
    """All samples of a shard folder in the order of their ids."""
    frames, labels = folder.frames, folder.index["label"].tolist()
    streams = folder.manifest.frames.streams if folder.manifest.frames else ()
    paths = [str(folder.local_tar(number)) for number in range(len(folder.manifest.shards))]
    for number, (clips, label) in enumerate(zip(folder.clips, labels, strict=True)):
        places: dict[str, list[Place]] = {}
        for stream, (first, count, _) in zip(streams, clips.tolist(), strict=True):
            rows = frames[first : first + count]
            columns = (rows[name].tolist() for name in ("tar", "offset", "size"))
            places[stream] = [Place(paths[tar], offset, size) for tar, offset, size in zip(*columns, strict=True)]
        name = f"{folder.manifest.name}/{number:08d}"
        yield StoredClip(name=name, label=label, rate=float(clips["rate"][0]), streams=places)
