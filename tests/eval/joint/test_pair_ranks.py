"""Ranks, chance, false pairs and the area under the curve, each against a slow and obvious reference."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from eyespot.data_pipeline.augment.clip_frames import partner_ids
from eyespot.data_pipeline.errors import UserError
from eyespot.eval.joint import pair_ranks
from eyespot.eval.joint.pair_ranks import (
    Ranks,
    area,
    area_interval,
    false_partners,
    found_first,
    ranks,
    true_and_false,
)
from eyespot.eval.joint.towers import Side

SAMPLES = 23


def side(owners: np.ndarray, contents: np.ndarray, seed: int) -> Side:
    generator = torch.Generator().manual_seed(seed)
    vectors = normalize(torch.randn(len(owners), 4, generator=generator), dim=1)
    return Side(vectors=vectors, owners=owners, contents=contents)


@pytest.fixture
def sides() -> tuple[Side, Side]:
    """One to three captions a sample, some of them the same, and two images that are one."""
    owners = np.repeat(np.arange(SAMPLES), 1 + np.arange(SAMPLES) % 3)
    images = np.arange(SAMPLES)
    images[9] = images[4]
    captions = np.random.default_rng(1).integers(12, size=len(owners))
    _, captions = np.unique(captions, return_inverse=True)
    return side(np.arange(SAMPLES), np.unique(images, return_inverse=True)[1], 0), side(owners, captions, 1)


def belong(image: Side, other: Side) -> set[tuple[int, int]]:
    """Contents of images and captions that lie together in a sample."""
    rows = zip(other.owners.tolist(), other.contents.tolist(), strict=True)
    return {(int(image.contents[owner]), content) for owner, content in rows}


@pytest.mark.parametrize("image_asks", [True, False])
def test_ranks_are_those_of_a_sorted_list(sides, image_asks, monkeypatch):
    monkeypatch.setattr(pair_ranks, "TILE", 7)
    image, other = sides
    asking, answering = (image, other) if image_asks else (other, image)
    together = belong(image, other)
    found = ranks(image, other, image_asks=image_asks)
    for row, (vector, content) in enumerate(zip(asking.vectors.double(), asking.contents.tolist(), strict=True)):
        answers = []
        for answer, known in zip(answering.vectors.double(), answering.contents.tolist(), strict=True):
            right = ((content, known) if image_asks else (known, content)) in together
            answers.append((-float(vector @ answer), right))
        in_order = [right for _, right in sorted(answers)]
        assert found.first[row] == 1 + in_order.index(True) and found.num_right[row] == sum(in_order)
    shares = found_first(found, asking.owners, 5)
    for sample in range(SAMPLES):
        assert shares[sample] == pytest.approx(np.mean(found.first[asking.owners == sample] <= 5))


def test_where_all_is_the_same_nothing_is_found(sides):
    image, other = sides
    for each in sides:
        each.vectors = torch.ones_like(each.vectors) / 2
    found = ranks(image, other, image_asks=True)
    assert (found.first == 1 + len(other.owners) - found.num_right).all()
    true, false = true_and_false(image, other, np.roll(np.arange(SAMPLES), 1))
    assert not (true > false).any() and area(true, false) == 0.5


def test_chance_is_the_mean_over_all_orders():
    found = Ranks(first=np.ones(3, int), num_right=np.array([1, 2, 4]), num_answers=5)
    for k in (1, 2, 10):
        hits = [np.mean([min(order[:right]) < k for order in itertools.permutations(range(5))]) for right in (1, 2, 4)]
        assert found.by_chance(np.arange(3), k) == pytest.approx(np.mean(hits))
        several = (hits[0] + np.mean(hits[1:])) / 2
        assert found.by_chance(np.array([0, 1, 1]), k) == pytest.approx(several), "samples weigh alike, as in recall"


def test_a_false_pair_is_the_partner_unless_that_is_right(sides):
    image, other = sides
    together, ids = belong(image, other), np.arange(SAMPLES) * 3 + 1
    partners = false_partners(image, other, ids, 100, seed=5)
    drawn = partner_ids(5, np.zeros_like(ids), ids, 100, ids)
    firsts = [int(np.flatnonzero(other.owners == sample)[0]) for sample in range(SAMPLES)]
    kept = 0
    for sample, partner in enumerate(partners.tolist()):
        place = int(np.flatnonzero(ids == drawn[sample])[0])
        while (int(image.contents[sample]), int(other.contents[firsts[place]])) in together:
            place = (place + 1) % SAMPLES
        assert partner == place
        kept += ids[place] == drawn[sample]
    assert 0 < kept < SAMPLES
    true, false = true_and_false(image, other, partners)
    for sample in range(SAMPLES):
        for cosine, place in ((true, sample), (false, partners[sample])):
            expected = float(image.vectors[sample].double() @ other.vectors[firsts[place]].double())
            assert cosine[sample] == pytest.approx(expected * 1e7, abs=1)


def test_where_nothing_is_false_it_is_said(sides):
    image, other = sides
    other.contents = np.zeros_like(other.contents)
    with pytest.raises(UserError, match="is right for sample 7: none is false"):
        false_partners(image, other, np.arange(SAMPLES) + 7, 100, 0)


def test_the_area_is_the_share_of_all_pairs_in_order():
    generator = np.random.default_rng(3)
    true, false = generator.integers(2, 12, 40), generator.integers(0, 10, 40)
    slow = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in true for b in false])
    assert area(true, false) == pytest.approx(slow)
    low, high = area_interval(true, false)
    assert low < slow < high and high - low < 0.3
