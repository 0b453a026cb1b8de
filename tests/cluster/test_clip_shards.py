"""``eyespot shards`` of videos and clips, as a user types it."""

from pathlib import Path

import numpy as np
import pytest
from moving_pictures import film, wandering, write_film

from eyespot.cluster.cli import main
from eyespot.cluster.clip_shards import summary
from eyespot.data_pipeline.shards.manifest import ImageStats, Manifest, Members
from eyespot.data_pipeline.shards.shard_folder import ShardFolder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A film in which a square wanders, and one in which nothing does, as shards."""
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "moving.mp4", wandering(25, speed=(2.0, 1.0))[0], rate=24)
    write_film(folder / "still.mkv", np.repeat(wandering(1)[0], 25, 0), rate=24)
    assert main(["shards", "pack", str(folder), str(folder / "shards"), "--fps", "24"]) == 0
    return folder / "shards"


def test_motion_writes_the_same_frames_with_masks(clips, tmp_path, capsys):
    assert main(["shards", "motion", str(clips), str(tmp_path / "motion")]) == 0
    assert "-motion, 2 " in capsys.readouterr().out
    before, after = ShardFolder(clips), ShardFolder(tmp_path / "motion")
    assert sorted(after.frames["crc32"].tolist()) == sorted(before.frames["crc32"].tolist())
    assert (after.frame_masks["size"] > 0).all() and after.manifest.masks is not None
    assert after.manifest.masks.ignored == 255 and len(after.manifest.masks.pixels) == 2
    shares = np.array(after.manifest.masks.pixels) / (50 * 160 * 120)
    assert 0.02 < shares[1] < 0.06 and 0.3 < shares[0] < 0.5  # the square is a twelfth of one film of the two


def test_tracks_writes_two_patches_of_what_moves(clips, tmp_path, capsys):
    assert main(["shards", "tracks", str(clips), str(tmp_path / "tracks"), "--frames", "12"]) == 0
    shards = ShardFolder(tmp_path / "tracks")
    assert shards.manifest.num_samples == 2 and shards.clips["count"].tolist() == [[2], [2]]
    assert shards.clips["rate"].tolist() == pytest.approx(np.full((2, 1), 24 / 11))
    assert set(shards.index["height"].tolist()) == {60} == set(shards.index["width"].tolist())
    assert {bad["reason"] for bad in shards.manifest.quarantined} == {"nothing moves by itself"}
    assert "nothing moves by itself" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pack", "SRC", "DST", "--fps", "0"], "fps"),
        (["pack", "SRC", "DST", "--fps", "8"], "no such file or folder"),
        (["tracks", "SRC", "DST", "--frames", "1"], "frames 1"),
        (["motion", "SRC", "DST"], "no shard folder"),
    ],
)
def test_wrong_input_is_one_line(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["shards", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_folder_of_videos_needs_no_flag(tmp_path, capsys):
    (tmp_path / "films").mkdir()
    film(tmp_path / "films" / "a.mp4", 4)
    assert main(["shards", "pack", str(tmp_path / "films"), str(tmp_path / "out")]) == 0
    assert ShardFolder(tmp_path / "out").clips["count"].tolist() == [[4]]
    for command in ("motion", "tracks"):
        with pytest.raises(SystemExit):
            main(["shards", command, "--help"])
    assert "eyespot[video]" in capsys.readouterr().out


def test_members_are_counted_and_what_is_left_out_is_named():
    stats = ImageStats(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), height=(8, 8, 8), width=(8, 8, 8))
    bad = [{"source": f"{number}.jpg\x1b[2J", "reason": "its text is empty"} for number in range(4)]
    members = {"txt": Members(count=5, sha256="", num_left_out=4, left_out=bad)}
    manifest = Manifest(
        name="set",
        num_samples=9,
        num_labeled=0,
        classes=[],
        shards=[],
        image_stats=stats,
        index_sha256="",
        members=members,
    )
    lines = summary(Path("set"), manifest).splitlines()
    assert "  captions     of 5 of 9 images (.txt)" in lines
    assert lines[-2].strip() == "left out     4 captions (named in manifest.json):"
    assert lines[-1].strip() == r"4  its text is empty: 0.jpg\x1b[2J, 1.jpg\x1b[2J, 2.jpg\x1b[2J, ..."
