"""What is told of a shard folder."""

from pathlib import Path

from eyespot.cluster.shard_summary import plural, summary
from eyespot.data_pipeline.shards.manifest import ImageStats, Manifest, Members


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
    assert "  .txt         of 5 of 9 images" in lines
    assert lines[-2].strip() == "left out     4 .txt (named in manifest.json):"
    assert lines[-1].strip() == r"4  its text is empty: 0.jpg\x1b[2J, 1.jpg\x1b[2J, 2.jpg\x1b[2J, ..."


def test_numbers_have_their_word():
    assert [plural(1, "class", "classes"), plural(2000, "class", "classes")] == ["1 class", "2,000 classes"]
