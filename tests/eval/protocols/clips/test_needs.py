"""What is said of shards before anybody judges by them."""

import pytest
from films import pack_films

from eyespot.data_pipeline.shards.shard_folder import ShardFolder
from eyespot.eval.protocols.clips.needs import lacking


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return ShardFolder(pack_films(tmp_path_factory.mktemp("films") / "shards", masks=False)).manifest


def test_shards_that_have_all_of_it(films):
    assert lacking("action", films) == lacking("order", films) == ""


def test_what_is_missing_is_named(films, digits):
    images = ShardFolder(digits / "test").manifest
    for protocol in ("action", "alignment", "order"):
        assert lacking(protocol, images).startswith("have no frames; pack videos")
    assert "a video of 1 frame" in lacking("alignment", films)
    films.frames.streams = ("",)
    assert lacking("alignment", films).startswith("have one camera (stream), and alignment compares two; pack both:")
    films.num_labeled, films.frames.count = 0, (1, 1, 1)
    assert "have no labels" in lacking("action", films) and "a single frame" in lacking("order", films)
