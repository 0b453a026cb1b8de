"""Compares shard folders in an object store with their manifests, to the last byte; nothing is written to a disk.

What a tar's sha256 bears out was decoded and measured when it was packed or indexed: images are not decoded again, as
``verify`` of a folder on a disk does.
"""

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from eyespot.data_pipeline.errors import Outage, UserError
from eyespot.data_pipeline.patience import PATIENCE_SECONDS, Patience
from eyespot.data_pipeline.progress_bar import ProgressBar
from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.data_pipeline.shards.split_overlap import overlaps
from eyespot.data_pipeline.shards.verify import MAX_LINES, Verdict, manifest_problems
from eyespot.data_pipeline.stores.location import Address
from eyespot.data_pipeline.stores.open_store import open_store
from eyespot.data_pipeline.stores.presence import each_with

CHUNK = 8 << 20
"""Bytes that are asked for at once."""
AHEAD = 4
"""Requests in flight."""


def folders_in_store(place: Address) -> list[Address]:
    """Where shards lie, in order: what is named, and the folders below it, however deep; of what cannot be listed its
    splits.

    Raises:
        UserError: the store may not be listed, and no shard folder is where it was said.
        OSError: it cannot be listed now.
    """
    if place.scheme in ("http", "https", "hf"):  # they cannot be listed
        candidates = [place, *(place / split for split in ("test", "train", "val"))]
        there = list(each_with("manifest.json", candidates, Patience(PATIENCE_SECONDS)))
        return [folder for folder in there if isinstance(folder, Address)] or [_of_one(place)]
    found = {
        key.rpartition("/")[0]
        for key, _ in open_store(place).list()
        if key.rpartition("/")[2] == "manifest.json" or key.endswith(".tar")
    }
    return [place / folder if folder else place for folder in sorted(found)]


def _of_one(place: Address) -> Address:
    """Raises a UserError that says what is missing there."""
    ShardFolder.find(place)
    return place


def look_at_store(place: Address) -> Verdict:
    """As ``verify.look_at``, of an address: every byte is read and compared."""
    found = Verdict()
    try:
        found.folders = list(folders_in_store(place))
    except UserError as error:
        found.problems.append(str(error))
        return found
    except (OSError, Outage) as error:
        found.unreadable.append(_unreadable(place, error))
        return found
    if not found.folders:
        found.problems.append(f"{place}: no shards inside; upload what eyespot shards pack or index made")
    for folder in found.folders:
        try:
            problems = _problems(ShardFolder(folder))
        except UserError as error:
            problems = [str(error)]
        except (OSError, Outage) as error:
            found.unreadable.append(_unreadable(folder, error))
            continue
        found.problems += problems
        found.sound += [] if problems else [folder]
    try:
        found.notes += map(str, overlaps(found.sound))
    except (OSError, Outage) as error:
        found.unreadable.append(_unreadable(place, error))
    return found


def _unreadable(place: object, error: OSError | Outage) -> str:
    if isinstance(error, Outage):
        return str(error)
    return f"{place}: cannot be read ({error.strerror or error}); see to the store, and verify again"


def _problems(shards: ShardFolder) -> list[str]:
    """Of one folder, a line each."""
    manifest = shards.manifest
    _ = shards.index, shards.masks if manifest.masks else None
    for extension in manifest.members:
        shards.member(extension)
    if manifest.frames is not None:
        _ = shards.clips, shards.motion, shards.frame_masks if manifest.frames.masks_sha256 else None
    found = list(_strangers(shards)) + list(manifest_problems(shards))
    with ProgressBar(f"verifying {shards.path.name}", sum(shard.bytes for shard in manifest.shards)) as progress:
        changed = [number for number in range(len(manifest.shards)) if _wrong_tar(shards, number, found, progress)]
    return found + list(_changed_samples(shards, changed))


def _strangers(shards: ShardFolder) -> Iterator[str]:
    """Tars beside those of the manifest, where the store can be listed."""
    known = {shard.tar for shard in shards.manifest.shards}
    assert isinstance(shards.path, Address)
    if shards.path.scheme in ("http", "https", "hf"):
        return
    for key, _ in shards.store.list():
        if "/" not in key and key.endswith(".tar") and key not in known:
            yield f"{shards.path / key}: not in the manifest; take it away, or index the folder anew and upload that"


def _wrong_tar(shards: ShardFolder, number: int, found: list[str], progress: ProgressBar) -> bool:
    """Whether a tar is there, and its bytes are no longer those that were packed; what is wrong goes to ``found``."""
    shard, place, again = shards.manifest.shards[number], shards.tar_path(number), "upload it again"
    try:
        size = shards.store.stat(shard.tar).size
    except FileNotFoundError:
        found.append(f"{place}: missing; {again}")
        return False
    if size != shard.bytes:
        how = "truncated" if size < shard.bytes else "grown"
        found.append(f"{place}: {how}: {size} bytes where the manifest says {shard.bytes}; {again}")
        return False
    if _sha256(shards, number, progress) == shard.sha256:
        return False
    found.append(f"{place}: changed since it was packed (sha256 differs from the manifest's); {again}")
    return True


def _sha256(shards: ShardFolder, number: int, progress: ProgressBar) -> str:
    """Of all bytes of a tar, read some parts ahead."""
    digest, size = hashlib.sha256(), shards.manifest.shards[number].bytes
    starts = list(range(0, size, CHUNK))

    def part(start: int) -> bytes:
        return shards.read_tar(number, start, min(CHUNK, size - start))

    with ThreadPoolExecutor(AHEAD) as pool:
        flying = [pool.submit(part, start) for start in starts[:AHEAD]]
        for place in range(len(starts)):
            content = flying.pop(0).result()
            if place + AHEAD < len(starts):
                flying.append(pool.submit(part, starts[place + AHEAD]))
            digest.update(content)
            progress.advance(len(content))
    return digest.hexdigest()


def _changed_samples(shards: ShardFolder, tars: Sequence[int]) -> Iterator[str]:
    """Names the samples, or frames, of changed tars whose bytes are no longer what was packed."""
    rows, of = (shards.frames, "frame") if shards.manifest.frames else (shards.index, "sample")
    for number in tars:
        changed = (
            f"{shards.tar_path(number)}: {of} {row} (offset {rows['offset'][row]}) differs from what was packed"
            " (crc32); upload the tar again"
            for row in _changed_rows(shards, number, rows)
        )
        yield from islice(changed, MAX_LINES)


def _changed_rows(shards: ShardFolder, number: int, rows: np.ndarray) -> Iterator[int]:
    """Those of one tar whose files have another checksum, in the order of the tar; read in large parts."""
    own, size = np.flatnonzero(rows["tar"] == number), shards.manifest.shards[number].bytes
    start, content = 0, b""
    for row in own[np.argsort(rows["offset"][own], kind="stable")].tolist():
        first, length = int(rows["offset"][row]), int(rows["size"][row])
        if first + length > start + len(content):
            start, content = first, shards.read_tar(number, first, max(length, min(CHUNK, size - first)))
        if zlib.crc32(content[first - start : first - start + length]) != rows["crc32"][row]:
            yield row
