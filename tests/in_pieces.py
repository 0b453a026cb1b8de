"""Shard folders of format 2, small."""

import shutil
from pathlib import Path

from eyespot.data_pipeline.shards.paged.piece_writer import Cut, write_index
from eyespot.data_pipeline.shards.shard_folder import ShardFolder

SMALL = Cut(above=0, piece_rows=500, page_rows=64)
"""1,438 digits are three pieces, of 8, 8 and 7 pages."""


def in_pieces(shards: Path, folder: Path, cut: Cut = SMALL) -> Path:
    """A copy of a shard folder whose index is in pieces."""
    found = ShardFolder(shards)
    shutil.copytree(shards, folder)
    (folder / "manifest.json").unlink()
    manifest = write_index(folder, found.manifest, found.index, cut)
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder
