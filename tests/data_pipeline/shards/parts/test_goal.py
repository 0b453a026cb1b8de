"""Packing a whole source: what counts as done, and in which order it comes to count."""

import shutil
from pathlib import Path

import pytest
from packed_parts import content, killed_at, write_images

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.shards.members.items import Source
from eyespot.data_pipeline.shards.pack import pack
from eyespot.data_pipeline.shards.parts.goal import Goal, manifest_folders
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


@pytest.mark.thorough
def test_a_pack_killed_before_any_rename_goes_on_and_train_comes_last(tmp_path: Path):
    source = write_images(tmp_path / "source", 20)

    options = {"workers": 1, "max_samples": 4, "holdout": 0.3}
    pack(str(source), tmp_path / "whole", **options)  # type: ignore[arg-type]
    for rename in range(1, 100, 13):
        root = tmp_path / f"killed-{rename}"
        if not killed_at(rename, pack, str(source), root, **options):
            break
        assert manifest_folders(root) in ([], [root / "test"], [root / "test", root / "train"])
        pack(str(source), root, **options)  # type: ignore[arg-type]
        assert content(root) == content(tmp_path / "whole")
    assert rename > 20


def test_what_is_finished(digits: Path, tmp_path: Path):
    found = Source(name="digits", splits={"test": [], "train": []})
    plan = ShardFolder(digits / "train").manifest.packing["plan"]
    assert sorted(Goal().finished(digits, found, plan) or {}) == ["test", "train"]
    with pytest.raises(UserError, match="holds shards of another source or other options"):
        Goal().finished(digits, found, "0" * 64)
    shutil.copytree(digits / "test", tmp_path / "test")
    assert Goal().finished(tmp_path, found, plan) is None and Goal().has_begun(tmp_path)
