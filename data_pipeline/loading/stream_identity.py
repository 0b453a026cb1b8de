"""What tells one stream of samples from another, a few integers in every loader's state."""

import json
import zlib

import numpy as np
from jaxtyping import Int64

from eyespot.data_pipeline.augment.views import CLIP_TOKENIZER, ViewSpec
from eyespot.data_pipeline.loading.jobs import checksum_of_labeled
from eyespot.data_pipeline.loading.members.tokenizer import tokenizer_digests
from eyespot.data_pipeline.loading.sample_files import SampleFiles
from eyespot.data_pipeline.shards.manifest import Manifest

Ids = Int64[np.ndarray, " n"]


def data_checksum(manifest: Manifest, files: SampleFiles, ids: Ids | None, labeled: Ids | None) -> int:
    """Of the samples that are seen, of their files, and of the labels that are shown.

    Args:
        manifest: of the shards.
        files: what views need of each sample.
        ids: the samples, in their order; None = all.
        labeled: the samples whose labels are shown, ascending; None = all.
    """
    checksum = zlib.crc32("".join([manifest.index_sha256, *files.identity()]).encode())
    if ids is not None:
        checksum = zlib.crc32(ids.tobytes(), checksum)
    return checksum if labeled is None else checksum_of_labeled(labeled, manifest.num_samples, checksum)


def tokenizer_checksum(views: ViewSpec) -> dict[str, int]:
    """Of the tokenizers of captions; empty where no view has any."""
    if not (digests := tokenizer_digests(views)):
        return {}
    known = {name if name == CLIP_TOKENIZER else digest: digest for name, digest in digests.items()}  # files move
    return {"tokenizer": zlib.crc32(json.dumps(known, sort_keys=True).encode())}
