"""What goes is close to what stays; of chains the ends stay; leaks keep their closest match."""

import numpy as np
import pytest

from eyespot.eval.curate.dropping import drop_duplicates, drop_leaks, preferred
from eyespot.eval.curate.matches import Matches, Reason, joined


def matches(*rows):
    return joined([Matches.of(np.array([a]), np.array([b]), reason, float(score)) for a, b, reason, score in rows])


def test_of_a_chain_the_ends_stay():
    found = drop_duplicates(matches((0, 1, Reason.PICTURE, 3), (1, 2, Reason.PICTURE, 3), (2, 3, Reason.PICTURE, 1)))
    assert found.places.tolist() == [1, 3] and found.for_whom.tolist() == [0, 2]
    assert found.stays(5).tolist() == [True, False, True, False, True] and found.counts() == {"picture": 2}


def test_the_same_bytes_share_a_fate():
    found = drop_duplicates(matches((1, 2, Reason.BYTES, 0), (0, 1, Reason.FEATURES, 0.98)))
    assert found.places.tolist() == [1, 2] and found.for_whom.tolist() == [0, 0]
    assert found.counts() == {"features": 2} and found.score.tolist() == pytest.approx([0.98, 0.98])


@pytest.mark.parametrize("seed", range(5))
def test_every_dropped_one_matches_one_that_stays_and_no_two_that_stay_match(seed):
    rng = np.random.default_rng(seed)
    left, right = np.sort(rng.integers(0, 60, (120, 2)), axis=1).T
    pairs = {(a, b) for a, b in zip(left.tolist(), right.tolist(), strict=True) if a < b}
    found = drop_duplicates(matches(*((a, b, Reason.PICTURE, 1) for a, b in pairs)))
    stays = found.stays(60)
    assert not any(stays[a] and stays[b] for a, b in pairs)
    for place, owner in zip(found.places.tolist(), found.for_whom.tolist(), strict=True):
        assert stays[owner] and (owner, place) in pairs
    assert (np.diff(found.places) > 0).all()


def test_leaks_name_the_closest():
    found = drop_leaks(
        matches(
            (4, 9, Reason.PICTURE, 5),
            (4, 2, Reason.PICTURE, 1),
            (7, 1, Reason.FEATURES, 0.97),
            (7, 3, Reason.FEATURES, 0.99),
            (8, 1, Reason.FEATURES, 0.99),
            (8, 6, Reason.BYTES, 0),
        )
    )
    assert found.places.tolist() == [4, 7, 8] and found.for_whom.tolist() == [2, 3, 6]
    assert found.counts() == {"bytes": 1, "picture": 1, "features": 1}
    assert len(drop_duplicates(matches()).places) == len(drop_leaks(matches()).places) == 0


def test_larger_images_are_preferred(planted):
    shards, names, _ = planted
    order = preferred(shards, np.arange(shards.manifest.num_samples)).tolist()
    assert order.index(names["0010"]) < order.index(names["smaller-0010"])
    assert order.index(names["0005"]) < order.index(names["jpeg-0005"])
