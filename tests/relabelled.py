"""Shards whose labels a test has changed."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def rewrite_labels(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the labels of one shard folder; its manifest agrees afterwards."""
    manifest = ShardFolder(folder).manifest
    index = np.array(ShardFolder(folder).index)
    index["label"] = change(index["label"])
    np.save(folder / "index.npy", index)
    manifest.index_sha256 = hashlib.sha256((folder / "index.npy").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(manifest.to_json())
