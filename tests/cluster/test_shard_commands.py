"""Views as a picture, packing in tasks, merging and adding, as a person types it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from in_pieces import in_pieces
from packed_parts import content, write_images
from PIL import Image

from eyespot.cluster.cli import main
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


def test_show_draws_the_recipes_views(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    words = ["shards", "show", str(digits), "--recipe", "mae_tiny", "--samples", "5"]
    out = tmp_path / "made" / "views.png"
    assert main([*words, "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(words) == 0
    assert f"{tmp_path / 'views.png'}: 5 images" in capsys.readouterr().out.replace("\n", " ")
    side, gap = 96, 4  # 16 pixels, enlarged
    picture = np.asarray(Image.open(out))
    assert picture.shape == (5 * (side + gap) - gap, (1 + 3) * (side + gap) - gap, 3)
    columns = [picture[:, begin : begin + side].tobytes() for begin in range(0, picture.shape[1], side + gap)]
    assert len(set(columns)) == 4, "the image and a view in each of three epochs"
    assert main([*words[:3], "--recipe", "mae_tinny"]) == 2
    assert "perhaps you meant mae_tiny" in capsys.readouterr().err
    assert main([*words, "--samples", "0"]) == 2


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert main(["shards", *map(str, words)]) == code
    found = capsys.readouterr()
    return found.err if code else found.out


def test_tasks_are_merged_and_images_added(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    source, root = write_images(tmp_path / "photos", 30), tmp_path / "shards"
    options = ["--max-samples", 8, "--workers", 1]
    said(capsys, "pack", source, tmp_path / "whole", *options)
    assert "task 0/2 is done, 17 of the source's images" in said(
        capsys, "pack", source, root, *options, "--task", "0/2"
    )
    assert "1 not finished (1)" in said(capsys, "merge", root, code=2)
    for name, value in {"ID": 1, "MIN": 0, "MAX": 1, "COUNT": 2}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    said(capsys, "pack", source, root, *options, "--task", "auto")
    assert "it holds parts that are not merged yet" in said(capsys, "info", root, code=2)
    text = said(capsys, "merge", root)
    assert "renamed, " in text and "photos, 32 images" in text
    assert content(root) == content(tmp_path / "whole")
    assert "write it as I/N" in said(capsys, "pack", source, root, "--task", "one", code=2)

    more = write_images(tmp_path / "more", 4, first=40)
    for path in sorted(source.rglob("2?.jpg"))[:3]:
        shutil.copy(path, more / "a" / f"again{path.name}")
    text = said(capsys, "add", root, more)
    assert "4 images added, from id 32 on; 3 images left out that lay there already" in text
    assert "added before" in said(capsys, "add", root, more)
    assert "no shards there to add to" in said(capsys, "add", tmp_path, more, code=2)


def test_what_is_added_is_shrunk_as_the_folder_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said(capsys, "pack", write_images(tmp_path / "photos", 9), tmp_path / "shards", "--resize", 6)
    said(capsys, "add", tmp_path / "shards", write_images(tmp_path / "more", 9, first=20))
    index = ShardFolder(tmp_path / "shards").index
    assert len(index) == 19 and set(np.minimum(index["height"], index["width"])) == {6}


def test_info_of_an_index_in_pieces_reads_none_of_it(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Of a billion samples that would be 28 GB."""
    folder = in_pieces(digits / "train", tmp_path / "pieces")
    for piece in (folder / "index").glob("0*.npy"):
        piece.unlink()
    found = [line.strip() for line in said(capsys, "info", folder).splitlines()]
    begin = next(number for number, line in enumerate(found) if "not counted" in line)
    assert found[begin + 1 : begin + 11] == [str(digit) for digit in range(10)]


def test_the_sources_of_a_mixture_are_verified_one_by_one(capsys: pytest.CaptureFixture[str]):
    assert "verify each of them: eyespot shards verify a; eyespot shards verify b" in said(
        capsys, "verify", "a:0.7,b:0.3", code=2
    )
