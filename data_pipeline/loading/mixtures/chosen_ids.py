"""Files of sample ids, one a line: what ``--data.ids`` takes, and ``eyespot curate`` writes.

An id is a place in one index, and means another image in another. Beside the ids that a curation has left lies of which
shards they are; those are held against the shards that they are used with.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline import foreign_json
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.manifest import Manifest
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

PROVENANCE = "provenance.json"
LARGEST_PROVENANCE = 2**24
Ids = Int64[np.ndarray, " n"]


def read_ids(field: str, path: Path, shards: ShardFolder) -> Ids:
    """Sample ids that a file names, one a line, in its order.

    Args:
        field: how an error calls it.
        path: the file.
        shards: whose samples they are.

    Raises:
        UserError: it cannot be read; or names no samples, one twice, or one that is not there; or was chosen from
            other shards.
    """
    try:
        content = foreign_json.read_bytes(path)
        ids = np.array([int(line) for line in content.decode("utf-8-sig").split()], np.int64)
    except foreign_json.ForeignJsonError as error:
        raise UserError(f"{field}: {error.why}; write one id a line") from error
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"{field}: cannot be read as one id a line ({error})") from error
    last = shards.manifest.num_samples - 1
    if not len(ids):
        raise UserError(f"{field}: names no samples; write different ids from 0 to {last}, at least one")
    ascending = np.sort(ids)
    beyond = ascending[(ascending < 0) | (ascending > last)]
    if len(beyond):
        raise UserError(
            f"{field}: names {beyond[0]}, and the samples of {shards.path} are 0 to {last}; name these, or the shards"
            " that the ids are of"
        )
    if len(twice := ascending[1:][ascending[1:] == ascending[:-1]]):
        raise UserError(f"{field}: must name different samples, and names {twice[0]} twice; leave one out")
    _check_provenance(field, path, content, shards)
    return ids


def _check_provenance(field: str, path: Path, content: bytes, shards: ShardFolder) -> None:
    """Raises a UserError where a curation chose them from shards of another index."""
    told: Any = None
    with suppress(OSError, foreign_json.ForeignJsonError):
        told = foreign_json.read(path.parent / PROVENANCE, dict, LARGEST_PROVENANCE)
    if not isinstance(told, dict) or told.get("ids_sha256") != hashlib.sha256(content).hexdigest():
        return  # there is none, or it is of other ids
    chosen_from, first = told.get("shards"), shards.sources[0]  # of a mixture ids begin with the first source's
    if not isinstance(chosen_from, dict) or chosen_from.get("index_sha256") == first.manifest.index_sha256:
        return
    if chosen_from.get("manifest_sha256") in {first.manifest_sha256, *_before(first.manifest)}:
        return
    raise UserError(
        f"{field}: was chosen from other shards ({str(chosen_from.get('path'))[:200]}, says its {PROVENANCE}) than"
        f" {first.path}, where ids name other images; choose anew from these: eyespot curate"
    )


def _before(manifest: Manifest) -> set[object]:
    """sha256 of the manifests that the folder had before images were added: the ids from then are still good."""
    added = manifest.packing.get("added")
    return {one.get("base") for one in added if isinstance(one, dict)} if isinstance(added, list) else set()
